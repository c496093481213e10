"""What solvers leave as what is kept, in rating units, and the way back.

A `Posterior` is made of the state of an alternating solver or of the weights of a
network, and a state to start from or weights are made of a `Posterior`.
"""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from .._data.units import Units
from .conditional import Ratings, Shown, Unobserved
from .feature_weights import Block, Weights
from .posterior import (
    COUNTERPARTS,
    DESCRIBED,
    FactorSums,
    FeatureWeights,
    Posterior,
    Rows,
)
from .state import INITIAL_CONCENTRATION, Problem, Side, State
from .symmetric import inverse

# Small multiples of the identity, which keep covariances invertible: of coefficients,
# and of rows and weights.
MIN_COEF_VARIANCE, MIN_VARIANCE = 1e-9, 1e-6

# A coefficient of a standardised feature beyond this is one of a feature whose unit has
# changed since, which says nothing of the next.
MAX_COEF = 1e6


def array(tensor: Tensor) -> np.ndarray:
    """A tensor of any device as an array."""
    return tensor.cpu().numpy()


def in_rating_units(
    state: State,
    units: Units,
    problem: Problem,
    *,
    knows_variance: bool,
    learns_prior: bool = True,
    last: Posterior | None = None,
) -> Posterior:
    """The state of an alternating solver in rating units, as NumPy arrays.

    A row of which nothing is known is predicted as its prior has it where the solver
    `learns_prior`, else as the mean of all rows. After further ratings it stays what
    it was in the `last` fit.
    """
    layout = problem.layout
    scale = units.row_scale(layout.n_factors, layout.row_size)
    square = np.outer(scale, scale)

    def table(tensor: Tensor) -> np.ndarray:
        return array(tensor).astype(scale.dtype, copy=False)

    def feature_weights(block: Block, weights: Weights) -> FeatureWeights:
        C = weights.covariance
        C = np.zeros_like(square) if C is None else table(C) * square
        spread = torch.cov(block.times(weights.mean).T, correction=0)
        return FeatureWeights(
            mean=table(weights.mean)[None] * scale,
            covariance=C[None],
            prior_covariance=table(inverse(weights.precision)) * square,
            spread=(table(spread).reshape(square.shape) * square + C)[None],
            column_mean=table(block.mean),
            scale=block.scale,
        )

    def affinity(ratings: Ratings, side: Side, apart: Tensor) -> np.ndarray:
        if ratings.unobserved is not None:
            return np.zeros(len(ratings))
        sums = ratings.sum(apart, ratings.weight)
        k = layout.n_factors
        total = (sums[:, :k] * side.mean[:, :k]).sum(1) + sums[:, k:].sum(1)
        return array(total.double()) * units.scale

    def typical(side: Side, known: Rows | None) -> Tensor:
        """The row to predict with if nothing is known of it, less its prior mean."""
        if known is not None:
            return torch.from_numpy(known.typical[-1] / scale).to(side.mean)
        if learns_prior:
            return torch.zeros_like(side.prior_mean)
        return side.own.mean(0) - side.prior_mean

    def apart(side: Side, ratings: Ratings, typical: Tensor) -> Tensor:
        """What sets rows apart, but for what describes them."""
        rest = side.mean - side.prior_mean - typical
        for block, w in zip(ratings.features, side.weights, strict=True):
            if block.name == DESCRIBED:
                rest = rest - block.times(w.mean)
        return rest

    def rows(
        side: Side, ratings: Ratings, typical: Tensor, others_apart: Tensor
    ) -> Rows:
        covariance = None
        if side.covariance is not None:
            covariance = table(layout.unpack(side.covariance))[None] * square
        own = table(inverse(side.prior_precision))[None] * square
        weights = {
            block.name: feature_weights(block, w)
            for block, w in zip(ratings.features, side.weights, strict=True)
        }
        mean = table(side.mean)[None] * scale
        return Rows(
            mean=mean,
            covariance=covariance,
            prior_mean=(table(side.prior_mean) * scale)[None, None],
            prior_covariance=(own + sum(w.spread for w in weights.values()))[:, None],
            typical=table(typical)[None] * scale,
            own_covariance=own,
            count=array(ratings.count.double()),
            dispersion=array(side.relative_variance.double()),
            concentration=side.concentration,
            affinity=affinity(ratings, side, others_apart),
            factor_sums=FactorSums.of(mean[..., : layout.n_factors]),
            weights=weights,
        )

    any_user = typical(state.users, None if last is None else last.users)
    any_item = typical(state.items, None if last is None else last.items)
    users_apart = apart(state.users, problem.users, any_user)
    items_apart = apart(state.items, problem.items, any_item)
    coef_scale = units.scale / units.feature_scale
    coef = array(state.coef.double()) * coef_scale
    root = np.zeros((len(coef), len(coef)))
    if state.coef_factor is not None:
        root = array(state.coef_factor.double()) * units.scale
    return Posterior(
        users=rows(state.users, problem.users, any_user, items_apart),
        items=rows(state.items, problem.items, any_item, users_apart),
        n_factors=layout.n_factors,
        centre=units.centre,
        coef=coef,
        coef_covariance=root.T @ root,
        noise_variance=units.scale**2 * state.noise_variance,
        knows_variance=knows_variance,
        units=units,
    )


def as_state(
    last: Posterior,
    problem: Problem,
    units: Units,
    users: np.ndarray,
    items: np.ndarray,
    columns: dict[str, np.ndarray],
    exponent: float = 0.0,
) -> State:
    """A state to start from; new rows start at their prior.

    `users` and `items` are the row numbers in `last` of the rows of the problem, and
    `columns` those of what describes a "user" and an "item". -1 is what is new. The
    prior of a row is as firm as its count to the power of `exponent`.

    Raises
    ------
    ValueError
        If `last` has other factors or biases than the problem.
    """
    layout = problem.layout
    if (last.n_factors, last.row_size) != (layout.n_factors, layout.row_size):
        raise ValueError(
            f"The last fit, which is to be continued, had n_factors={last.n_factors} "
            f"and biased={last.row_size > last.n_factors}, but now n_factors="
            f"{layout.n_factors} and biased={layout.biased}. Keep both, or fit anew "
            "without warm_start."
        )
    scale = units.row_scale(layout.n_factors, layout.row_size)
    square = np.outer(scale, scale)
    tensor = partial(
        torch.as_tensor, dtype=problem.target.dtype, device=problem.target.device
    )

    def weights(block: Block, rows: Rows, where: np.ndarray) -> Weights:
        known = rows.weights[block.name]
        # The same weights for entries that are scaled otherwise.
        ratio = known.scale / block.scale if block.scale else 0.0
        mean = known.mean[-1][where] * (where >= 0)[:, None] * ratio
        covariance = known.prior_covariance * max(ratio, 1e-3) ** 2 / square
        return Weights(tensor(mean / scale), inverse(tensor(covariance)))

    def side(noun: str, where: np.ndarray, others: np.ndarray) -> Side:
        rows, ratings = getattr(last, noun + "s"), getattr(problem, noun + "s")
        *_, mean = rows.means(where)
        # A new row starts at its prior.
        mean[where < 0] -= rows.typical[-1]
        *_, covariance = rows.covariances(where)
        if COUNTERPARTS in rows.weights and not ratings.features:
            new = where < 0
            known = rows.weights[COUNTERPARTS]
            if new.any():
                met = _counterparts(ratings, others, known)[new]
                shift, spread = known.said_of(met)
                mean[new] += shift[-1]
                covariance[new] += spread[-1] - known.spread[-1]
        if exponent:
            count = array(ratings.count.double())[where < 0]
            covariance[where < 0] /= (count**exponent)[:, None, None]
        alpha, shape = rows.relative_precisions(where)
        start = Side.at(
            tensor(mean / scale),
            layout,
            covariance=layout.pack(tensor(covariance / square)),
            prior_mean=tensor(rows.prior_mean[-1, -1] / scale),
            prior_precision=inverse(tensor(rows.own_covariance[-1] / square)),
            relative_precision=tensor(alpha),
            relative_shape=tensor(shape),
            concentration=rows.concentration,
        )
        places = {DESCRIBED: columns.get(noun)}
        if COUNTERPARTS in rows.weights:
            places[COUNTERPARTS] = rows.weights[COUNTERPARTS].columns_of(others)
        return start.with_weights(
            ratings,
            [
                weights(block, rows, places[block.name])
                if block.name in rows.weights
                else Weights.at_zero(block, layout.row_size)
                for block in ratings.features
            ],
        )

    feature_scale = np.nan_to_num(units.feature_scale, posinf=0)
    coef_scale = feature_scale / units.scale
    ratio = feature_scale / last.units.feature_scale / units.scale
    with np.errstate(over="ignore", invalid="ignore"):
        coef = last.coef * coef_scale
        coef_covariance = last.coef_covariance * ratio * ratio[:, None]
        known = np.abs(coef) < MAX_COEF
        known &= coef_covariance.diagonal() < MAX_COEF**2
    coef = np.where(known, coef, 0)
    coef_covariance = np.where(np.outer(known, known), coef_covariance, 0)
    # Coefficients of constant features are known to be zero, nearly.
    coef_covariance += MIN_COEF_VARIANCE * np.eye(len(coef_scale))
    return State(
        users=side("user", users, items),
        items=side("item", items, users),
        coef=tensor(coef),
        coef_factor=tensor(np.linalg.cholesky(coef_covariance).T),
        noise_precision=units.scale**2 / np.nan_to_num(last.noise_variance, nan=1.0),
    )


def with_unobserved_pairs(
    problem: Problem,
    weight: float,
    last: Posterior,
    units: Units,
    users: np.ndarray,
    items: np.ndarray,
) -> Problem:
    """A problem of further ratings with the pairs that have not counted before.

    A new user's are those with all items, and a known user's those with new items;
    likewise an item's.
    """
    layout = problem.layout
    scale = units.row_scale(layout.n_factors, layout.row_size)

    def pairs(rows: np.ndarray, others: np.ndarray, theirs: Rows) -> Unobserved:
        tensor = partial(torch.as_tensor, device=problem.target.device)
        tensor = partial(tensor, dtype=problem.target.dtype)
        away = np.setdiff1d(np.arange(len(theirs.mean[0])), others)
        covariance, precision = None, np.ones(len(away))
        if last.knows_variance:
            square = np.outer(scale, scale)
            covariance = layout.pack(tensor(theirs.covariance[0, away] / square))
            precision, _ = theirs.relative_precisions(away)
        shown = Shown.by(
            tensor(theirs.mean[0][away] / scale),
            covariance,
            tensor(precision),
            layout,
            map,
        )
        return Unobserved(
            weight,
            is_new=tensor(rows < 0),
            others_new=tensor(others < 0),
            background=shown.total(torch.ones_like(shown.precision), layout),
            n_background=len(away),
        )

    return problem.with_unobserved(
        pairs(users, items, last.items), pairs(items, users, last.users)
    )


def _counterparts(
    ratings: Ratings, others: np.ndarray, weights: FeatureWeights
) -> sparse.csr_array:
    """Whom each row has ratings with, among those that the weights know."""
    offsets, met = array(ratings.offsets), array(ratings.others)
    shape = len(ratings), len(others)
    # A copy, since duplicates are summed in place.
    matrix = sparse.csr_array((np.ones(len(met)), met, offsets), shape, copy=True)
    matrix.sum_duplicates()
    matrix.data[:] = 1
    root = np.sqrt(matrix.sum(axis=1))
    columns = weights.columns_of(others)
    known = np.flatnonzero(columns >= 0)
    places = sparse.csr_array(
        (np.ones(len(known)), (known, columns[known])),
        shape=(len(others), weights.mean.shape[1]),
    )
    return sparse.csr_array(sparse.diags_array(1 / root) @ matrix @ places)


def as_posterior(weights: dict[str, np.ndarray], units: Units) -> Posterior:
    """A network's weights in rating units: points. The last row is of the unseen."""
    biased, n_features = "intercept" in weights, len(units.feature_mean)

    def stacked(*names: str) -> np.ndarray:
        tables = [weights[name] for name in names if name in weights]
        return np.hstack([table.reshape(len(table), -1) for table in tables])

    def rows(side: str) -> Rows:
        mean = stacked(f"{side}_factors", f"{side}_bias")
        row_size = mean.shape[1]
        spread = np.cov(mean[:-1].T, bias=True).reshape(row_size, row_size)
        spread += MIN_VARIANCE * np.eye(row_size)
        scale = units.row_scale(row_size - biased, row_size)
        mean = mean * scale
        spread = (spread * np.outer(scale, scale))[None]
        said = {}
        if f"{side}_feature_mean" in weights:
            B = stacked(f"{side}_feature_factors", f"{side}_feature_bias") * scale
            said[DESCRIBED] = FeatureWeights(
                mean=B[None],
                covariance=np.zeros_like(spread),
                prior_covariance=B.T @ B / len(B) + MIN_VARIANCE * np.eye(row_size),
                spread=np.zeros_like(spread),
                column_mean=weights[f"{side}_feature_mean"],
                scale=1.0,
            )
        return Rows(
            mean=mean[None, :-1],
            covariance=None,
            prior_mean=mean[None, -1:],
            prior_covariance=spread[None],
            typical=np.zeros_like(mean[-1:]),
            own_covariance=spread,
            count=np.zeros(len(mean) - 1),
            dispersion=np.ones(len(mean) - 1),
            concentration=INITIAL_CONCENTRATION,
            affinity=np.zeros(len(mean) - 1),
            factor_sums=FactorSums.of(mean[None, :-1, : row_size - biased]),
            weights=said,
        )

    intercept = float(weights["intercept"][0]) if biased else 0.0
    coef = weights["coef"][0] if n_features else np.zeros(0)
    users, items = rows("user"), rows("item")
    return Posterior(
        users=users,
        items=items,
        n_factors=users.mean.shape[2] - biased,
        centre=units.centre + units.scale * intercept,
        coef=coef.astype(np.float64) * units.scale / units.feature_scale,
        coef_covariance=np.zeros((n_features, n_features)),
        noise_variance=np.nan,
        knows_variance=False,
        units=units,
    )


def as_weights(posterior: Posterior, units: Units) -> dict[str, np.ndarray]:
    """Weights of the network that predicts what the means of a posterior predict."""
    k, row_size = posterior.n_factors, posterior.row_size
    weights = {}
    for side, rows in (("user", posterior.users), ("item", posterior.items)):
        unseen = rows.prior_mean + rows.typical[:, None]
        table = np.vstack([rows.mean.mean(axis=0), unseen.mean(axis=0)])
        table /= units.row_scale(k, row_size)
        if k:
            weights[f"{side}_factors"] = table[:, None, :k]
        if row_size > k:
            weights[f"{side}_bias"] = table[:, k:]
        if DESCRIBED in rows.weights:
            known = rows.weights[DESCRIBED]
            said = known.scale * known.mean.mean(axis=0) / units.row_scale(k, row_size)
            weights[f"{side}_feature_mean"] = known.column_mean / (known.scale or 1.0)
            if k:
                weights[f"{side}_feature_factors"] = said[:, None, :k]
            if row_size > k:
                weights[f"{side}_feature_bias"] = said[:, k:]
    if len(units.feature_mean):
        feature_scale = np.nan_to_num(units.feature_scale, posinf=0)
        weights["coef"] = (posterior.coef * feature_scale / units.scale)[None]
    if row_size > k:
        weights["intercept"] = np.array([posterior.centre - units.centre]) / units.scale
    return {name: value.astype(np.float32) for name, value in weights.items()}
