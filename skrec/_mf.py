"""MFRegressor: parameters, docstring, and which solver."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any, Literal

import numpy as np
import torch
from sklearn.utils import check_random_state

from ._alternating import Problem, Side, State, als, gibbs, spectral_start, vb
from ._base import (
    BaseRecommender,
    Integral,
    Interval,
    Iteration,
    Real,
    StrOptions,
)
from ._conditional import Layout
from ._interactions import Ids, Interactions
from ._posterior import Posterior, Rows

DEFAULT_MAX_ITER = {"vb": 200, "gibbs": 200, "als": 50}

# A chain starts from vb's posterior after some sweeps, and forgets its first draws.
VB_SWEEPS = 10
BURN_IN = 10


class MFRegressor(BaseRecommender):
    """Matrix factorisation of ratings, as a regressor over (user, item) rows.

    The model of a rating y of user u and item i, with features f of that rating, is::

        y = μ + b_u + c_i + p_u·q_i + f·w + ε,    ε ~ N(0, 1 / (β α_u γ_i))

    Each row (p_u, b_u) of a user has a Gaussian prior whose mean and covariance are
    learned, and so has each row (q_i, c_i) of an item. α_u and γ_i, of mean one, let
    users and items differ in how noisy their ratings are [3]_. Ratings are standardised
    inside, so their scale needs no setting.

    Parameters
    ----------
    n_factors : int, default=20
        Length of p_u and q_i. 0 leaves the biases alone.
    solver : {"vb", "gibbs", "als"}, default="vb"
        - "vb": variational Bayes [1]_. Deterministic; nothing to tune.
        - "gibbs": posterior sampling [2]_, started from "vb". More accurate than "vb"
          where ratings are few and noisy, at many times the time and with every kept
          draw in memory.
        - "als": penalised least squares, alternating. Needs `reg`, knows no standard
          deviations, and takes the noise to be the same everywhere.
    biased : bool, default=True
        False is the plain dot product: y = p_u·q_i + f·w + ε, without μ.
    reg : float, default=12.0
        Penalty of the squares of all factors, biases and coefficients, for standardised
        ratings: Σ weight (y − ŷ)² + reg (Σ p² + Σ q² + Σ b² + Σ c² + Σ w²) is
        minimised. Used by "als" only.
    max_iter : int, default=None
        Sweeps at most (vb, als) or draws kept (gibbs). None is 200 for "vb" and
        "gibbs", and 50 for "als".
    tol : float, default=0.03
        Stop when a sweep moves the predictions of the training rows by less than this:
        root mean square, in standard deviations of the ratings. Used by "vb" and "als".
    handle_unknown : {"ignore", "warn", "error"}, default="ignore"
        What to do with users and items that `fit` has not seen: answer from what is
        known (the mean, the other side), the same with a warning, or refuse.
    clip : bool, default=True
        Clip predictions to the range of the training ratings.
    store_covariance : bool, default=True
        Keep the posterior covariances, of (n_users + n_items) (n_factors + 1)² numbers,
        which `predict(return_std=True)` needs after "vb".
    warm_start : bool, default=False
        Start from the last fit. Users and items are recognised by their ids.
    device : str, default="auto"
        "auto" is CUDA where it is available, else the CPU; or a device of torch.
    random_state : int, RandomState instance or None, default=None
        Seed of the draws. Used by "gibbs" only.
    verbose : int, default=0
        Print a line per iteration if positive.

    Attributes
    ----------
    user_ids_, item_ids_ : ndarray of shape (n_users,) and (n_items,)
        Sorted raw ids.
    user_factors_, item_factors_ : ndarray of shape (n_users or n_items, n_factors)
        Posterior means of p and q (of the draws, with "gibbs").
    user_biases_, item_biases_ : ndarray of shape (n_users,) and (n_items,)
        Posterior means of b and c, in rating units.
    intercept_ : float
        μ, in rating units.
    coef_ : ndarray of shape (n_features,)
        w, in rating units per unit of the feature.
    noise_std_ : float
        Standard deviation of ε for a user and an item of average noise.
    rating_range_ : tuple of float
        Smallest and largest training rating.
    n_iter_ : int
        Number of iterations run.
    loss_curve_ : list of float
        After every iteration, per unit of weight and for standardised ratings: minus
        the evidence lower bound (vb), the penalised sum of squares (als), or half the
        weighted residual sum of squares times β (gibbs).
    n_features_in_ : int
        Number of columns of X.
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Names of the columns, if X had any.

    References
    ----------
    .. [1] Lim, Teh (2007). Variational Bayesian approach to movie rating prediction.
       KDD Cup and Workshop.
    .. [2] Salakhutdinov, Mnih (2008). Bayesian probabilistic matrix factorization using
       Markov chain Monte Carlo. ICML.
    .. [3] Lakshminarayanan, Bouchard, Archambeau (2011). Robust Bayesian matrix
       factorisation. AISTATS.

    Examples
    --------
    >>> from skrec import MFRegressor
    >>> X = [["ann", "Heat"], ["ann", "Alien"], ["bob", "Heat"], ["bob", "Brazil"],
    ...      ["cleo", "Alien"], ["cleo", "Brazil"]]
    >>> y = [5, 3, 4, 2, 3, 1]
    >>> mf = MFRegressor(n_factors=2).fit(X, y)
    >>> mf.recommend(["ann", "bob"], n_items=1)
    array([['Brazil'],
           ['Alien']], dtype=object)
    >>> mf.predict([["bob", "Alien"], ["dan", "Heat"]]).shape
    (2,)
    """

    _parameter_constraints: dict = {
        **BaseRecommender._parameter_constraints,
        "n_factors": [Interval(Integral, 0, None, closed="left")],
        "solver": [StrOptions({"vb", "gibbs", "als"})],
        "biased": ["boolean"],
        "reg": [Interval(Real, 0, None, closed="neither")],
        "store_covariance": ["boolean"],
    }

    def __init__(
        self,
        n_factors: int = 20,
        *,
        solver: Literal["vb", "gibbs", "als"] = "vb",
        biased: bool = True,
        reg: float = 12.0,
        max_iter: int | None = None,
        tol: float = 0.03,
        handle_unknown: Literal["ignore", "warn", "error"] = "ignore",
        clip: bool = True,
        store_covariance: bool = True,
        warm_start: bool = False,
        device: str = "auto",
        random_state: int | np.random.RandomState | None = None,
        verbose: int = 0,
    ) -> None:
        self.n_factors = n_factors
        self.solver = solver
        self.biased = biased
        self.reg = reg
        self.max_iter = max_iter
        self.tol = tol
        self.handle_unknown = handle_unknown
        self.clip = clip
        self.store_covariance = store_covariance
        self.warm_start = warm_start
        self.device = device
        self.random_state = random_state
        self.verbose = verbose

    @property
    def user_factors_(self) -> np.ndarray:
        """Factors of users, ndarray of shape (n_users, n_factors)."""
        return self._factors("user")

    @property
    def item_factors_(self) -> np.ndarray:
        """Factors of items, ndarray of shape (n_items, n_factors)."""
        return self._factors("item")

    @property
    def user_biases_(self) -> np.ndarray:
        """Biases of users, ndarray of shape (n_users,)."""
        return self._biases("user")

    @property
    def item_biases_(self) -> np.ndarray:
        """Biases of items, ndarray of shape (n_items,)."""
        return self._biases("item")

    def _factors(self, side: str) -> np.ndarray:
        return self._mean_rows(f"{side}_factors_")[:, : self._posterior.n_factors]

    def _biases(self, side: str) -> np.ndarray:
        rows = self._mean_rows(f"{side}_biases_")
        return rows[:, self._posterior.n_factors :].sum(axis=1)

    def _mean_rows(self, attribute: str) -> np.ndarray:
        if not hasattr(self, "_posterior"):
            raise AttributeError(
                f"This {type(self).__name__} has no attribute {attribute!r} before fit."
            )
        side = attribute.partition("_")[0]
        return getattr(self._posterior, f"{side}s").mean.mean(axis=0)

    def _max_iter(self) -> int:
        return DEFAULT_MAX_ITER[self.solver] if self.max_iter is None else self.max_iter

    def _can_converge(self) -> bool:
        return self.solver != "gibbs"

    def _iterate(self, data: Interactions, device: torch.device) -> Iterator[Iteration]:
        if self.n_factors == 0 and not self.biased:
            raise ValueError(
                "n_factors=0 and biased=False leave nothing to fit; raise n_factors or "
                "set biased=True."
            )
        units = Units.of(data, self.biased)
        problem = Problem.from_arrays(
            data.users,
            data.items,
            data.shape,
            units.standard_ratings(data.rating),
            data.weight,
            units.standard_features(data.features),
            n_factors=self.n_factors,
            biased=self.biased,
            device=device,
        )
        continued = self.warm_start and hasattr(self, "_posterior")
        start = (
            self._continued(problem, data, units)
            if continued
            else spectral_start(problem)
        )
        if self.solver == "als":
            states = als(problem, start, self.reg)
        elif self.solver == "vb":
            states = vb(problem, start)
        else:
            if not continued:
                start = next(islice(vb(problem, start), VB_SWEEPS - 1, None))
            states = gibbs(problem, start, check_random_state(self.random_state))
            states = states if continued else islice(states, BURN_IN, None)
        export = partial(_in_rating_units, units=units, layout=problem.layout)
        return self._reports(states, export)

    def _reports(
        self, states: Iterator[State], export: Callable[[State], Posterior]
    ) -> Iterator[Iteration]:
        draws: list[Posterior] = []
        for state in states:
            if self.solver == "gibbs":
                draws.append(export(state))
                belief = partial(Posterior.average, draws)
            else:
                belief = partial(export, state)
            yield Iteration(
                state.objective, state.change, partial(self._attributes, belief)
            )

    def _attributes(self, belief: Callable[[], Posterior]) -> dict[str, Any]:
        posterior = belief()
        if not self.store_covariance:
            posterior = posterior.without_covariance()
        return {
            "_posterior": posterior,
            "intercept_": posterior.intercept,
            "coef_": posterior.coef,
            "noise_std_": float(np.sqrt(posterior.noise_variance)),
        }

    def _continued(self, problem: Problem, data: Interactions, units: Units) -> State:
        """A start where the last fit ended; new rows start at its prior."""
        last, layout = self._posterior, problem.layout
        if (last.n_factors, last.row_size) != (layout.n_factors, layout.row_size):
            raise ValueError(
                f"warm_start=True continues a fit of n_factors={last.n_factors} and "
                f"biased={last.row_size > last.n_factors}, but now n_factors="
                f"{self.n_factors} and biased={self.biased}. Set warm_start=False, or "
                "keep both."
            )
        scale = units.row_scale(layout)
        feature_scale = np.nan_to_num(units.feature_scale, posinf=0)

        def side(
            noun: str, rows: Rows, fitted_ids: np.ndarray, ids: np.ndarray
        ) -> Side:
            where = Ids.from_column(ids, f"X ({noun})").numbered_in(fitted_ids)
            *_, mean = rows.means(where)
            *_, covariance = rows.covariances(where)
            tensor = partial(
                torch.as_tensor,
                dtype=problem.target.dtype,
                device=problem.target.device,
            )
            prior_covariance = rows.prior_covariance[-1] / np.outer(scale, scale)
            return Side.at(
                tensor(mean / scale),
                layout,
                covariance=layout.pack(tensor(covariance / np.outer(scale, scale))),
                prior_mean=tensor(rows.prior_mean[-1] / scale),
                prior_precision=tensor(np.linalg.inv(prior_covariance)),
                relative_precision=tensor(1 / rows.dispersions(where)),
                concentration=rows.concentration,
            )

        return State(
            users=side("users", last.users, self.user_ids_, data.user_ids),
            items=side("items", last.items, self.item_ids_, data.item_ids),
            coef=torch.as_tensor(last.coef * feature_scale / units.scale).to(
                problem.target
            ),
            noise_precision=units.scale**2 / last.noise_variance,
        )

    def _predict(
        self,
        users: np.ndarray,
        items: np.ndarray,
        features: np.ndarray,
        return_std: bool,
    ) -> tuple[np.ndarray, np.ndarray | None]:
        mean = self._posterior.mean(users, items, features)
        if not return_std:
            return mean, None
        if not self._posterior.knows_variance:
            raise ValueError(
                "return_std=True needs a fit with solver='vb' or 'gibbs' and "
                f"store_covariance=True; this one had solver={self.solver!r} and "
                f"store_covariance={self.store_covariance}."
            )
        return mean, np.sqrt(self._posterior.variance(users, items, features))

    def _scorer(
        self, rows: np.ndarray, columns: np.ndarray, device: torch.device
    ) -> Callable[[slice], torch.Tensor]:
        users = torch.from_numpy(self._posterior.vectors("user", rows)).to(device)
        items = torch.from_numpy(self._posterior.vectors("item", columns)).to(device)
        return lambda tile: users[tile] @ items.T + self._posterior.centre

    def _profiles(self, side: Literal["user", "item"]) -> np.ndarray:
        if self._posterior.n_factors == 0:
            raise ValueError(
                "Similarity compares factors, but this model has n_factors=0."
            )
        return self._posterior.profiles(side)


@dataclass(frozen=True)
class Units:
    """Units of ratings and features: the way to standard ones and back."""

    centre: float
    scale: float
    feature_mean: np.ndarray
    feature_scale: np.ndarray

    @classmethod
    def of(cls, data: Interactions, biased: bool) -> Units:
        """Ratings to mean 0 and variance 1; without biases a rating of 0 stays 0."""
        weight = data.weight / data.weight.sum()
        centre = float(weight @ data.rating) if biased else 0.0
        scale = np.sqrt(weight @ (data.rating - centre) ** 2)
        mean = weight @ data.features
        deviation = np.sqrt(weight @ (data.features - mean) ** 2)
        # Rounding leaves a constant column a deviation of a few ulps. An infinite scale
        # gives it a coefficient of zero.
        return cls(
            centre=centre,
            scale=float(scale) if scale > 1e-9 * abs(centre) else 1.0,
            feature_mean=mean,
            feature_scale=np.where(deviation > 1e-9 * np.abs(mean), deviation, np.inf),
        )

    def standard_ratings(self, rating: np.ndarray) -> np.ndarray:
        return (rating - self.centre) / self.scale

    def standard_features(self, features: np.ndarray) -> np.ndarray:
        return (features - self.feature_mean) / self.feature_scale

    def row_scale(self, layout: Layout) -> np.ndarray:
        """What a row (p, b) in standard units is to be multiplied with."""
        scale = np.full(layout.row_size, self.scale, dtype=np.float32)
        scale[: layout.n_factors] **= 0.5
        return scale


def _in_rating_units(state: State, units: Units, layout: Layout) -> Posterior:
    """A solver's state in rating units, as NumPy arrays."""
    scale = units.row_scale(layout)
    square = np.outer(scale, scale)

    def rows(side: Side) -> Rows:
        covariance = None
        if side.covariance is not None:
            covariance = layout.unpack(side.covariance).cpu().numpy()[None] * square
        prior_covariance = torch.linalg.inv(side.prior_precision).cpu().numpy()
        return Rows(
            mean=side.mean.cpu().numpy()[None] * scale,
            covariance=covariance,
            prior_mean=side.prior_mean.cpu().numpy()[None] * scale,
            prior_covariance=prior_covariance[None] * square,
            dispersion=side.relative_variance.double().cpu().numpy(),
            concentration=side.concentration,
        )

    coef_scale = units.scale / units.feature_scale
    coef = state.coef.double().cpu().numpy() * coef_scale
    root = np.zeros((len(coef), len(coef)))
    if state.coef_factor is not None:
        root = state.coef_factor.double().cpu().numpy() * coef_scale
    return Posterior(
        users=rows(state.users),
        items=rows(state.items),
        n_factors=layout.n_factors,
        centre=units.centre,
        feature_mean=units.feature_mean,
        coef=coef,
        coef_covariance=root.T @ root,
        noise_variance=units.scale**2 * state.noise_variance,
        knows_variance=state.users.covariance is not None,
    )
