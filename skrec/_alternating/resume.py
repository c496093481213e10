"""Conversion of a `Posterior` to a state to start from, in standard units."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from scipy import sparse

from .._data.sides import SideName
from .._data.units import Units
from .._interfaces import Start
from .axes import AxisVariances
from .convert import RowUnits, array
from .covariances import AxisCovariance
from .feature_weights import Block, LinkMatrix
from .links import DESCRIBED, IMPLICIT, FittedLinkMatrix
from .posterior import Posterior
from .problem import Problem
from .ratings import Ratings
from .rows import Rows
from .state import Side, State
from .symmetric import inverse

# A small multiple of the identity keeps the covariance of coefficients invertible.
MIN_COEF_VARIANCE = 1e-9

# A coefficient of standardised context beyond this belongs to a column whose unit has
# changed since the fit, and is of no use.
MAX_COEF = 1e6


def as_state(
    last: Start[Posterior],
    problem: Problem,
    units: Units,
    *,
    exponent: float = 0.0,
    with_covariance: bool = True,
    least_count: Callable[[SideName], float] = lambda side: 1.0,
) -> State:
    """A state to start from; new rows start at their prior.

    The precision of a prior grows with the row's count to the power of `exponent`. New
    rows with fewer counterparts than `least_count` of their side are described by these
    in part.
    """
    model, row_units = last.model, RowUnits.of(units, problem)
    coef, coef_covariance = _standard_coef(model, units, last.numbers)
    of_users = _SideImport(
        model.users,
        problem.users,
        last.users,
        last.columns.user,
        last.items,
        partial(least_count, "user"),
    )
    of_items = _SideImport(
        model.items,
        problem.items,
        last.items,
        last.columns.item,
        last.users,
        partial(least_count, "item"),
    )
    users, items = (
        side.state(row_units, exponent, with_covariance=with_covariance)
        for side in (of_users, of_items)
    )
    return State(
        users=users,
        items=items,
        coef=row_units.tensor(coef),
        coef_factor=row_units.tensor(np.linalg.cholesky(coef_covariance).T),
        noise_precision=units.scale**2 / np.nan_to_num(model.noise_variance, nan=1.0),
    )


def check_row_size(last: Posterior, n_factors: int | None, biased: bool) -> None:
    """Refuse to continue a fit with other factors or biases; None is any number."""
    before = {"n_factors": last.n_factors, "biased": last.row_size > last.n_factors}
    now = {"n_factors": n_factors, "biased": biased}
    if n_factors is None:
        del before["n_factors"]
    changed = [name for name, value in before.items() if now[name] != value]
    if changed:
        had, has = (
            " and ".join(f"{name}={values[name]}" for name in changed)
            for values in (before, now)
        )
        raise ValueError(
            f"The last fit, which is to be continued, had {had}, but now there is "
            f"{has}. Set it back, or begin anew by fit with warm_start=False."
        )


def _standard_coef(
    last: Posterior, units: Units, numbers: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance of the coefficients in standard units."""
    if numbers is None:
        numbers = np.arange(len(last.coef))
    # The last coefficient is that of new columns.
    last_scale = np.append(last.units.feature_scale, np.inf)[numbers]
    covariance = np.pad(last.coef_covariance, (0, 1))[numbers][:, numbers]
    feature_scale = np.nan_to_num(units.feature_scale, posinf=0)
    ratio = feature_scale / last_scale / units.scale
    with np.errstate(over="ignore", invalid="ignore"):
        coef = np.append(last.coef, 0)[numbers] * (feature_scale / units.scale)
        covariance = covariance * ratio * ratio[:, None]
        known = np.abs(coef) < MAX_COEF
        known &= covariance.diagonal() < MAX_COEF**2
    covariance = np.where(np.outer(known, known), covariance, 0)
    # Coefficients of constant columns are known to be zero, nearly.
    return np.where(known, coef, 0), covariance + MIN_COEF_VARIANCE * np.eye(len(coef))


@dataclass(frozen=True)
class _SideImport:
    """One side of a `Posterior`, on its way to the state of a problem.

    Attributes
    ----------
    known : Rows
    ratings : Ratings
    where, columns, others : ndarray
        Numbers in the posterior of the problem's rows, of the columns of their
        described features, and of the rows of the other side; -1 is a new one.
    least_count : callable
        Number of counterparts from which on they describe a row in full.
    """

    known: Rows
    ratings: Ratings
    where: np.ndarray
    columns: np.ndarray
    others: np.ndarray
    least_count: Callable[[], float]

    def state(
        self, row_units: RowUnits, exponent: float, *, with_covariance: bool
    ) -> Side:
        """The rows in standard units, perhaps with covariances."""
        known, layout = self.known, row_units.layout
        alpha, shape = known.relative_precisions(self.where)
        own_covariance = row_units.standard_covariances(known.residual_covariance[-1])
        side = Side(
            mean=row_units.standard_rows(self._means()),
            prior_mean=row_units.standard_rows(known.prior_mean[-1, -1]),
            prior_precision=inverse(own_covariance),
            relative_precision=row_units.tensor(alpha),
            relative_shape=row_units.tensor(shape),
            concentration=known.concentration,
        )
        if isinstance(known.covariance, AxisCovariance):
            variance = row_units.tensor(
                self._axis_variances(known.covariance, exponent)
            )
            axes = row_units.standard_axes(known.covariance)
            side = replace(side, axes=AxisVariances(axes, variance))
        elif with_covariance:
            covariance = row_units.standard_covariances(self._covariances(exponent))
            side = replace(side, covariance=layout.pack(covariance))
        weights = [self._weights(block, row_units) for block in self.ratings.features]
        return side.with_weights(self.ratings, weights)

    def _weights(self, block: Block, row_units: RowUnits) -> LinkMatrix:
        """Weights of a block in standard units, zero if it is new."""
        if block.name not in self.known.links:
            return LinkMatrix.at_zero(block, row_units.layout.row_size)
        known = self.known.links[block.name]
        numbers = self.columns if block.name == DESCRIBED else self.others
        columns = known.columns_of(numbers)
        # The same weights for entries that are scaled otherwise.
        ratio = known.scale / block.scale if block.scale else 0.0
        # The last row is that of new columns.
        mean = np.pad(known.mean[-1], [(0, 1), (0, 0)])[columns] * ratio
        covariance = known.prior_covariance * max(ratio, 1e-3) ** 2
        precision = inverse(row_units.standard_covariances(covariance))
        return LinkMatrix.at(row_units.standard_rows(mean), precision)

    def _means(self) -> np.ndarray:
        """Means of the rows; those of new ones are their prior's."""
        known, is_new = self.known, self.where < 0
        *_, mean = known.means(self.where)
        mean[is_new] -= known.cold_offset[-1]
        if self._implies_new:
            link = known.links[IMPLICIT]
            features, described = self._implicit_features(link)
            effect = link.effect_means(features)[-1]
            mean[is_new] += np.sqrt(described)[:, None] * effect
        return mean

    def _covariances(self, exponent: float) -> np.ndarray:
        """Covariances of the rows; those of new ones are their prior's."""
        known, is_new = self.known, self.where < 0
        *_, covariance = known.covariances(self.where)
        if self._implies_new:
            link = known.links[IMPLICIT]
            features, described = self._implicit_features(link)
            _, spread = link.effects(features)
            change = spread[-1] - link.effect_covariance[-1]
            covariance[is_new] += described[:, None, None] * change
        if exponent:
            count = array(self.ratings.count.double())[is_new]
            covariance[is_new] /= (count**exponent)[:, None, None]
        return covariance

    def _axis_variances(self, stored: AxisCovariance, exponent: float) -> np.ndarray:
        """As `_covariances`, along the axes of those of the last fit."""
        known, is_new = self.known, self.where < 0
        variance = stored.variance[np.maximum(self.where, 0)]
        numbers, place = np.unique(self.where[is_new], return_inverse=True)
        new = stored.along(known.prior_covariance[-1, numbers])[place]
        if self._implies_new:
            link = known.links[IMPLICIT]
            features, described = self._implicit_features(link)
            change = link.energies(features)[:, None] * stored.along(
                link.covariance[-1:]
            )
            change -= stored.along(link.effect_covariance[-1:])
            new += described[:, None] * change
        if exponent:
            new /= (array(self.ratings.count.double())[is_new] ** exponent)[:, None]
        variance[is_new] = new
        return variance

    @property
    def _implies_new(self) -> bool:
        """Whether new rows are predicted by the rows that they have ratings with."""
        has_link = IMPLICIT in self.known.links and not self.ratings.features
        return has_link and bool((self.where < 0).any())

    def _implicit_features(
        self, link: FittedLinkMatrix
    ) -> tuple[sparse.csr_array, np.ndarray]:
        """Features of new rows, and the share of what those of the fit tell.

        They are 1/√n for each of the n others that a row has ratings with. Columns are
        those of the weights, which new others do not have.
        """
        offsets, others = array(self.ratings.offsets), array(self.ratings.others)
        shape = len(self.ratings), len(self.others)
        # A copy, since duplicates are summed in place.
        matrix = sparse.csr_array(
            (np.ones(len(others)), others, offsets), shape, copy=True
        )
        matrix.sum_duplicates()
        matrix.data[:] = 1
        matrix = matrix[self.where < 0]
        count = matrix.sum(axis=1)
        described = np.minimum(1, count / self.least_count())
        columns = link.columns_of(self.others)
        known = np.flatnonzero(columns >= 0)
        places = sparse.csr_array(
            (np.ones(len(known)), (known, columns[known])),
            shape=(len(self.others), link.mean.shape[1]),
        )
        scale = sparse.diags_array(1 / np.sqrt(count))
        return sparse.csr_array(scale @ matrix @ places), described
