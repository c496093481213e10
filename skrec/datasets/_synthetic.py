"""Synthetic ratings whose noise floor is known."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import pandas as pd
from scipy.special import ndtr
from sklearn.utils import check_random_state

from .._data.reading import check_int, check_number

_Rows: TypeAlias = pd.DataFrame | np.ndarray

# Spread of the user biases, the item biases and the taste term, in stars of a
# five-star scale. With the default noise they are about those of MovieLens: a standard
# deviation of 1.1, of which biases leave 0.94 and noise alone 0.80.
_USER_SPREAD, _ITEM_SPREAD, _TASTE_SPREAD = 0.45, 0.5, 0.58


def make_ratings(
    n_users: int = 1000,
    n_items: int = 500,
    n_ratings: int = 50_000,
    *,
    n_factors: int = 8,
    noise: float = 0.82,
    levels: Sequence[float] | None = (1, 2, 3, 4, 5),
    popularity: float = 0.7,
    activity: float = 0.4,
    return_expected: bool = False,
    as_frame: bool = True,
    random_state: int | np.random.RandomState | None = None,
) -> tuple[_Rows, np.ndarray] | tuple[_Rows, np.ndarray, np.ndarray]:
    r"""Draw ratings from a bias and factor model, over power-law popularity.

    A rating is the level nearest to

    .. math:: z_{ui} = \mu + s\,(b_u + c_i + p_u \cdot q_i + \varepsilon_{ui}),
              \qquad \varepsilon_{ui} \sim N(0, \mathtt{noise}^2),

    where :math:`s` is a quarter of the scale's range, which on the default scale
    makes every spread a number of stars, and :math:`\mu` lies at 5/8 of the range
    (3.5 stars). Biases and factors are Gaussian.

    Which pairs are rated does not depend on the ratings. Users share the ratings in
    proportion to ``rank ** -activity``; each user then draws distinct items one
    after the other with probabilities proportional to ``rank ** -popularity``. Ids
    are shuffled, so that they do not depend on the rank. Every user and every item is
    rated at least once as soon as `n_ratings` allows it (``n_ratings >= n_users``
    and ``n_ratings >= n_items``, respectively).

    Memory is proportional to ``n_ratings + (n_users + n_items) * n_factors``: no
    matrix of users times items is ever formed.

    Parameters
    ----------
    n_users : int, default=1000
        Number of users.
    n_items : int, default=500
        Number of items.
    n_ratings : int, default=50_000
        Number of ratings, at most ``n_users * n_items``: no pair is drawn twice.
    n_factors : int, default=8
        Rank of the taste term. Its share of the variance does not depend on the
        rank; 0 leaves it out.
    noise : float, default=0.82
        Standard deviation of the noise, in quarters of the scale's range (stars).
    levels : sequence of float or None, default=(1, 2, 3, 4, 5)
        The ratings that can be given, in increasing order, for instance
        ``np.arange(0.5, 5.1, 0.5)``. None returns :math:`z_{ui}` itself, on the scale
        of 1 to 5, neither rounded nor clipped.
    popularity : float, default=0.7
        Exponent of the power law of the items; 0 makes all equally popular.
    activity : float, default=0.4
        Exponent of the power law of the users; 0 makes all equally active.
    return_expected : bool, default=False
        Whether to return `expected` as well.
    as_frame : bool, default=True
        Whether `X` is a DataFrame rather than an array.
    random_state : int, RandomState instance or None, default=None
        Determines the whole draw; pass an int for the same ratings at every call.

    Returns
    -------
    X : DataFrame of shape (n_ratings, 2) or ndarray of int64, same shape
        Columns ``user`` and ``item``: ids from 0, in random order of rows.
    y : ndarray of shape (n_ratings,)
        The ratings.
    expected : ndarray of shape (n_ratings,)
        :math:`E[y_{ui} \mid b, c, p, q]`, exact, rounding and clipping included. The
        RMSE of `y` against it is the noise floor: the expected RMSE of a model that
        knew every bias and factor. Only with ``return_expected=True``.

    Raises
    ------
    ValueError
        If a parameter is out of its range, or `n_ratings` exceeds
        ``n_users * n_items``.

    Examples
    --------
    >>> import numpy as np
    >>> from skrec.datasets import make_ratings
    >>> X, y, expected = make_ratings(return_expected=True, random_state=0)
    >>> X.shape, np.unique(y).tolist()
    ((50000, 2), [1.0, 2.0, 3.0, 4.0, 5.0])
    >>> bool(np.sqrt(np.mean((y - expected) ** 2)) < 0.83 < y.std())
    True
    """
    check_int(n_users, "n_users", 1)
    check_int(n_items, "n_items", 1)
    check_int(n_ratings, "n_ratings", 1)
    check_int(n_factors, "n_factors", 0)
    check_number(noise, "noise", 0, 100)
    check_number(popularity, "popularity", 0, 5)
    check_number(activity, "activity", 0, 5)
    if n_ratings > n_users * n_items:
        raise ValueError(
            f"n_ratings must be at most n_users * n_items = {n_users * n_items}, as no "
            f"pair is rated twice; got {n_ratings}."
        )
    scale = _scale(levels)

    rng = check_random_state(random_state)
    degree = rng.permutation(_shares(n_ratings, n_users, n_items, activity))
    weight = rng.permutation(np.arange(1.0, n_items + 1) ** -popularity)
    user, item = np.divmod(_draw_pairs(degree, weight, rng), n_items)
    mean = _draw_means(user, item, (n_users, n_items), n_factors, scale, rng)
    std = (scale[-1] - scale[0]) / 4 * noise
    y = mean + std * rng.standard_normal(n_ratings)

    expected = mean
    if levels is not None:
        middles = (scale[1:] + scale[:-1]) / 2
        y = scale[np.searchsorted(middles, y)]
        if return_expected:
            expected = _expected_level(scale, middles, mean, std)
    X = np.column_stack([user, item])
    if as_frame:
        X = pd.DataFrame(X, columns=["user", "item"])
    return (X, y, expected) if return_expected else (X, y)


def _scale(levels: Sequence[float] | None) -> np.ndarray:
    """Levels as an array, or the ends of the continuous scale."""
    try:
        scale = np.array([1.0, 5.0] if levels is None else levels, dtype=float)
    except (TypeError, ValueError):
        scale = np.empty(0)
    is_scale = scale.ndim == 1 and len(scale) > 1 and np.isfinite(scale).all()
    if not is_scale or not (np.diff(scale) > 0).all():
        raise ValueError(
            "levels must be None or at least two ratings in increasing order, such as "
            f"[1, 2, 3], got {levels!r}."
        )
    return scale


def _draw_means(
    user: np.ndarray,
    item: np.ndarray,
    shape: tuple[int, int],
    n_factors: int,
    scale: np.ndarray,
    rng: np.random.RandomState,
) -> np.ndarray:
    """Draw biases and factors; return the mean rating of each pair."""
    n_users, n_items = shape
    unit = (scale[-1] - scale[0]) / 4
    mean = scale[0] + unit * (
        2.5
        + rng.normal(0, _USER_SPREAD, n_users)[user]
        + rng.normal(0, _ITEM_SPREAD, n_items)[item]
    )
    # Factor by factor, because a gather of whole rows would take n_factors times the
    # memory of the ratings.
    for _ in range(n_factors):
        p, q = rng.standard_normal(n_users), rng.standard_normal(n_items)
        mean += unit * _TASTE_SPREAD / np.sqrt(n_factors) * p[user] * q[item]
    return mean


def _expected_level(
    levels: np.ndarray, middles: np.ndarray, mean: np.ndarray, std: float
) -> np.ndarray:
    """Return E of the level nearest to a Gaussian, as a sum of its upper tails."""
    if std == 0:
        return levels[np.searchsorted(middles, mean)]
    expected = np.full_like(mean, levels[0])
    for step, middle in zip(np.diff(levels), middles, strict=True):
        expected += step * ndtr((mean - middle) / std)
    return expected


def _shares(total: int, n: int, cap: int, exponent: float) -> np.ndarray:
    """Split `total` into n integers that fall like a power law, none above `cap`.

    Each gets one first, if there is enough.
    """
    first = int(total >= n)
    total, cap = total - first * n, cap - first
    weight = np.arange(1.0, n + 1) ** -exponent
    # If the k largest shares are at the cap, the others split the rest in proportion to
    # their weights; the right k is the least that respects the cap.
    rest = total - cap * np.arange(n)
    factor = rest / weight[::-1].cumsum()[::-1]
    fits = factor * weight <= cap
    fits[-1] = True
    share = np.minimum(factor[fits.argmax()] * weight, cap)
    # Differences of rounded sums are whole numbers that add up to the total.
    edges = np.rint(share.cumsum()).astype(np.int64)
    edges[-1] = total
    return first + np.diff(edges, prepend=0)


def _draw_pairs(
    degree: np.ndarray, weight: np.ndarray, rng: np.random.RandomState
) -> np.ndarray:
    """Draw degree[u] distinct items for each user u; return u * n_items + item.

    Items are drawn one after the other, with probabilities proportional to `weight`
    among those that the user does not have yet. Drawing with replacement and dropping
    repeats does that fast, as long as a user has few of the items. Where repeats
    pile up, the same distribution comes from a race: the items with the smallest
    Exp(1) / weight win (Efraimidis and Spirakis, 2006).
    """
    n_users, n_items = len(degree), len(weight)
    pairs = np.empty(0, dtype=np.int64)
    if degree.sum() >= n_items:
        # One rating for every item, by users in proportion to their activity.
        slots = rng.permutation(np.repeat(np.arange(n_users), degree))
        pairs = np.sort(slots[:n_items] * n_items + np.arange(n_items))

    wheel = weight.cumsum()
    wheel /= wheel[-1]
    light = np.minimum(degree, n_items // 10)
    for _ in range(20):
        missing = light - np.bincount(pairs // n_items, minlength=n_users)
        user = np.repeat(np.arange(n_users), missing.clip(0))
        if not len(user):
            break
        item = np.searchsorted(wheel, rng.random_sample(len(user)), side="right")
        # np.unique would do, but took 40 times as long on tens of millions.
        pairs = np.sort(np.concatenate([pairs, user * n_items + item]))
        pairs = pairs[np.diff(pairs, prepend=-1) > 0]

    missing = degree - np.bincount(pairs // n_items, minlength=n_users)
    users = np.flatnonzero(missing)
    pairs_of_users = pairs[missing[pairs // n_items] > 0]
    drawn = [pairs]
    # Blocks of users bound the memory.
    step = max(1, 2**20 // n_items)
    for start in range(0, len(users), step):
        block = users[start : start + step]
        race = rng.standard_exponential((len(block), n_items)) / weight
        ends = np.searchsorted(
            pairs_of_users, [block[0] * n_items, (block[-1] + 1) * n_items]
        )
        user, item = np.divmod(pairs_of_users[slice(*ends)], n_items)
        race[np.searchsorted(block, user), item] = np.inf
        ranked = block[:, None] * n_items + race.argsort(axis=1)
        drawn.append(ranked[np.arange(n_items) < missing[block, None]])
    pairs = np.concatenate(drawn)
    rng.shuffle(pairs)
    return pairs
