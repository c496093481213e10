"""PairEffects: how pairs of user and item that repeat differ from their predictions.

Factors predict a pair of user and item from its other rows and from those of others.
Where rows of a pair repeat, they may agree beyond that: an order of the usual size, an
opinion that stays. With

    y = ŷ(user, item, context) + e + ε,    e ~ N(0, τ²),    ε ~ N(0, σ² / w),

and one e for all rows of a pair, the expected e is κ r for a mean residual r and a
total weight W, with κ = W / (W + ρ) and ρ = σ² / τ² (best linear unbiased prediction;
Robinson, 1991). ρ is learned: with it the rows of a pair predict each other best.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import torch
from scipy import sparse
from scipy.optimize import minimize_scalar
from torch import Tensor

from ._data.forgotten import ForgottenRows
from ._data.interactions import FurtherRows, Interactions
from ._data.seen import SeenItems, first_of_pairs, is_in_sorted
from ._data.sides import SideName
from ._interfaces import Model, Objective, StandardisedModel
from ._storage import stored
from ._topk import Fill

# ρ is looked for within this factor of the mean weight of a row.
RATIO_RANGE = 1e4

# There are effects if the squared errors of rows fall by so many standard errors.
LEAST_EVIDENCE = 2.0

# Rows at most by which ρ is learned.
MAX_ROWS = 2**20

# Weights count rows if all are multiples of the smallest, up to rounding.
WHOLE_TOL = 1e-6


@dataclass(frozen=True)
class Repeats:
    """Rows that effects of pairs are learned from.

    Attributes
    ----------
    rows : Interactions or None
        All rows, where their ratings depend on a context.
    level, weight : ndarray of shape (n_pairs,)
        Mean rating and total weight of each pair in any context.
    some : Interactions
        Those of pairs that repeat, or of some of these pairs.
    taken : ndarray of shape (n_some,)
        Weight of one of the equal rows that each of them stands for, which have each
        other.
    """

    rows: Interactions | None
    level: np.ndarray
    weight: np.ndarray
    some: Interactions
    taken: np.ndarray

    @classmethod
    def of(cls, rows: Interactions) -> Repeats | None:
        """Those of canonical rows; None if no pair has several."""
        if not rows.has_repeats:
            return None
        taken, number = _weight_of_a_row(rows), _pair_of_row(rows)
        total = np.bincount(number, rows.weight)
        repeats = np.bincount(number, total[number] - taken > WHOLE_TOL * total[number])
        every = 1 + int(repeats.sum()) // MAX_ROWS
        is_taken = np.zeros(len(total), dtype=bool)
        is_taken[np.flatnonzero(repeats)[::every]] = True
        places = np.flatnonzero(is_taken[number])
        in_context = rows if rows.context.shape[1] else None
        return cls(in_context, *_levels(rows), rows.at(places), taken[places])

    @property
    def n_predicted(self) -> int:
        """Number of rows that are predicted to learn from them."""
        return len((self.rows or self.some).rating)

    def levels(
        self, model: Model, mean_context: np.ndarray, device: torch.device
    ) -> tuple[np.ndarray, np.ndarray]:
        """Mean rating at the mean context, and total weight, of each pair."""
        if self.rows is None:
            return self.level, self.weight
        return _levels_at(self.rows, model, mean_context, device)


@stored
@dataclass(frozen=True)
class PairEffects:
    """Effects of all pairs that have rows, in the order of `SeenItems`.

    Attributes
    ----------
    level : ndarray of shape (n_pairs,)
        Mean rating of each pair, at the mean context.
    weight : ndarray of shape (n_pairs,)
        Total weight of its rows.
    ratio : float
        ρ.
    variance, noise_variance : float
        τ², and the variance of ε in a row of mean weight.
    mean_context : ndarray of shape (n_context,)
    """

    level: np.ndarray
    weight: np.ndarray
    ratio: float
    variance: float
    noise_variance: float
    mean_context: np.ndarray

    @classmethod
    def learned(
        cls, repeats: Repeats, model: StandardisedModel, device: torch.device
    ) -> PairEffects | None:
        """Effects by the residuals of rows; None if there are none."""
        found = _best_ratio(repeats, model, device)
        if found is None:
            return None
        rows = repeats.some
        values = np.full(len(rows.n_values), -1.0)
        mean_context = np.concatenate([model.units.feature_mean, values])
        level, weight = repeats.levels(model, mean_context, device)
        return cls(
            rows.of_all_pairs(level), rows.of_all_pairs(weight), *found, mean_context
        )

    def updated(
        self,
        further: FurtherRows,
        weight: np.ndarray,
        model: Model,
        device: torch.device,
    ) -> PairEffects:
        """Effects with further rows of these weights, which `model` has learned."""
        data, (users, items) = further.data, further.growths
        rows = replace(
            data,
            users=users.given[data.users],
            items=items.given[data.items],
            weight=weight,
        )
        level, weight = _levels_at(rows, model, self.mean_context, device)
        starts = _first_rows(rows)
        places = further.seen_after.places(rows.users[starts], rows.items[starts])
        of_first = further.users[data.users[starts]], further.items[data.items[starts]]
        was_seen = np.ones(len(further.seen_after), dtype=bool)
        was_seen[places[~further.seen.contain(*of_first)]] = False
        levels, weights = np.zeros((2, len(was_seen)))
        levels[was_seen], weights[was_seen] = self.level, self.weight
        weights[places] += weight
        levels[places] += weight / weights[places] * (level - levels[places])
        return replace(self, level=levels, weight=weights)

    def without(self, forgotten: ForgottenRows) -> PairEffects:
        """The effects of the pairs that are left."""
        is_left = forgotten.is_left
        return replace(self, level=self.level[is_left], weight=self.weight[is_left])

    def shares(self, places: np.ndarray) -> np.ndarray:
        """κ of the pairs at these places."""
        weight = self.weight[places]
        return weight / (weight + self.ratio)

    def deviations(
        self, places: np.ndarray, std: np.ndarray, has_noise: bool
    ) -> np.ndarray:
        """Standard deviations of predictions with effects, by those without.

        Those with noise are of a new rating, which a known effect says more of.
        """
        share = self.shares(places)
        variance = ((1 - share) * std) ** 2
        if has_noise:
            of_rest = (1 - share) * self.variance + self.noise_variance
            variance += (1 - (1 - share) ** 2) * of_rest
        return np.sqrt(variance)

    def of(
        self,
        places: np.ndarray,
        users: np.ndarray,
        items: np.ndarray,
        model: Model,
        device: torch.device,
    ) -> np.ndarray:
        """Effects of the pairs at these places, which `model` predicts without."""
        context = np.broadcast_to(self.mean_context, (len(users), self.n_context))
        at_mean, _ = model.predictions(users, items, context, False, device)
        return self.shares(places) * (self.level[places] - at_mean)

    def explained(
        self,
        shares: np.ndarray,
        places: np.ndarray,
        items: np.ndarray,
        reasons: np.ndarray,
    ) -> np.ndarray:
        """Shares in predictions of these items with effects, by those without.

        `shares` are those of the reasons, which are items, and of all else. The rows of
        a pair are a reason of its own; all else has it if they are not among these.
        """
        known = np.flatnonzero(places >= 0)
        share, level = self.shares(places[known]), self.level[places[known]]
        own = np.searchsorted(reasons, items[known])
        own[~is_in_sorted(items[known], reasons)] = len(reasons)
        shares = shares.copy()
        shares[known] *= 1 - share[:, None]
        shares[known, own] += share * level
        return shares

    @property
    def n_context(self) -> int:
        """Number of columns of context."""
        return len(self.mean_context)


@dataclass(frozen=True)
class WithPairEffects(Model):
    """A model of ratings, with effects of pairs in its predictions.

    Attributes
    ----------
    model : Model
        Predicts without them: the fitted model, its answers in a context, or a draw.
    effects : PairEffects
    seen : SeenItems
    fitted : Model
        The fitted model, which effects are relative to.
    rows : ndarray of shape (n_asking,) or None
        Row in the fitted model of each row, where these ask in a context.
    """

    model: Model
    effects: PairEffects
    seen: SeenItems
    fitted: Model
    rows: np.ndarray | None = None

    @property
    def objective(self) -> Objective:  # type: ignore[override]
        return self.model.objective

    @property
    def rating_range(self) -> tuple[float, float]:  # type: ignore[override]
        return self.model.rating_range

    @property
    def score_work(self) -> float:
        return self.model.score_work

    def with_cold_rows(
        self, users: sparse.csr_array | None, items: sparse.csr_array | None
    ) -> Self:
        return replace(self, model=self.model.with_cold_rows(users, items))

    def draw(
        self, users: np.ndarray, items: np.ndarray, random_state: np.random.RandomState
    ) -> WithPairEffects:
        return replace(self, model=self.model.draw(users, items, random_state))

    def lower_bound(self) -> WithPairEffects:
        return replace(self, model=self.model.lower_bound())

    def in_context(self, users: np.ndarray, context: np.ndarray) -> WithPairEffects:
        return replace(self, model=self.model.in_context(users, context), rows=users)

    def predict(
        self,
        users: np.ndarray,
        items: np.ndarray,
        context: np.ndarray,
        return_std: bool,
        device: torch.device,
    ) -> tuple[np.ndarray, np.ndarray | None]:
        y, std = self.model.predict(users, items, context, return_std, device)
        users = users if self.rows is None else self.rows[users]
        places = self.seen.places(users, items)
        known = np.flatnonzero(places >= 0)
        places = places[known]
        y[known] += self.effects.of(
            places, users[known], items[known], self.fitted, device
        )
        if std is not None:
            std[known] = self.effects.deviations(
                places, std[known], self.fitted.std_has_noise
            )
        return y, std

    def scorer(
        self, users: np.ndarray, items: np.ndarray, device: torch.device
    ) -> Callable[[slice], Fill]:
        without = self.model.scorer(users, items, device)
        asking = users if self.rows is None else self.rows[users]
        order = np.argsort(items, kind="stable")
        in_order = items[order]

        def score(tile: slice) -> Fill:
            fill_without = without(tile)
            position, of_users, of_items = self.seen.of_users(asking[tile])
            # An item may be in several columns, or in none.
            first = np.searchsorted(in_order, of_items, side="left")
            counts = np.searchsorted(in_order, of_items, side="right") - first
            found = np.repeat(np.arange(len(counts)), counts)
            after = np.arange(len(found)) - np.repeat(counts.cumsum() - counts, counts)
            column = order[first[found] + after]
            position, of_users, of_items = (
                numbers[found] for numbers in (position, of_users, of_items)
            )
            places = self.seen.places(of_users, of_items)
            effect = self.effects.of(places, of_users, of_items, self.fitted, device)
            scale, _ = self.model.score_units(users[tile])
            entries = [
                torch.as_tensor(values, device=device)
                for values in (position, column, (effect / scale).astype(np.float32))
            ]

            def fill(columns: slice, out: Tensor) -> None:
                fill_without(columns, out)
                position, column, effect = entries
                here = (column >= columns.start) & (column < columns.stop)
                where = position[here], column[here] - columns.start
                out[where] += effect[here].to(out.dtype)

            return fill

        return score

    def score_units(self, users: np.ndarray) -> tuple[float, np.ndarray]:
        return self.model.score_units(users)

    def index_vectors(self, side: SideName, rows: np.ndarray) -> np.ndarray:
        return self.model.index_vectors(side, rows)

    def profiles(
        self, side: SideName, n_cold: int, device: torch.device
    ) -> tuple[np.ndarray, np.ndarray]:
        return self.model.profiles(side, n_cold, device)


def _predicted(
    model: Model, rows: Interactions, context: np.ndarray, device: torch.device
) -> np.ndarray:
    """Predicted ratings of rows in a context."""
    users, items = (numbers.astype(np.int64) for numbers in (rows.users, rows.items))
    return model.predictions(users, items, context, False, device)[0]


def _first_rows(rows: Interactions) -> np.ndarray:
    """The first row of each pair."""
    return np.flatnonzero(first_of_pairs(rows.users, rows.items))


def _levels(rows: Interactions) -> tuple[np.ndarray, np.ndarray]:
    """Mean rating and total weight of each pair of rows."""
    starts = _first_rows(rows)
    weight = np.add.reduceat(rows.weight, starts)
    return np.add.reduceat(rows.weight * rows.rating, starts) / weight, weight


def _levels_at(
    rows: Interactions, model: Model, mean_context: np.ndarray, device: torch.device
) -> tuple[np.ndarray, np.ndarray]:
    """Those at the mean context, where the ratings of rows depend on theirs."""
    if len(mean_context):
        context = np.broadcast_to(mean_context, rows.context.shape)
        rating = rows.rating - _predicted(model, rows, rows.context, device)
        rating += _predicted(model, rows, context, device)
        rows = replace(rows, rating=rating)
    return _levels(rows)


def _best_ratio(
    repeats: Repeats, model: Model, device: torch.device
) -> tuple[float, float, float] | None:
    """ρ, by which the rest of a pair predicts each of its rows best, τ² and the noise.

    Each pair counts as much. None if the squared errors do not fall for certain.
    """
    rows, taken = repeats.some, repeats.taken
    share, weight, number = rows.shares.user, rows.weight, _pair_of_row(rows)
    residual = rows.rating - _predicted(model, rows, rows.context, device)
    total = np.bincount(number, weight)[number]
    left = total - taken
    rest = np.bincount(number, weight * residual)[number] - taken * residual
    # One that weighs as much as all is predicted by none.
    has_others = left > WHOLE_TOL * total
    rest = np.divide(rest, left, where=has_others, out=np.zeros(len(left)))
    part = np.where(has_others, weight / total, 0)

    def squares(log_ratio: float) -> np.ndarray:
        return (residual - left / (left + np.exp(log_ratio)) * rest) ** 2

    def cost(log_ratio: float) -> float:
        return share.sum(float(part @ squares(log_ratio)))

    of_all, n = share.sum(np.array([weight.sum(), len(weight)]))
    if not n:
        return None
    middle, reach = np.log(of_all / n), np.log(RATIO_RANGE)
    found = minimize_scalar(
        cost, bounds=(middle - reach, middle + reach), method="bounded"
    )
    after = part * squares(found.x)
    falls = part * residual**2 - after
    fall, its_square = share.sum(np.array([falls.sum(), falls @ falls]))
    if not fall > LEAST_EVIDENCE * np.sqrt(its_square):
        return None
    ratio = float(np.exp(found.x))
    # A row differs from what the rest predicts by its noise and by what is not known of
    # the effect.
    variances = ratio / taken + ratio / (left + ratio)
    error, of_unit = share.sum(np.array([after.sum(), part @ variances]))
    variance = float(error / of_unit)
    return ratio, variance, variance * ratio * float(n / of_all)


def _pair_of_row(rows: Interactions) -> np.ndarray:
    """Number of the pair of each row."""
    return first_of_pairs(rows.users, rows.items).cumsum() - 1


def _weight_of_a_row(rows: Interactions) -> np.ndarray:
    """Weight of one of the equal rows that each row stands for."""
    share, weight = rows.shares.user, rows.weight
    least = -share.largest(float(-weight.min(initial=np.inf)))
    largest = share.largest(float(weight.max(initial=0.0)))
    if least < WHOLE_TOL * largest:
        return weight
    multiple = weight / least
    excess = np.abs(multiple - np.rint(multiple)) / multiple
    if share.largest(float(excess.max(initial=0.0))) > WHOLE_TOL:
        return weight
    return np.full(len(weight), least)
