"""MFRegressor: parameters, its solver, and attributes and effects of its factors."""

from __future__ import annotations

from dataclasses import replace
from numbers import Integral, Real
from typing import Any, Literal, Self

import numpy as np
import pandas as pd
from scipy import sparse

from ._alternating import effects
from ._alternating.als import ALSSolver
from ._alternating.factors import posterior_of_factors
from ._alternating.gibbs import GibbsSolver
from ._alternating.links import DESCRIBED, FittedLinkMatrix
from ._alternating.posterior import Posterior
from ._alternating.solver import DEFAULT_N_FACTORS
from ._alternating.value_terms import FittedColumn
from ._alternating.vb import VBSolver
from ._base import BaseRecommender
from ._conversion import PosteriorConversion
from ._data.containers import ArrayLike
from ._data.known_ids import KnownIds
from ._data.side_features import Encoder
from ._data.sides import SideName, Sides, check_side
from ._data.units import Units
from ._data.weights import Weighting
from ._effects import check_by, check_effects, context_effects
from ._factors import fix_params, read_factors, seen_of
from ._gradient.loop import OPTIMIZERS
from ._gradient.network import Shape
from ._interfaces import CURVES, Objective, Solver
from ._parameters import (
    GRADIENT_CONSTRAINTS,
    MAX_COUNT,
    MAX_EXPONENT,
    MAX_WEIGHT,
    MIN_WEIGHT,
    gradient_solver,
    objective_of,
)
from ._sklearn import AvailableIf, Interval, StrOptions
from ._snapshot import fitted_attribute, reads_one_fit
from ._storage import stored

DEFAULT_MAX_ITER = {"vb": 200, "gibbs": 200, "als": 50, "adam": 8, "sgd": 20}
DEFAULT_REG = 1.0

# The penalty of one network is large enough for ratings of some noise.
NOISE_SHARE = 0.7


def _check_updates(estimator: MFRegressor) -> None:
    if estimator.solver == "gibbs":
        raise AttributeError(
            f"This {type(estimator).__name__} has no attribute 'partial_fit' with "
            "solver='gibbs', whose draws of known rows cannot be updated without their "
            "ratings. Fit anew, or with another solver, such as solver='vb'."
        )


@stored
class MFRegressor(BaseRecommender):
    """Matrix factorisation of ratings, as a regressor over (user, item) rows.

    The model of a rating y of user u and item i, with context x, is::

        y = μ + b_u + c_i + p_u·q_i + x·w + ε,    ε ~ N(0, 1 / (β α_u γ_i))

    The factors and the bias of a user have a Gaussian prior::

        (p_u, b_u) ~ N(m + Bᵀf_u, Λ⁻¹),    B ~ N(0, Ω⁻¹)

    and those (q_i, c_i) of an item likewise. The features f_u are the items that the
    user has rated (`implicit_features` [4]_), and side features (`user_features` of
    `fit` [5]_). m, Λ, the link matrix B and Ω are learned. The relative precisions α_u
    and γ_i, of mean one, let the noise differ between users and between items [3]_.
    Ratings are standardised inside, so their scale needs no setting.

    A further column of X with strings, categories or bools adds, under its value v, ::

        e_v + (a_u·r_v + δ_uv) + (d_i·s_v + δ_iv)

    with priors of mean zero that are learned too: what the value changes for all, for
    the user and for the item. A further column of numbers adds, beside the linear term,
    x (β_u + γ_i) at its standardised number x. "vb", "gibbs" and "als" have these terms
    for ratings; "adam" and "sgd" have them, without δ, for all losses.

    Parameters
    ----------
    n_factors : int or "auto", default="auto"
        Length of p_u and q_i. With 0 the model has biases only. "auto" lets "vb" and
        "gibbs" have as many factors as the ratings support: the pairs with ratings are
        two for each number in factors and biases, within bounds of 2 and 32, or 36
        where ratings would support 45; and to leave all factors out where biases alone
        have a lower estimated error (`loo_curve_`). It is 16 for other solvers, and
        with `unobserved_weight`.
    solver : {"vb", "gibbs", "als", "adam", "sgd"}, default="vb"
        - "vb": variational Bayes [1]_. Deterministic; nothing to tune.
        - "gibbs": posterior sampling [2]_, from the end of a fit by "vb", with its
          structure. About as accurate as "vb", and more accurate where ratings are few
          and noisy and implicit features are off. Takes many times as long, and keeps
          every draw in memory.
        - "als": alternating least squares with a penalty. Has a penalty `reg` to set
          and one noise variance, and no standard deviations of predictions.
        - "adam", "sgd": mini-batch gradients, for other losses, with another penalty
          than "als" (see `reg`).
    biased : bool, default=True
        Whether to have μ and biases. False is y = p_u·q_i + x·w + ε, where the rows of
        each side have a prior, or a penalty, around one whose product with that of the
        other side is the mean rating.
    reg : float, default=None
        Penalty of squares, for standardised ratings and relative weights (of mean about
        1). "als" minimises
        Σ weight (y − ŷ)² + reg (Σ_r W_r^reg_exponent ‖r − Bᵀf‖² + 5 ‖B‖² + ‖w‖²) over
        rows r = (p_u, b_u) and (q_i, c_i), with W_r the weight of the pairs of a row.
        "adam" and "sgd" minimise Σ weight · loss + reg (Σ_r √W_r ‖r‖² + …) over rows
        minus Bᵀf, and likewise over w. Rows that are not `biased` count from the row of
        the mean rating. None is 12 for "als", and 0.3 / (1 + 2 α₀) with
        an `unobserved_weight` α₀; for "adam" and "sgd" it is 1 for ratings (0.5 with
        "absolute_error" and "huber", which have half the curvature), 0.3 for labels
        ("log_loss" with `n_negatives=0`), and 0.1 for choices (`n_negatives` above 0).
        For ratings and labels it is more where there is little to learn from them, as
        in `NCFRegressor`. Not used by "vb" and "gibbs".
    reg_exponent : float, default=None
        Exponent of the weight of a row's pairs in its penalty, for "als": 0 is the same
        penalty for all rows, 1 a proportional one [7]_, and 4 the largest one. With 1,
        `reg` is smaller by about the mean weight. None is 0.5 with `unobserved_weight`,
        else 0.
    implicit_features : bool, default=None
        Use the items that a user has rated as features of the user, and the users that
        have rated an item as features of the item: f is 1 / √n for each of n. None is
        True for "vb" and "gibbs" without `unobserved_weight`, else False; but where
        biases alone have a lower estimated error, there is a fit of "vb" without them
        too, and the better one is kept. Not used by "adam" and "sgd".
    unobserved_weight : float, default=0.0
        Above 0, every pair of a user and an item counts as a rating of 0 with this
        weight, in addition to its own ratings [6]_. For implicit feedback: leave out y,
        and pass the confidence of each choice as `sample_weight`. Ratings are not
        centred then. Use solver="als" if users chose few items: "vb" and "gibbs" may
        find no factors in so few choices, and then rank nearly by popularity. Not used
        by "adam" and "sgd", which draw some of the pairs (`n_negatives`).
    loss : {"squared_error", "absolute_error", "huber", "log_loss", "bpr"}, \
            default="squared_error"
        As in `NCFRegressor`. All but the default need "adam" or "sgd".
    n_negatives, learning_rate_init, batch_size, early_stopping, validation_fraction, \
            n_iter_no_change
        As in `NCFRegressor`. Used by "adam" and "sgd" only.
    max_iter : int, default=None
        Maximum number of sweeps (vb, als), number of kept draws (gibbs) or of epochs
        (adam, sgd). None is 200 for "vb" and "gibbs", 50 for "als", 8 for "adam" and 20
        for "sgd".
    tol : float, default=None
        "vb" and "als" stop when a sweep lowers the objective (see `loss_curve_`) by
        less than this; "vb" also when a sweep changes predictions by less than twice
        this, in standard deviations of the ratings. "adam" and "sgd" use it as
        `NCFRegressor` does. None is 2e-3 for "vb", 1e-3 for "als", and 1e-4 for "adam"
        and "sgd".
    handle_unknown : {"ignore", "warn", "error"}, default="ignore"
        Response to users and items that `fit` has not seen: predict from the mean and
        the other side, the same with a warning, or raise an error.
    clip : bool, default=True
        Clip predictions to the range of the training ratings.
    rank_by : {"both", "rating", "choice"}, default="both"
        Score that `recommend` ranks by, after a fit of ratings: the expected rating;
        the strength of a choice, by a linear autoencoder of who rated which items
        [8]_; or "both", the strength times the gain of the expected rating. The
        gain is a quarter plus the place of a rating between the lowest and the highest
        that are no outliers: the farthest within three robust standard deviations of
        the median, or with half a percent of all ratings. Without `y` only choices are
        fitted, and predictions are strengths. The strength is fitted by the first list,
        so predictions do not wait for it. After a fit of choices by a loss or by
        `unobserved_weight`, lists are by its predictions.
    choice_threshold : float, default=None
        Rating from which on a row is a choice, in fits of choices by a loss, by drawn
        items or by `unobserved_weight`. Rows below it count as pairs without a row, but
        their items are seen and not recommended; with "log_loss" and without drawn
        items they are rows of 0. So models of ratings and of choices stand in one
        search, with one `y`. None takes `y` as it is. Not used by fits of ratings.
    store_covariance : bool, default=True
        Keep the posterior covariances, (n_users + n_items) (n_factors + 1)² numbers;
        after "als" with 46 factors or more, (n_users + n_items) (n_factors + 1)
        variances along shared axes. `predict(return_std=True)` needs them after "vb",
        and `partial_fit` after "vb" and "als".
    warm_start : bool, default=False
        Start from the last fit. Users and items are matched by id. "vb" and "gibbs"
        begin anew where that fit cannot follow the ratings, such as after one of few.
    device : str or torch.device, default="auto"
        "auto" is CUDA where it is available and the work is worth it, else the CPU; or
        a device of torch.
    random_state : int, RandomState instance or None, default=None
        Seed of the draws (gibbs), or of the training (adam, sgd).
    verbose : int, default=0
        Print a line per iteration if positive.

    Attributes
    ----------
    user_ids_, item_ids_ : ndarray of shape (n_users,) and (n_items,)
        Sorted raw ids.
    n_factors_ : int
        Number of factors of the fit.
    user_factors_, item_factors_ : ndarray of shape (n_rows, `n_factors_`)
        Posterior means of p and q (of the draws, with "gibbs").
    user_biases_, item_biases_ : ndarray of shape (n_users,) and (n_items,)
        Posterior means of b and c, in rating units.
    intercept_ : float
        μ, in rating units.
    coef_ : ndarray of shape (n_features,)
        w, in rating units per unit of the feature, for columns of numbers.
    user_feature_coef_, item_feature_coef_ : ndarray of shape \
            (n_columns, n_factors + biased)
        B of `user_features` and `item_features`, if they were passed to `fit`: the
        effect of each encoded column on the prior mean of factors and bias.
        `feature_effects` has the names of the columns.
    noise_std_ : float
        Standard deviation of ε of a rating, for a user and an item of average noise.
        With "adam" and "sgd" that of the residuals, or NaN if the loss is not one of
        ratings.
    rating_range_ : tuple of float
        Bounds of `clip`: the smallest and largest training rating, [0, 1] with
        "log_loss" or drawn items, and no bounds with "bpr".
    n_iter_ : int
        Number of iterations run.
    loss_curve_ : list of float
        Objective after every iteration, per unit of weight and for standardised
        ratings: minus the evidence lower bound (vb), the penalised sum of squares
        (als), half the weighted residual sum of squares times β (gibbs), or the mean
        loss of the epoch's batches (adam, sgd).
    validation_scores_ : list of float
        As in `NCFRegressor`; None for the other solvers.
    loo_curve_ : list of float
        Estimated root mean squared error on unseen ratings after every sweep of "vb",
        in rating units, by leave-one-out residuals of a sample of the ratings [9]_. It
        tells fits of the same rows apart; where factors are many it is too low, by up
        to 6 %. None for the other solvers, and with `unobserved_weight`.
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
    .. [8] Steck (2019). Embarrassingly shallow autoencoders for sparse data. WWW.
    .. [9] Cook, Weisberg (1982). Residuals and influence in regression. Chapman & Hall.

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

    Users without ratings are predicted from their features:

    >>> import pandas as pd
    >>> people = ["ann", "bob", "cleo", "dan"]
    >>> age = pd.DataFrame({"age": [31, 62, 35, 60]}, index=people)
    >>> mf = mf.fit(X, y, user_features=age)
    >>> mf.recommend(["dan"], n_items=1).shape
    (1, 1)
    """

    _model: Posterior

    _parameter_constraints: dict = {
        **BaseRecommender._parameter_constraints,
        **GRADIENT_CONSTRAINTS,
        "n_factors": [
            Interval(Integral, 0, MAX_COUNT, closed="both"),
            StrOptions({"auto"}),
        ],
        "solver": [StrOptions({"vb", "gibbs", "als", "adam", "sgd"})],
        "biased": ["boolean"],
        "reg": [Interval(Real, MIN_WEIGHT, MAX_WEIGHT, closed="both"), None],
        "reg_exponent": [Interval(Real, 0, MAX_EXPONENT, closed="both"), None],
        "implicit_features": ["boolean", None],
        "unobserved_weight": [Interval(Real, 0, MAX_WEIGHT, closed="both")],
        "store_covariance": ["boolean"],
    }

    def __init__(
        self,
        n_factors: int | Literal["auto"] = "auto",
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
        rank_by: Literal["both", "rating", "choice"] = "both",
        choice_threshold: float | None = None,
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
        self.rank_by = rank_by
        self.choice_threshold = choice_threshold
        self.store_covariance = store_covariance
        self.warm_start = warm_start
        self.device = device
        self.random_state = random_state
        self.verbose = verbose

    def _solver(self) -> Solver:
        if self.n_factors == 0 and not self.biased:
            raise ValueError(
                "n_factors=0 and biased=False leave nothing to fit; raise n_factors or "
                "set biased=True."
            )
        return (
            self._gradient_solver()
            if self.solver in OPTIMIZERS
            else self._alternating_solver()
        )

    def _alternating_solver(self) -> Solver:
        options: dict[str, Any] = {
            "objective": Objective(
                self.loss, weighs_unobserved=self.unobserved_weight > 0
            ),
            "n_factors": None if self.n_factors == "auto" else int(self.n_factors),
            "biased": self.biased,
            "max_iter": self._max_iter(),
            "tol": self.tol,
            "implicit_features": self.implicit_features,
            "unobserved_weight": float(self.unobserved_weight),
            "store_covariance": self.store_covariance,
        }
        if self.solver == "als":
            return ALSSolver(**options, reg=self.reg, reg_exponent=self.reg_exponent)
        return (VBSolver if self.solver == "vb" else GibbsSolver)(**options)

    def _gradient_solver(self) -> Solver:
        if self.unobserved_weight:
            raise ValueError(
                f"solver={self.solver!r} cannot weigh all pairs without ratings "
                f"(unobserved_weight={self.unobserved_weight}); it draws some of "
                "them (n_negatives). Use it, or another solver."
            )
        n_factors = DEFAULT_N_FACTORS if self.n_factors == "auto" else self.n_factors
        return gradient_solver(
            self,
            objective_of(self.loss, self.n_negatives),
            Shape(0, 0, 0, n_factors=int(n_factors), biased=self.biased),
            PosteriorConversion(),
            DEFAULT_REG,
            NOISE_SHARE,
            max_iter=self._max_iter(),
        )

    def _max_iter(self) -> int:
        return int(self.max_iter or DEFAULT_MAX_ITER[self.solver])

    partial_fit = AvailableIf(_check_updates, BaseRecommender.partial_fit)

    @classmethod
    def from_factors(
        cls,
        user_factors: ArrayLike,
        item_factors: ArrayLike,
        *,
        user_ids: ArrayLike | None = None,
        item_ids: ArrayLike | None = None,
        user_biases: ArrayLike | None = None,
        item_biases: ArrayLike | None = None,
        intercept: float = 0.0,
        X: ArrayLike | None = None,
        rating_range: tuple[float, float] | None = None,
        **params: Any,
    ) -> Self:
        """Fitted estimator of factors that were trained elsewhere.

        Such as by ALS of Spark, implicit or cmfrec. It predicts, recommends, compares
        and is scored as after `fit`. With the penalty `reg` of that training,
        `partial_fit` and `ratings` of `recommend` take in new users and new items: a
        new row minimises Σ weight (y − ŷ)² + reg n^reg_exponent ‖row‖² over its n
        ratings, given the other side. Known rows stay as they are given, since the
        ratings behind them are not known. There are no standard deviations.

        Parameters
        ----------
        user_factors, item_factors : array-like of shape (n_users or n_items, n_factors)
            p and q of y = intercept + b_u + c_i + p_u·q_i.
        user_ids, item_ids : array-like of shape (n_users,) and (n_items,), default=None
            Raw ids of their rows. None numbers the rows from 0.
        user_biases, item_biases : array-like of shape (n_users,) and (n_items,), \
                default=None
            b and c. None is 0; if both are None the model is not `biased`.
        intercept : float, default=0.0
            μ.
        X : array-like of shape (n_samples, 2), default=None
            Users and items of the rows behind the factors, which `recommend` leaves
            out. Without them it leaves out nothing.
        rating_range : tuple of float, default=None
            Lowest and highest rating, to `clip` predictions to. None is no bounds.
        **params : dict
            Parameters of the estimator, such as `reg`; `reg_exponent=1` for Spark,
            where the penalty of a row grows with its number of ratings; and
            `unobserved_weight` where pairs without ratings count as ratings of 0.
            `solver` is "als", and `rank_by` is "rating".

        Returns
        -------
        estimator : MFRegressor
            The fitted estimator.

        Raises
        ------
        ValueError
            If shapes do not agree, numbers are not finite, ids repeat, rows of X hold
            other ids, or parameters contradict the factors.

        Examples
        --------
        >>> import numpy as np
        >>> from skrec import MFRegressor
        >>> P, Q = np.eye(2), np.array([[1.0, 0.0], [0.8, 0.2], [0.0, 1.0]])
        >>> mf = MFRegressor.from_factors(
        ...     P, Q, user_ids=["ann", "bob"], item_ids=["Alien", "Brazil", "Heat"],
        ...     X=[["ann", "Alien"]], reg=0.1)
        >>> mf.recommend(["ann", "bob"], n_items=1)
        array([['Brazil'],
               ['Heat']], dtype=object)
        >>> mf = mf.partial_fit([["cleo", "Heat"]], [1.0])
        >>> mf.predict([["cleo", "Heat"]]).round(2)
        array([0.91])
        """
        given = read_factors(
            Sides(user_factors, item_factors),
            Sides(user_ids, item_ids),
            Sides(user_biases, item_biases),
        )
        biased = user_biases is not None or item_biases is not None
        n_factors = given.user.rows.shape[1] - biased
        fix_params(
            params, n_factors=n_factors, biased=biased, solver="als", rank_by="rating"
        )
        model = cls(**params)
        model._validate_params()
        solver = model._solver()
        solver.check()
        if solver.objective.weighs_unobserved and intercept:
            raise ValueError(
                "With unobserved_weight pairs without ratings are ratings of 0, so the "
                f"model has no intercept; got intercept={intercept}."
            )
        known = Sides(given.user.known, given.item.known)
        columns = None if X is None else model._read_columns(X, reset=True)
        seen = seen_of(columns, known)
        counts = seen.counts
        if X is None:
            # As if each had a rating, since none would let further ones decide alone.
            counts = Sides(*(np.ones(len(ids)) for ids in known))
        posterior = posterior_of_factors(
            Sides(given.user.rows, given.item.rows),
            n_factors,
            Units(float(intercept), 1.0, np.zeros(0), np.zeros(0)),
            counts,
            None if model.reg is None else float(model.reg),
        )
        low, high = (-np.inf, np.inf) if rating_range is None else rating_range
        model._publish(
            {
                "_model": replace(
                    posterior,
                    objective=solver.objective,
                    rating_range=(float(low), float(high)),
                ),
                "_users": known.user,
                "_items": known.item,
                "_seen": seen,
                "_choice": None,
                "_weighting": Weighting(1.0),
                "n_features_in_": 2,
                "feature_names_in_": getattr(model, "feature_names_in_", None),
                "n_iter_": 0,
                "loss_curve_": [],
            }
            | CURVES
        )
        return model

    @fitted_attribute
    def n_factors_(self) -> int:
        """Number of factors of the fit."""
        return self._model.n_factors

    @fitted_attribute
    def user_factors_(self) -> np.ndarray:
        """Factors of users, ndarray of shape (n_users, n_factors)."""
        return self._model.factors("user")

    @fitted_attribute
    def item_factors_(self) -> np.ndarray:
        """Factors of items, ndarray of shape (n_items, n_factors)."""
        return self._model.factors("item")

    @fitted_attribute
    def user_biases_(self) -> np.ndarray:
        """Biases of users, ndarray of shape (n_users,)."""
        return self._model.biases("user")

    @fitted_attribute
    def item_biases_(self) -> np.ndarray:
        """Biases of items, ndarray of shape (n_items,)."""
        return self._model.biases("item")

    @fitted_attribute
    def intercept_(self) -> float:
        """Intercept, in rating units."""
        return self._model.intercept

    @fitted_attribute
    def coef_(self) -> np.ndarray:
        """Coefficients of context, ndarray of shape (n_context,)."""
        return self._context.of_all_numbers(self._model.coef)

    @fitted_attribute
    def noise_std_(self) -> float:
        """Standard deviation of the noise, in rating units."""
        return float(np.sqrt(self._model.rating_noise))

    @fitted_attribute
    def user_feature_coef_(self) -> np.ndarray:
        """Weights of users' features, ndarray of shape (n_columns, row_size)."""
        return self._feature_coef("user")

    @fitted_attribute
    def item_feature_coef_(self) -> np.ndarray:
        """Weights of items' features, ndarray of shape (n_columns, row_size)."""
        return self._feature_coef("item")

    @reads_one_fit
    def factors_frame(
        self, side: Literal["user", "item"], ids: ArrayLike | None = None
    ) -> pd.DataFrame:
        """Factors and biases of users, or of items, by raw id.

        Parameters
        ----------
        side : {"user", "item"}
            Whose factors.
        ids : array-like of shape (n_ids,), default=None
            Raw ids, which must be known; None is all of `user_ids_` or `item_ids_`.

        Returns
        -------
        factors : DataFrame of shape (n_ids, n_factors + 1 + n_slopes)
            Columns factor_0 and so on, and bias, with the numbers of `user_factors_`
            and `user_biases_`; and slope_hour for a context column "hour" of numbers:
            how much more a rating of this id changes with it than `coef_` says.
            Indexed by raw id, in the order of `ids`.

        Raises
        ------
        ValueError
            If an id is unknown, or `side` is none of the two.
        AttributeError
            If the fit was of choices without y, which has no factors.

        Examples
        --------
        >>> from skrec import MFRegressor
        >>> X = [["ann", "Heat"], ["ann", "Alien"], ["bob", "Heat"], ["bob", "Brazil"]]
        >>> mf = MFRegressor(n_factors=2).fit(X, [5, 3, 4, 2])
        >>> mf.factors_frame("item", ["Heat", "Alien"]).shape
        (2, 3)
        """
        check_side(side, "side")
        if not isinstance(self._model, Posterior):
            raise AttributeError(
                f"This {type(self).__name__} has no factors after a fit of choices "
                "without y."
            )
        known = self._known(side)
        rows = np.arange(len(known)) if ids is None else known.known_rows(ids)
        factors = self._model.factors(side)[rows]
        frame = pd.DataFrame(
            factors,
            index=pd.Index(known.ids[rows], name=side),
            columns=[f"factor_{j}" for j in range(factors.shape[1])],
        )
        frame["bias"] = self._model.biases(side)[rows]
        slopes, places = effects.slopes(self._model, side), self._context.number_places
        for number in sorted(slopes, key=places.__getitem__):
            name = self._context.number_names[number]
            frame[f"slope_{name}"] = slopes[number][rows]
        return frame

    @reads_one_fit
    def feature_effects(
        self, *, by: Literal["value", "column"] = "value"
    ) -> pd.DataFrame:
        """Effects of features of users and items, and of context, on ratings.

        The effect of a user feature with row B_j of the link matrix is B_j·(q̄, 1) with
        the mean q̄ of the factors of all items: the change of a user's expected rating
        of an average item. Likewise for item features. The effect of a value of context
        is for an average user and item, against the mean of all ratings, and that of a
        number is the linear term. For the worth of a column in error, see the user
        guide.

        Parameters
        ----------
        by : {"value", "column"}, default="value"
            Whether a row is for each value of a category, or for each column of the
            table.

        Returns
        -------
        effects : DataFrame of shape (n_features, 4)
            side : "user", "item" or "context".

            feature : name of the column; by value, column and value of a category.

            effect : in rating units. A number is compared with one that is smaller by a
            standard deviation, 1 of a flag with 0, and a category with the mean of all.
            By column, the effect of categories is the standard deviation of those of
            its values over users or items; if rows have several values, as if these
            were independent. That a value is missing does not count.

            std : posterior standard deviation of the effect; NaN if `predict` has none.

        Raises
        ------
        AttributeError
            If neither `user_features` nor `item_features` were passed to `fit`, and `X`
            had no context, or by "bpr", which does not learn effects that all items
            share.
        ValueError
            If `by` is none of the two.

        See Also
        --------
        feature_interactions : Interactions of two features.

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
        check_by(by)
        frames = []
        of_ratings = isinstance(self._model, Posterior)
        has_context = of_ratings and bool(self._context.names)
        if has_context and not self._sides():
            check_effects(self, self._model.objective.loss)
        has_context = has_context and self._model.objective.loss != "bpr"
        sides = self._described_sides() if self._sides() or not has_context else []
        for side in sides:
            contrasts, names = self._contrasts(side), self._known(side).feature_names
            effect, std = effects.of_features(self._model, side, contrasts)
            if by == "column":
                encoder, link = self._link(side)
                names, weights = encoder.by_column(link.feature_mean, effect)
                effect, std = effects.of_features(
                    self._model, side, weights @ contrasts
                )
            frame = {"side": side, "feature": names, "effect": effect, "std": std}
            frames.append(pd.DataFrame(frame))
        if has_context:
            columns = (c for c in self._model.columns if c.number is None)
            frames += context_effects(
                self._context,
                map(self._value_effects, columns),
                zip(*effects.of_numbers(self._model), strict=True),
                by,
                has_std=self._model.knows_variance,
            )
        return pd.concat(frames, ignore_index=True)

    @reads_one_fit
    def feature_interactions(self) -> pd.DataFrame:
        """Interactions of user features and item features in ratings.

        The interaction of two features with rows B_j and C_k of the link matrices is
        B_j·C_k over the factors, and is added to their effects.

        Returns
        -------
        interactions : DataFrame of shape (n_user_columns × n_item_columns, 4)
            user_feature, item_feature : names of the columns.

            effect, std : as in `feature_effects`.

        Raises
        ------
        AttributeError
            If `user_features` and `item_features` were not both passed to `fit`.
        """
        if len(self._described_sides()) < 2:
            raise AttributeError(
                f"This {type(self).__name__} was not fitted with both user_features "
                "and item_features."
            )
        names = [self._users.feature_names, self._items.feature_names]
        effect, std = effects.interactions(
            self._model, self._contrasts("user"), self._contrasts("item")
        )
        index = pd.MultiIndex.from_product(
            names, names=["user_feature", "item_feature"]
        )
        frame = pd.DataFrame(
            {"effect": effect.ravel(), "std": std.ravel()}, index=index
        )
        return frame.reset_index()

    def _known(self, side: SideName) -> KnownIds:
        return self._users if side == "user" else self._items

    def _value_effects(
        self, column: FittedColumn
    ) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray]]:
        """Weights of the values of a column of context, and their effects."""
        effect, std = column.effects()
        if not self._model.knows_variance:
            std = np.full_like(std, np.nan)
        return column.weight, (effect, std)

    def _sides(self) -> list[SideName]:
        both: tuple[SideName, SideName] = ("user", "item")
        return [side for side in both if self._known(side).feature_names]

    def _described_sides(self) -> list[SideName]:
        sides = self._sides()
        if not (sides and isinstance(self._model, Posterior)):
            raise AttributeError(
                f"This {type(self).__name__} was not fitted to ratings with "
                "user_features or item_features, or they held no value."
            )
        return sides

    def _link(self, side: SideName) -> tuple[Encoder, FittedLinkMatrix]:
        """Encoder of the features of a side, and their link matrix."""
        described = self._known(side).described
        if described is None or not described.encoder.names:
            raise AttributeError(
                f"This {type(self).__name__} was not fitted with {side}_features."
            )
        rows, _ = self._model.rows(side)
        return described.encoder, rows.links[DESCRIBED]

    def _contrasts(self, side: SideName) -> sparse.csr_array:
        encoder, link = self._link(side)
        return encoder.contrasts(link.feature_mean)

    def _feature_coef(self, side: SideName) -> np.ndarray:
        _, link = self._link(side)
        return link.scale * link.mean.mean(axis=0)
