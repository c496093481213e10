"""Update of a posterior by further ratings: what it has learned is their prior."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import islice

import numpy as np
import torch

from .._data.context import NO_CONTEXT
from .._data.interactions import FurtherRows
from .._data.units import Units
from .._interfaces import Start
from .convert import RowUnits, in_rating_units
from .layout import Layout
from .moments import SideMoments
from .posterior import Posterior
from .problem import Problem, RatingArrays, standard_problem
from .ratings import UnobservedPairs
from .resume import as_state
from .rows import Rows
from .rules import UpdateRule
from .state import Side, State
from .sweep import sweeps
from .symmetric import inverse

# Change of predictions by the items in the last sweep over further ratings: root mean
# square, in standard deviations of the ratings.
UPDATE_TOL = 0.06

# Further ratings up to which an update is in double precision. More would take time,
# and it begins from numbers in single precision.
MAX_DOUBLE_ROWS = 2**12


def updated(
    model: Posterior,
    further: FurtherRows,
    device: torch.device,
    *,
    unobserved_weight: float,
    exponent: float,
    max_sweeps: int,
) -> Posterior:
    """The model after further rows, of known users and items and of new ones.

    With `unobserved_weight`, new users and items bring pairs without ratings too. The
    precision of the prior of a row grows with its weight to the power of `exponent`.
    """
    units = model.units
    known = model.with_cold_rows(*further.cold)
    problem = _further_problem(known, further, device)
    last = Start(known, further.users, further.items)
    if unobserved_weight:
        problem = with_unobserved_pairs(problem, unobserved_weight, last, units)
    start = as_state(
        last, problem, units, exponent=exponent, least_count=further.seen.least_count
    )
    try:
        state = update(
            problem,
            start,
            is_certain=not known.knows_variance,
            past_weight=max(known.users.count.sum(), known.items.count.sum()),
            max_sweeps=max_sweeps,
            tol=UPDATE_TOL,
        )
    except torch.linalg.LinAlgError as error:
        raise FloatingPointError(
            "Further ratings, features or weights are too far from those of the "
            "fit for single precision; look for a wrong unit, or fit anew."
        ) from error
    of_rows = in_rating_units(
        state, units, problem, knows_variance=known.knows_variance, last=known
    )
    grown = model.with_updates(of_rows, *further.growths).shifted(model.shift)
    if known.knows_variance:
        return grown
    # Covariances of penalties are relative to the noise.
    return grown.scale_covariances(float(grown.noise_variance / known.noise_variance))


def update(
    problem: Problem,
    start: State,
    *,
    is_certain: bool,
    past_weight: float,
    max_sweeps: int,
    tol: float,
) -> State:
    """Posterior after further ratings, by the posterior before them.

    `start` holds the rows that these ratings meet, with the covariances and the noise
    that `past_weight` of past ratings have left; they are the prior in every sweep.
    Given the other side, a row then has the posterior of all ratings together. With
    `is_certain` the other side is taken for its points, as als takes it, and the noise
    that a penalty is relative to stays.

    Users come first, and come again until the update of the items has moved the
    predictions by no more than `tol`: for new users among known items, once is enough.
    """

    def as_prior(side: Side) -> Side:
        if is_certain:
            # als takes the noise to be the same everywhere.
            one = torch.ones_like(side.relative_precision)
            side = replace(side, relative_precision=one, relative_shape=None)
        return replace(side, row_priors=side)

    first = replace(
        start,
        users=as_prior(start.users),
        items=as_prior(start.items),
        coef_prior=(start.coef, inverse(start.coef_covariance)),
    )
    rule = UpdateRule(is_certain, past_weight, past_variance=1 / start.noise_precision)
    for state in islice(sweeps(problem, first, rule), max_sweeps):
        if math.sqrt(state.items.squared_change / problem.weight) <= tol:
            break
    return state


def _further_problem(
    known: Posterior, further: FurtherRows, device: torch.device
) -> Problem:
    """Problem of further rows, without the terms of rows of context, which stay."""
    data, units, learns = further.data, known.units, known.knows_variance
    # The noise of the fit is that of means of pairs.
    variance = np.full(len(data.rating), -known.repeat_variance)
    if known.columns:
        where = further.users[data.users], further.items[data.items], data.context
        data = replace(
            data,
            rating=data.rating - known.column_means(*where),
            context=data.numbers,
            known_context=NO_CONTEXT,
        )
        if learns:
            variance += known.column_variances(*where)
    arrays = RatingArrays.of(
        data, units, counts_squares=learns, max_double_rows=MAX_DOUBLE_ROWS
    )
    problem = standard_problem(arrays, device)
    nothing = torch.zeros_like(problem.target)
    of_target = torch.as_tensor(variance / units.scale**2).to(nothing)
    layout = Layout(known.n_factors, known.row_size > known.n_factors, device)
    problem = replace(problem, layout=layout)
    return problem.without(nothing, of_target if variance.any() else None)


def with_unobserved_pairs(
    problem: Problem, weight: float, last: Start[Posterior], units: Units
) -> Problem:
    """A problem of further ratings, with the pairs that have not counted before.

    A new user's are those with all items, and a known user's those with new items;
    likewise an item's.
    """
    layout, row_units = problem.layout, RowUnits.of(units, problem)
    model, users, items = last.model, last.users, last.items

    def pairs(rows: np.ndarray, others: np.ndarray, known: Rows) -> UnobservedPairs:
        """Pairs of rows; `known` are the rows of the other side in the last fit."""
        away = np.setdiff1d(np.arange(len(known.mean[0])), others)
        covariance, precision = None, np.ones(len(away))
        if model.knows_variance and known.covariance is not None:
            covariance = layout.pack(
                row_units.standard_covariances(known.covariance[0, away])
            )
            precision, _ = known.relative_precisions(away)
        moments = SideMoments.of(
            row_units.standard_rows(known.mean[0][away]),
            covariance,
            row_units.tensor(precision),
            layout,
            map,
        )
        return UnobservedPairs(
            weight,
            is_new=row_units.tensor(rows < 0),
            is_new_other=row_units.tensor(others < 0),
            background=moments.total(torch.ones_like(moments.precision), layout),
            n_background=len(away),
        )

    return problem.with_unobserved(
        pairs(users, items, model.items), pairs(items, users, model.users)
    )
