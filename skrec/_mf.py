"""MFRegressor: parameters, docstring, and which solver."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from itertools import islice
from typing import Any, Literal, Self

import numpy as np
import pandas as pd
import torch
from scipy import sparse
from sklearn.utils import check_random_state
from sklearn.utils.metaestimators import available_if

from ._alternating.conditional import Layout
from ._alternating.convert import (
    as_posterior,
    as_state,
    as_weights,
    in_rating_units,
    with_unobserved_pairs,
)
from ._alternating.posterior import DESCRIBED, FeatureWeights, Posterior
from ._alternating.problem import Problem, RatingArrays
from ._alternating.start import spectral_start
from ._alternating.state import State
from ._alternating.sweep import (
    als,
    as_map_estimate,
    gibbs,
    update,
    vb,
    with_covariance,
)
from ._base import (
    Integral,
    Interval,
    Iteration,
    Real,
    StrOptions,
    reads_one_fit,
    snapshot,
)
from ._data.interactions import Interactions, numbered
from ._data.units import Units
from ._gradient.loop import OPTIMIZERS
from ._gradient.network import Shape
from ._gradient.training import NetworkRecommender
from ._topk import Fill, inner_products

DEFAULT_MAX_ITER = {"vb": 200, "gibbs": 200, "als": 50, "adam": 8, "sgd": 20}
DEFAULT_REG = {"als": 12.0, "adam": 1.0, "sgd": 1.0}
DEFAULT_REG_CHOICES = 0.1

# Where all pairs count, a row's penalty grows with the root of its weight, as that of
# the gradient solvers does, and less is asked for where pairs without ratings, which
# hold rows to zero themselves, count for more.
DEFAULT_REG_UNOBSERVED, UNOBSERVED_EXPONENT = 0.3, 0.5

DEFAULT_FALL_TOL = {"vb": 2e-3, "als": 1e-3}

# Up to so many ratings a sweep takes no longer in double precision than all else does,
# and residuals of small data can be far smaller than the ratings.
MAX_DOUBLE_ROWS = 2**15

# A share of the ratings' variance that noise is hardly ever below.
COLLAPSED_NOISE = 1e-3
COLLAPSED = (
    "The noise has collapsed: the model reproduces the ratings to 3 % of their "
    "standard deviation, and standard deviations of predictions say little then. Look "
    "for a column of X that tells the ratings, or for ratings that were computed from "
    "each other."
)

# How much of the variance of scores users do not share, at the least.
LEAST_TASTE_RATIO = 1e-3
NO_FACTORS = (
    "No factor is left: there are too few choices for this solver to tell users apart, "
    "and all get nearly the same list. Use solver='als', or a loss that draws items."
)

# A chain starts from vb's posterior after some sweeps, and forgets its first draws.
VB_SWEEPS = 10
BURN_IN = 10

# How far the items may move predictions in the last sweep over further ratings: root
# mean square, in standard deviations of the ratings.
REVISION_TOL = 0.06


def _learns_further(model: MFRegressor) -> bool:
    if model.solver != "gibbs":
        return True
    raise AttributeError(
        f"This {type(model).__name__} has solver='gibbs', whose draws of known rows "
        "cannot be revised without their ratings; partial_fit needs another solver."
    )


class MFRegressor(NetworkRecommender):
    """Matrix factorisation of ratings, as a regressor over (user, item) rows.

    The model of a rating y of user u and item i, with features x of that rating, is::

        y = μ + b_u + c_i + p_u·q_i + x·w + ε,    ε ~ N(0, 1 / (β α_u γ_i))

    Each row (p_u, b_u) of a user has a Gaussian prior, and so has each row (q_i, c_i)
    of an item::

        (p_u, b_u) ~ N(m + Bᵀf_u, Λ⁻¹),    weights B ~ N(0, Ω⁻¹)

    where f_u is what is known of the user besides: whom they have ratings with
    (`implicit_features` [4]_), and what describes them (`user_features` of `fit` [5]_).
    m, Λ, B and Ω are learned. α_u and γ_i, of mean one, let users and items differ in
    how noisy their ratings are [3]_. Ratings are standardised inside, so their scale
    needs no setting.

    Parameters
    ----------
    n_factors : int, default=16
        Length of p_u and q_i. 0 leaves the biases alone.
    solver : {"vb", "gibbs", "als", "adam", "sgd"}, default="vb"
        - "vb": variational Bayes [1]_. Deterministic; nothing to tune.
        - "gibbs": posterior sampling [2]_, started from "vb". About as accurate as
          "vb", and more so where ratings are few and noisy and implicit features are
          off; at many times the time and with every kept draw in memory.
        - "als": penalised least squares, alternating. Needs `reg`, knows no standard
          deviations, and takes the noise to be the same everywhere.
        - "adam", "sgd": gradients of mini-batches, for other losses. As "als", but with
          another penalty (see `reg`).
    biased : bool, default=True
        False is the plain dot product: y = p_u·q_i + x·w + ε, without μ.
    reg : float, default=None
        Penalty of squares, for standardised ratings and relative weights (of mean about
        1). "als" minimises
        Σ weight (y − ŷ)² + reg (Σ_r W_r^reg_exponent ‖r − Bᵀf‖² + 5 ‖B‖² + ‖w‖²) over
        rows r = (p_u, b_u) and (q_i, c_i), with W_r the weight of the pairs of a row.
        "adam" and "sgd" minimise Σ weight · loss + reg (Σ_r √W_r ‖r‖² + …) over rows
        less Bᵀf, and likewise over w. None is 12 for "als", and 0.3 / (1 + 2 α₀) with
        an `unobserved_weight` α₀; for "adam" and "sgd" it is 1 for ratings (0.5 with
        "absolute_error" and "huber", which bend half as far), and 0.1 for what users
        chose. Not used by "vb" and "gibbs".
    reg_exponent : float, default=None
        How the penalty of a row grows with the weight of its pairs, for "als": 0 is the
        same for all rows, 1 in proportion [7]_. With 1, `reg` is smaller by about the
        mean weight. None is 0.5 with `unobserved_weight`, else 0.
    implicit_features : bool, default=None
        Let the items that a user has ratings with say what to expect of the user, and
        the users of an item what to expect of it: f is 1 / √n for each of n. None is
        True for "vb" and "gibbs" without `unobserved_weight`, else False. Not used by
        "adam" and "sgd".
    unobserved_weight : float, default=0.0
        Above 0, every pair of a user and an item counts as a rating of 0 with this
        weight, besides its own ratings if it has any: for what users chose, with y left
        out and `sample_weight` for how sure each choice is [6]_. Ratings are not
        centred then. Use solver="als" where users chose few items: "vb" and "gibbs" may
        find no factors in so few choices, and rank nearly as popularity does. Not used
        by "adam" and "sgd", which draw some of the pairs (`n_negatives`).
    loss : {"squared_error", "absolute_error", "huber", "log_loss", "bpr"}, \
            default="squared_error"
        As in `NCFRegressor`. All but the default need "adam" or "sgd".
    n_negatives, learning_rate_init, batch_size, early_stopping, validation_fraction, \
            n_iter_no_change
        As in `NCFRegressor`. Used by "adam" and "sgd" only.
    max_iter : int, default=None
        Sweeps at most (vb, als), draws kept (gibbs) or epochs (adam, sgd). None is 200
        for "vb" and "gibbs", 50 for "als", 8 for "adam" and 20 for "sgd".
    tol : float, default=None
        "vb" and "als" stop when a sweep lowers the objective (see `loss_curve_`) by
        less than this. "adam" and "sgd" use it as `NCFRegressor` does. None is 2e-3 for
        "vb", 1e-3 for "als", and 1e-4 for "adam" and "sgd".
    handle_unknown : {"ignore", "warn", "error"}, default="ignore"
        What to do with users and items that `fit` has not seen: answer from what is
        known (the mean, the other side), the same with a warning, or refuse.
    clip : bool, default=True
        Clip predictions to the range of the training ratings.
    store_covariance : bool, default=True
        Keep the posterior covariances, of (n_users + n_items) (n_factors + 1)² numbers,
        which `predict(return_std=True)` needs after "vb", and `partial_fit` after "vb"
        and "als".
    warm_start : bool, default=False
        Start from the last fit. Users and items are recognised by their ids.
    device : str or torch.device, default="auto"
        "auto" is CUDA where it is available, else the CPU; or a device of torch.
    random_state : int, RandomState instance or None, default=None
        Seed of the draws (gibbs), or of all that is random in training (adam, sgd).
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
    user_feature_coef_, item_feature_coef_ : ndarray of shape \
            (n_columns, n_factors + biased)
        B of `user_features` and `item_features`, if `fit` was given them: what a column
        adds to the factors and the bias of a row before it has ratings. Columns are
        those after encoding, as `feature_effects` names them.
    noise_std_ : float
        Standard deviation of ε for a user and an item of average noise; of the
        residuals, with "adam" and "sgd"; NaN where the loss is not one of ratings.
    rating_range_ : tuple of float
        What `clip` clips to: the smallest and largest training rating, [0, 1] with
        "log_loss" or drawn items, and everything with "bpr".
    n_iter_ : int
        Number of iterations run.
    loss_curve_ : list of float
        The objective after every iteration, per unit of weight and for standardised
        ratings: minus the evidence lower bound (vb), the penalised sum of squares
        (als), half the weighted residual sum of squares times β (gibbs), or the mean
        loss of the epoch's batches (adam, sgd).
    validation_scores_ : list of float
        As in `NCFRegressor`; None for the other solvers.
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
    .. [4] Koren (2008). Factorization meets the neighborhood: a multifaceted
       collaborative filtering model. KDD.
    .. [5] Simm, Arany, Zakeri, Haber, Wegner, Chupakhin, Ceulemans, Moreau (2017).
       Macau: scalable Bayesian factorization with high-dimensional side information
       using MCMC. MLSP.
    .. [6] Hu, Koren, Volinsky (2008). Collaborative filtering for implicit feedback
       datasets. ICDM.
    .. [7] Rendle, Krichene, Zhang, Koren (2022). Revisiting the performance of iALS on
       item recommendation benchmarks. RecSys.

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

    What is known of users reaches those without ratings:

    >>> import pandas as pd
    >>> people = ["ann", "bob", "cleo", "dan"]
    >>> age = pd.DataFrame({"age": [31, 62, 35, 60]}, index=people)
    >>> mf = mf.fit(X, y, user_features=age)
    >>> mf.recommend(["dan"], n_items=1).shape
    (1, 1)
    """

    _parameter_constraints: dict = {
        **NetworkRecommender._parameter_constraints,
        "n_factors": [Interval(Integral, 0, None, closed="left")],
        "solver": [StrOptions({"vb", "gibbs", "als", "adam", "sgd"})],
        "biased": ["boolean"],
        "reg": [Interval(Real, 0, None, closed="neither"), None],
        "reg_exponent": [Interval(Real, 0, None, closed="left"), None],
        "implicit_features": ["boolean", None],
        "unobserved_weight": [Interval(Real, 0, None, closed="left")],
        "store_covariance": ["boolean"],
    }

    def __init__(
        self,
        n_factors: int = 16,
        *,
        solver: Literal["vb", "gibbs", "als", "adam", "sgd"] = "vb",
        biased: bool = True,
        reg: float | None = None,
        reg_exponent: float | None = None,
        implicit_features: bool | None = None,
        unobserved_weight: float = 0.0,
        loss: Literal[
            "squared_error", "absolute_error", "huber", "log_loss", "bpr"
        ] = "squared_error",
        n_negatives: int | None = None,
        learning_rate_init: float | None = None,
        batch_size: int | None = None,
        max_iter: int | None = None,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        n_iter_no_change: int = 3,
        tol: float | None = None,
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
        self.reg_exponent = reg_exponent
        self.implicit_features = implicit_features
        self.unobserved_weight = unobserved_weight
        self.loss = loss
        self.n_negatives = n_negatives
        self.learning_rate_init = learning_rate_init
        self.batch_size = batch_size
        self.max_iter = max_iter
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.n_iter_no_change = n_iter_no_change
        self.tol = tol
        self.handle_unknown = handle_unknown
        self.clip = clip
        self.store_covariance = store_covariance
        self.warm_start = warm_start
        self.device = device
        self.random_state = random_state
        self.verbose = verbose

    @property
    @reads_one_fit
    def user_factors_(self) -> np.ndarray:
        """Factors of users, ndarray of shape (n_users, n_factors)."""
        return self._factors("user")

    @property
    @reads_one_fit
    def item_factors_(self) -> np.ndarray:
        """Factors of items, ndarray of shape (n_items, n_factors)."""
        return self._factors("item")

    @property
    @reads_one_fit
    def user_biases_(self) -> np.ndarray:
        """Biases of users, ndarray of shape (n_users,)."""
        return self._biases("user")

    @property
    @reads_one_fit
    def item_biases_(self) -> np.ndarray:
        """Biases of items, ndarray of shape (n_items,)."""
        return self._biases("item")

    @property
    @reads_one_fit
    def user_feature_coef_(self) -> np.ndarray:
        """Weights of users' features, ndarray of shape (n_columns, row_size)."""
        return self._feature_coef("user")

    @property
    @reads_one_fit
    def item_feature_coef_(self) -> np.ndarray:
        """Weights of items' features, ndarray of shape (n_columns, row_size)."""
        return self._feature_coef("item")

    @reads_one_fit
    def feature_effects(self) -> pd.DataFrame:
        """What each feature of users and items says of ratings, before there are any.

        The effect of a column of B, the weights of a user's features, is B·(q̄, 1) with
        the mean q̄ of all items' factors: what it adds to a user's rating of an average
        item. Likewise for an item's.

        Returns
        -------
        effects : DataFrame of shape (n_columns, 4)
            side : "user" or "item".

            feature : name of the column; of a category, column and value.

            effect : in rating units. Of a number, for one standard deviation more; of a
            flag (0 or 1), for 1 instead of 0; of a category, for this one instead of
            one like any.

            std : posterior standard deviation of the effect; NaN where `predict` has
            none.

        Raises
        ------
        AttributeError
            If `fit` was given neither `user_features` nor `item_features`.

        See Also
        --------
        feature_interactions : What two features say together.

        Examples
        --------
        >>> import pandas as pd
        >>> from skrec import MFRegressor
        >>> from skrec.datasets import make_ratings
        >>> X, y = make_ratings(100, 50, 2000, random_state=0)
        >>> y = y + X["item"] % 2
        >>> odd = pd.DataFrame({"odd": range(50)}).mod(2)
        >>> mf = MFRegressor(4).fit(X, y, item_features=odd)
        >>> mf.feature_effects().round(1)
           side feature  effect  std
        0  item     odd     1.0  0.1
        """
        frames = []
        for side in self._described_sides():
            effect, std = self._posterior.effects(side, self._contrasts(side))
            names = self._descriptions[side].encoder.names
            frame = {"side": side, "feature": names, "effect": effect, "std": std}
            frames.append(pd.DataFrame(frame))
        return pd.concat(frames, ignore_index=True)

    @reads_one_fit
    def feature_interactions(self) -> pd.DataFrame:
        """What features of users and of items say of ratings together.

        For columns B of users' and C of items' weights it is B·C over the factors: what
        they add besides their effects.

        Returns
        -------
        interactions : DataFrame of shape (n_user_columns × n_item_columns, 4)
            user_feature, item_feature : names of the columns.

            effect, std : as in `feature_effects`.

        Raises
        ------
        AttributeError
            If `fit` was not given both `user_features` and `item_features`.
        """
        if len(self._described_sides()) < 2:
            raise AttributeError(
                f"This {type(self).__name__} was not fitted with both user_features "
                "and item_features."
            )
        names = [self._descriptions[side].encoder.names for side in ("user", "item")]
        effect, std = self._posterior.interactions(
            self._contrasts("user"), self._contrasts("item")
        )
        index = pd.MultiIndex.from_product(
            names, names=["user_feature", "item_feature"]
        )
        frame = pd.DataFrame(
            {"effect": effect.ravel(), "std": std.ravel()}, index=index
        )
        return frame.reset_index()

    def _described_sides(self) -> list[str]:
        descriptions = getattr(self, "_descriptions", {})
        sides = [side for side, known in descriptions.items() if known.encoder.names]
        if not sides:
            raise AttributeError(
                f"This {type(self).__name__} was not fitted with user_features or "
                "item_features, or they held no value."
            )
        return sides

    def _weights_of(self, side: str) -> FeatureWeights:
        return getattr(self._posterior, f"{side}s").weights[DESCRIBED]

    def _contrasts(self, side: str) -> sparse.csr_array:
        mean = self._weights_of(side).mean_features
        return self._descriptions[side].encoder.contrasts(mean)

    def _feature_coef(self, side: str) -> np.ndarray:
        described = getattr(self, "_descriptions", {}).get(side)
        if described is None or not described.encoder.names:
            raise AttributeError(
                f"This {type(self).__name__} was not fitted with {side}_features."
            )
        weights = self._weights_of(side)
        return weights.scale * weights.mean.mean(axis=0)

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

    @available_if(_learns_further)
    def partial_fit(
        self, X, y=None, sample_weight=None, *, user_features=None, item_features=None
    ) -> Self:
        return super().partial_fit(
            X,
            y,
            sample_weight,
            user_features=user_features,
            item_features=item_features,
        )

    partial_fit.__doc__ = NetworkRecommender.partial_fit.__doc__

    def _max_iter(self) -> int:
        if self.max_iter is None:
            return DEFAULT_MAX_ITER[self.solver]
        return int(self.max_iter)

    def _can_converge(self) -> bool:
        return self.solver in ("vb", "als")

    def _reg(self) -> float:
        if self.reg is not None:
            return float(self.reg)
        if self._is_implicit():
            return DEFAULT_REG_CHOICES
        if self.unobserved_weight:
            return DEFAULT_REG_UNOBSERVED / (1 + 2 * self.unobserved_weight)
        return DEFAULT_REG[self.solver] * self._curvature()

    def _reg_exponent(self) -> float:
        """How the penalty of "als" grows with the weight of a row."""
        if self.reg_exponent is not None:
            return float(self.reg_exponent)
        return UNOBSERVED_EXPONENT if self.unobserved_weight else 0.0

    def _tol(self) -> float:
        """By how little a sweep lowers the objective that is the last one."""
        return DEFAULT_FALL_TOL[self.solver] if self.tol is None else self.tol

    def _iterate(self, data: Interactions, device: torch.device) -> Iterator[Iteration]:
        if self.n_factors == 0 and not self.biased:
            raise ValueError(
                "n_factors=0 and biased=False leave nothing to fit; raise n_factors or "
                "set biased=True."
            )
        self._check_solver()
        if self.solver in OPTIMIZERS:
            return self._train(data, device)
        units = Units.of(data, centred=self.biased and not self.unobserved_weight)
        problem = self._problem(
            data,
            units,
            device,
            implicit_features=self._has_implicit_features(),
            unobserved_weight=float(self.unobserved_weight),
        )
        continued = self.warm_start and hasattr(self, "_posterior")
        start = (
            self._continued(problem, data, units)
            if continued
            else spectral_start(problem)
        )
        if self.solver == "als":
            states = als(problem, start, self._reg(), self._reg_exponent())
        elif self.solver == "vb":
            states = vb(problem, start)
        else:
            if not continued:
                start = next(islice(vb(problem, start), VB_SWEEPS - 1, None))
            states = gibbs(problem, start, check_random_state(self.random_state))
            states = states if continued else islice(states, BURN_IN, None)
        least = COLLAPSED_NOISE if self._may_collapse(data) else 0.0
        return self._sweeps(states, partial(self._belief, problem, units), units, least)

    def _may_collapse(self, data: Interactions) -> bool:
        """Whether there is noise, which residuals next to none would not show."""
        varies = np.ptp(data.rating) > 0
        return self.solver != "als" and not self.unobserved_weight and varies

    def _check_solver(self) -> None:
        """Refuse what the solver cannot do."""
        if self.solver in OPTIMIZERS:
            if self.unobserved_weight:
                raise ValueError(
                    f"solver={self.solver!r} cannot weigh all pairs without ratings "
                    f"(unobserved_weight={self.unobserved_weight}); it draws some of "
                    "them (n_negatives). Use it, or another solver."
                )
            return
        if self.loss != "squared_error":
            raise ValueError(
                f"solver={self.solver!r} minimises squared errors; loss={self.loss!r} "
                "needs solver='adam' or 'sgd'."
            )
        if self.unobserved_weight and self.implicit_features:
            raise ValueError(
                "implicit_features=True tells the model whom a row has ratings with, "
                "which is what it is to predict with unobserved_weight="
                f"{self.unobserved_weight}. Leave one of them out."
            )

    def _problem(
        self,
        data: Interactions,
        units: Units,
        device: torch.device,
        *,
        implicit_features: bool = False,
        unobserved_weight: float = 0.0,
    ) -> Problem:
        is_small = len(data.rating) <= MAX_DOUBLE_ROWS
        problem = Problem.from_arrays(
            RatingArrays(
                data.users,
                data.items,
                data.shape,
                units.standard_ratings(data.rating),
                data.weight,
                units.standard_features(data.features),
            ),
            Layout(int(self.n_factors), self.biased, device),
            torch.float64 if is_small else torch.float32,
        )
        problem = problem.with_features(
            **{f"{side}s": known.matrix for side, known in data.described.items()}
        )
        if implicit_features:
            problem = problem.with_implicit_features()
        if unobserved_weight:
            problem = problem.with_all_pairs(unobserved_weight)
        return problem

    def _has_implicit_features(self) -> bool:
        if self.implicit_features is not None:
            return self.implicit_features
        return self.solver in ("vb", "gibbs") and not self.unobserved_weight

    def _needs_no_ratings(self) -> bool:
        return self.unobserved_weight > 0 or super()._needs_no_ratings()

    def _counts_unseen_pairs(self) -> bool:
        return self.unobserved_weight > 0 or super()._counts_unseen_pairs()

    def _rating_range(self, rating: np.ndarray) -> tuple[float, float]:
        low, high = super()._rating_range(rating)
        if self.unobserved_weight:
            return min(low, 0.0), max(high, 0.0)
        return low, high

    def _belief(self, problem: Problem, units: Units, state: State) -> Posterior:
        """What a sweep has left, in rating units."""
        if self.solver == "als":
            state = as_map_estimate(state)
            if self.store_covariance:
                state = with_covariance(problem, state)
        return in_rating_units(
            state,
            units,
            problem,
            knows_variance=self.solver == "vb",
            learns_prior=self.solver != "als",
        )

    def _sweeps(
        self,
        states: Iterator[State],
        export: Callable[[State], Posterior],
        units: Units,
        least_noise: float,
    ) -> Iterator[Iteration]:
        tol = self._tol() if self._can_converge() else None
        draws: list[Posterior] = []
        previous = np.inf
        for state in states:
            fall, previous = previous - state.objective, state.objective
            if self.solver == "gibbs":
                draws.append(export(state))
                belief = partial(Posterior.average, draws)
            else:
                belief = partial(export, state)
            progress = f"a fall of {fall:.2g}"
            yield Iteration(
                state.objective,
                progress if tol is None else f"{progress} against tol={tol}",
                tol is not None and fall < tol,
                partial(self._attributes, belief, units),
                self._warning(state, least_noise),
            )

    def _warning(self, state: State, least_noise: float) -> str:
        """What to warn of if this is the last sweep."""
        if state.noise_variance < least_noise:
            return COLLAPSED
        may_die = self.unobserved_weight and self.solver == "vb" and self.n_factors
        if may_die and state.taste_ratio(int(self.n_factors)) < LEAST_TASTE_RATIO:
            return NO_FACTORS
        return ""

    def _attributes(
        self, belief: Callable[[], Posterior], units: Units
    ) -> dict[str, Any]:
        posterior = belief()
        if not self.store_covariance:
            posterior = posterior.without_covariance()
        return {
            "_posterior": posterior,
            "_units": units,
            "_fitted_objective": ("squared_error", 0),
            "_weighs_unobserved": self.unobserved_weight > 0,
            "validation_scores_": None,
            "intercept_": posterior.intercept,
            "coef_": posterior.coef,
            "noise_std_": float(np.sqrt(posterior.noise_variance)),
        }

    def _continued(self, problem: Problem, data: Interactions, units: Units) -> State:
        """A start where the last fit ended."""
        return as_state(
            self._posterior,
            problem,
            units,
            numbered(data.user_ids, self.user_ids_, "X (users)"),
            numbered(data.item_ids, self.item_ids_, "X (items)"),
            self._places_of_columns(data),
        )

    def _check_can_continue(self) -> None:
        self._check_solver()
        if bool(self.unobserved_weight) != self._weighs_unobserved:
            raise ValueError(
                "partial_fit continues a fit that took pairs without ratings "
                f"{'for zeros' if self._weighs_unobserved else 'for nothing'}, which "
                f"unobserved_weight={self.unobserved_weight} does not. Set it back, or "
                "fit anew."
            )
        if self.solver in OPTIMIZERS:
            super()._check_can_continue()
            return
        if self._posterior.users.covariance is None:
            raise ValueError(
                f"partial_fit with solver={self.solver!r} revises what the last fit "
                "believed, and needs its covariances: fit with solver='vb' or 'als' "
                "and store_covariance=True."
            )

    def _learned_further(
        self,
        data: Interactions,
        users: np.ndarray,
        items: np.ndarray,
        grown: Interactions,
        device: torch.device,
    ) -> dict[str, Any]:
        if self.solver in OPTIMIZERS:
            return super()._learned_further(data, users, items, grown, device)
        last, units = self._posterior, self._units
        problem = self._problem(data, units, device)
        if self.unobserved_weight:
            problem = with_unobserved_pairs(
                problem, float(self.unobserved_weight), last, units, users, items
            )
        exponent = self._reg_exponent() if self.solver == "als" else 0.0
        start = as_state(last, problem, units, users, items, {}, exponent)
        try:
            state = update(
                problem,
                start,
                is_certain=not last.knows_variance,
                past_weight=max(last.users.count.sum(), last.items.count.sum()),
                max_sweeps=self._max_iter(),
                tol=REVISION_TOL,
            )
        except torch.linalg.LinAlgError as error:
            raise FloatingPointError(
                "Further ratings, features or weights are so far from those of the fit "
                "that single precision cannot hold them together; look for a wrong "
                "unit, or fit anew."
            ) from error
        posterior = last.merged(
            in_rating_units(
                state, units, problem, knows_variance=last.knows_variance, last=last
            ),
            *grown.growths,
        )
        if not last.knows_variance:
            posterior = posterior.scaled(
                float(posterior.noise_variance / last.noise_variance)
            )
        return self._attributes(lambda: posterior, units)

    def _shape_of(self, data: Interactions) -> Shape:
        return Shape(
            *data.shape,
            data.features.shape[1],
            n_factors=int(self.n_factors),
            biased=self.biased,
        )

    def _fitted_shape(self) -> Shape:
        posterior = self._posterior
        return Shape(
            len(self.user_ids_),
            len(self.item_ids_),
            len(posterior.coef),
            n_factors=posterior.n_factors,
            biased=posterior.row_size > posterior.n_factors,
        )

    def _grown_weights(
        self, users: np.ndarray, items: np.ndarray
    ) -> dict[str, np.ndarray]:
        return as_weights(self._posterior.taking(users, items), self._units)

    def _with_rows(
        self,
        tables: dict[str, dict[str, np.ndarray]],
        data: Interactions,
        grown: Interactions,
    ) -> dict[str, Any]:
        last, units = self._posterior, self._units
        nobody = np.empty(0, dtype=np.int64)
        shared = self._grown_weights(nobody, nobody)
        tables = {
            name: np.concatenate([rows, shared[name]])
            for side in tables
            for name, rows in tables[side].items()
        }
        revised = as_posterior(shared | tables, units)
        posterior = last.merged(revised, *grown.growths)
        # The noise of all ratings together; one of the past weighs 1.
        weight, n_past = data.weight / units.mean_weight, len(self._seen_items)
        predicted = revised.mean(data.users, data.items, data.features)
        squares = weight @ (data.rating - predicted) ** 2
        noise_variance = (n_past * last.noise_variance + squares) / (
            n_past + weight.sum()
        )
        posterior = replace(posterior, noise_variance=noise_variance)
        return self._attributes(lambda: posterior, units) | {
            "_fitted_objective": self._objective
        }

    def _network_attributes(
        self, weights: dict[str, np.ndarray], data: Interactions, units: Units
    ) -> dict[str, Any]:
        posterior = as_posterior(weights, units)
        noise_variance = np.nan
        if not self._is_implicit():
            predicted = posterior.mean(data.users, data.items, data.features)
            noise_variance = np.average(
                (data.rating - predicted) ** 2, weights=data.weight
            )
        posterior = replace(posterior, noise_variance=noise_variance)
        return self._attributes(lambda: posterior, units)

    def _knowing(
        self, users: sparse.csr_array | None, items: sparse.csr_array | None
    ) -> Self:
        model = snapshot(self)
        model._posterior = self._posterior.describing(users=users, items=items)
        return model

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
                "return_std=True needs a fit with solver='vb' and "
                "store_covariance=True, or with solver='gibbs', which the last one was "
                "not."
            )
        return mean, np.sqrt(self._posterior.variance(users, items, features))

    def _scorer(
        self, rows: np.ndarray, columns: np.ndarray, device: torch.device
    ) -> Callable[[slice], Fill]:
        posterior = self._posterior
        items = np.require(posterior.item_rows(columns), requirements="W")
        items = torch.from_numpy(items).to(device)

        def score(tile: slice) -> Fill:
            users = torch.from_numpy(posterior.user_rows(rows[tile]))
            return inner_products(users.to(device), items)

        return score

    def _vectors(self, side: Literal["user", "item"], rows: np.ndarray) -> np.ndarray:
        return self._posterior.vectors(side, rows)

    def _ratings(self, scores: np.ndarray, rows: np.ndarray) -> np.ndarray:
        bias = self._posterior.bias("user", rows)[:, None]
        return self._response(scores + bias + self._posterior.centre)

    def _profiles(self, side: Literal["user", "item"]) -> tuple[np.ndarray, np.ndarray]:
        if self._posterior.n_factors == 0:
            raise ValueError(
                "Similarity compares factors, but this model has n_factors=0."
            )
        return self._posterior.profiles(side)
