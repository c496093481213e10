"""Tastes: what users who are left out tell of eigenvectors, and of their weight.

Reference: Stein (1986). Lectures on the theory of estimation of many parameters.
Journal of Soviet Mathematics.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.optimize import isotonic_regression

from .._data.sides import Sides
from .._share import Share
from .content import hashed
from .eigenvectors import eigenvectors, product
from .excess import TINY, Excess, output_scale

# Factors that differ by less are equal.
EPS = float(np.finfo(np.float32).eps)

# One in so many users is left out, in turns until there have been so many users, and
# so many choices.
N_FOLDS, MIN_LEFT_OUT, MIN_CHOICES = 5, 100, 10_000

# Eigenvectors at most: as many as leave this many numbers in the table of items, which
# one list reads as a whole, within these limits. Beyond the first so many they are
# computed where all of these explain something.
TABLE_SIZE, MIN_FACTORS, MAX_FACTORS = 2**21, 64, 1024
FIRST_FACTORS, OVERSAMPLING = 256, 16

# Eigenvectors of like rank share their factor: each group ends at a rank so many times
# that of the last, and groups are pooled until factors fall with the rank. Smaller
# factors than the least change no list.
GROUP_GROWTH, LEAST_SHRINKAGE = 1.4, 0.05

# Standard errors that are taken from the squares that other items explain, and from
# what a weight of tastes gains.
N_DEVIATIONS = 1

# Weights of tastes beside popularity, of which left-out users choose one.
TASTE_WEIGHTS = 2.0 ** (np.arange(-4, 9) / 2)

# Choices without a taste that are added to those of each user.
PRIOR_CHOICES = 1.0

# Hidden choices, and fewer down to the minimum where the scores of all items by them
# would be more than so many.
MIN_HIDDEN, MAX_HIDDEN, MAX_SCORES = 100, 1000, 2**22

# Scores that are ranked at once, and stay in the cache.
MAX_RANKED = 2**16


@dataclass(frozen=True)
class Tastes:
    """What users who are left out tell of tastes.

    Attributes
    ----------
    shrinkage : ndarray of shape (n_factors,), dtype float32
        Factors of the leading eigenvectors.
    weight : float
        Weight of tastes beside popularity.
    basis : ndarray of shape (n_items, n), dtype float32
        That from which passes come to the eigenvectors.
    """

    shrinkage: np.ndarray
    weight: float
    basis: np.ndarray

    @classmethod
    def of(cls, excess: Excess, places: Sides[np.ndarray], share: Share) -> Tastes:
        """By users who are left out in turns.

        By the places of users, each fold has as many of every number of choices.
        """
        n_users, n_items = map(len, places)
        turns = _turns(excess, places.user, share)
        n_most = int(np.clip(TABLE_SIZE // n_items, MIN_FACTORS, MAX_FACTORS))
        n_factors = min(FIRST_FACTORS, n_most)
        while True:
            size = min(n_factors + OVERSAMPLING, n_items, n_users)
            normal = np.random.RandomState(0).standard_normal((n_items, size))
            start = normal.astype(np.float32)[places.item]
            bases = [eigenvectors(t.others, start, share)[1] for t in turns]
            sums, energy = np.zeros((3, size)), 0.0
            for turn, basis in zip(turns, bases, strict=True):
                sums[:, : basis.shape[1]] += turn.left_out.explained(basis, share)
                energy += turn.left_out.energy(share)
            shrinkage = np.trim_zeros(shrinkage_of(sums, energy)[:n_factors], "b")
            if len(shrinkage) < n_factors or n_factors == n_most:
                break
            n_factors = n_most
        bases = [basis[:, : len(shrinkage) + OVERSAMPLING] for basis in bases]
        weight = 1.0
        if len(shrinkage):
            weight = weight_of(_gains(turns, bases, shrinkage, places), share)
        # Eigenvectors without a fifth of the users are near those of all.
        return cls(shrinkage, weight, bases[0] if bases else start)


@dataclass(frozen=True)
class _Turn:
    """Users who are left out, with their places, and the others."""

    others: Excess
    left_out: Excess
    places: np.ndarray


def _turns(excess: Excess, places: np.ndarray, share: Share) -> list[_Turn]:
    """Folds of users by their places; more than one where these are few."""
    n_users = len(places)
    places = places[share.rows(n_users)]
    n_choices = share.sum(float(excess.damped.nnz))
    rounds = max(MIN_LEFT_OUT / n_users, MIN_CHOICES / n_choices)
    n_turns = min(math.ceil(N_FOLDS * min(rounds, 1)), n_users)
    turns = []
    for turn in range(n_turns if n_users > 1 else 0):
        is_out = places % N_FOLDS == turn
        others, left_out = excess.without(is_out, share)
        turns.append(_Turn(others, left_out, places[is_out]))
    return turns


def shrinkage_of(sums: np.ndarray, energy: float) -> np.ndarray:
    """Factors of eigenvectors, by sums of what is explained along each.

    Like eigenvalues they fall with the rank, and are the least squares in this order
    (Stein, 1986, has it for covariances), less the standard errors of all eigenvectors
    that share a factor. So where users are few, leading eigenvectors tell together what
    none tells alone.

    The rest of the energy, along no eigenvector that explains anything, has the factor
    that is left for it, below zero, since the sum over all directions is zero. Factors
    are made zero there: B + c (I − B) predicts as B does without its diagonal.
    """
    size = sums.shape[1]
    groups = [0, 1]
    while groups[-1] < size:
        groups.append(min(math.ceil(groups[-1] * GROUP_GROWTH), size))
    ends = _pooled_ends(sums, np.array(groups))
    explained, variance, total = np.add.reduceat(sums, ends[:-1], axis=1)
    explained -= N_DEVIATIONS * np.sqrt(variance)
    factors = explained / np.maximum(total, TINY)
    is_taste = explained > 0
    energy = max(energy, TINY)
    rest = energy - total[is_taste].sum()
    if rest >= energy / size:
        least = -explained[is_taste].sum() / rest
    else:
        # Less than an eigenvector is left, such as the one along which the excess of
        # each user sums up to zero.
        least = factors[is_taste][-1]
    factors = ((factors - least) / max(1 - least, EPS)).clip(0, 1)
    factors[factors < LEAST_SHRINKAGE] = 0
    return np.repeat(factors, np.diff(ends)).astype(np.float32)


def _pooled_ends(sums: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Ends of groups, after neighbours are pooled whose factors rise with the rank."""
    explained, _, total = np.add.reduceat(sums, ends[:-1], axis=1)
    total = np.maximum(total, TINY)
    fit = isotonic_regression(explained / total, weights=total, increasing=False)
    return ends[fit.blocks]


def _gains(
    turns: list[_Turn],
    bases: list[np.ndarray],
    shrinkage: np.ndarray,
    places: Sides[np.ndarray],
) -> np.ndarray:
    """Gains of hidden choices of users left out, by each taste weight.

    So many users are asked, evenly by their places, and so many choices of each, that
    the scores are few.
    """
    n_users, n_items = map(len, places)
    n_hidden = int(np.clip(MAX_SCORES // n_items, MIN_HIDDEN, MAX_HIDDEN))
    n_left_out = n_users * len(turns) / N_FOLDS
    step = math.ceil(n_left_out / n_hidden)
    is_taste = shrinkage > 0
    gains = []
    for turn, basis in zip(turns, bases, strict=True):
        is_asked = turn.places // N_FOLDS % step == 0
        kept = is_taste[: basis.shape[1]]
        gains.append(
            gains_of_hidden(
                turn.left_out.of_rows(is_asked),
                basis[:, : len(kept)][:, kept],
                shrinkage[: len(kept)][kept],
                Sides(hashed(turn.places[is_asked]), hashed(places.item)),
                math.ceil(n_hidden * step / n_left_out),
            )
        )
    return np.concatenate(gains)


def gains_of_hidden(
    excess: Excess,
    V: np.ndarray,
    shrinkage: np.ndarray,
    keys: Sides[np.ndarray],
    n_hidden: int,
) -> np.ndarray:
    """Mean discounted gain of hidden choices of each user, by each taste weight.

    Each choice is hidden alone, and ranked among all items not chosen. Of a user
    with more choices than `n_hidden`, those are hidden that come first by keys.
    """
    n_choices = np.diff(excess.damped.indptr)
    row = np.repeat(np.arange(len(n_choices)), n_choices)
    order = np.lexsort((hashed(keys.user[row] + keys.item[excess.damped.indices]), row))
    place = np.arange(len(row)) - excess.damped.indptr[row]
    order = order[(place < n_hidden) & (n_choices[row] > 1)]
    row, hidden = row[order], excess.damped.indices[order]
    chosen, n_others = excess.damped[row], n_choices[row, None] - 1
    users, place = np.unique(row, return_inverse=True)
    inputs = V * excess.of_item[:, None].astype(V.dtype)
    of_users = excess.damped[users]
    of_users.data = np.ones_like(of_users.data)
    vectors = (of_users @ inputs)[place] - inputs[hidden]
    vectors -= n_others * (excess.of_items @ V)
    vectors *= shrinkage
    outputs = V * output_scale(V, shrinkage, excess.of_item)[:, None]
    popularity = (excess.of_items / excess.of_item).astype(V.dtype)
    position = np.repeat(np.arange(len(row)), np.diff(chosen.indptr))
    ranks = np.empty((len(row), len(TASTE_WEIGHTS)))
    for start in range(0, len(row), step := max(1, MAX_RANKED // len(V))):
        some = slice(start, min(start + step, len(row)))
        tastes = product(vectors[some], outputs.T)
        tastes -= np.take_along_axis(tastes, hidden[some, None], axis=1)
        pairs = slice(chosen.indptr[start], chosen.indptr[some.stop])
        tastes[position[pairs] - start, chosen.indices[pairs]] = -np.inf
        lag = popularity[hidden[some], None] - popularity
        lag *= n_others[some] + PRIOR_CHOICES
        ranks[some] = _ranks(tastes, lag)
    gains = 1 / np.log2(1 + ranks)
    starts = np.flatnonzero(np.diff(row, prepend=-1))
    n_hidden_of = np.diff(starts, append=len(row))[:, None]
    return np.add.reduceat(gains, starts) / n_hidden_of if len(row) else gains


def _ranks(tastes: np.ndarray, lag: np.ndarray) -> np.ndarray:
    """Rank of each row among columns whose tastes exceed the lag, by taste weight."""
    ranks = np.empty((len(tastes), len(TASTE_WEIGHTS)))
    weighted, is_before = np.empty_like(tastes), np.empty(tastes.shape, dtype=bool)
    for column, weight in enumerate(TASTE_WEIGHTS.tolist()):
        np.multiply(tastes, weight, out=weighted)
        np.greater(weighted, lag, out=is_before)
        # As numbers, which numpy counts several times as fast as truth values.
        ranks[:, column] = is_before.view(np.uint8).sum(axis=1, dtype=np.uint32)
    return 1 + ranks


def weight_of(gains: np.ndarray, share: Share) -> float:
    """The weight of tastes by which hidden choices of users gain most.

    One other than 1 has to gain more than chance may give.
    """
    gains = gains - gains[:, TASTE_WEIGHTS == 1]
    n = max(share.sum(len(gains)), 1)
    mean = share.sum(gains.sum(axis=0)) / n
    variance = share.sum(np.square(gains).sum(axis=0)) / n - np.square(mean)
    error = np.sqrt(variance.clip(0) / n)
    mean -= N_DEVIATIONS * error
    best = np.argmax(mean)
    return float(TASTE_WEIGHTS[best]) if mean[best] > 0 else 1.0
