"""NCFRegressor: parameters, docstring, and its solver."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any, Literal

import numpy as np
import pandas as pd

from ._base import BaseRecommender
from ._effects import check_by, check_effects, context_effects, no_effects
from ._gradient.fitted import FittedNetwork, NetworkConversion
from ._gradient.network import ACTIVATIONS, Shape
from ._interfaces import Solver
from ._parameters import (
    GRADIENT_CONSTRAINTS,
    MAX_COUNT,
    MAX_WEIGHT,
    gradient_solver,
    objective_of,
)
from ._sklearn import Interval, StrOptions
from ._snapshot import reads_one_fit
from ._storage import stored

# The penalty of ratings with as much noise as signal (see `GradientSolver`).
DEFAULT_REG, NOISE_SHARE = 0.7, 1.0
DEFAULT_MAX_ITER, SLOW_MAX_ITER = 10, 20


@stored
class NCFRegressor(BaseRecommender):
    """Neural collaborative filtering, as a regressor over (user, item) rows.

    The score of user u and item i, with context f, is that of NeuMF [1]_ with biases::

        s = a + b_u + c_i + p_u·q_i + MLP(r_u, s_i, f) + f·(w + β_u + γ_i)

    The prediction is the mean of `n_members` such networks, which differ in their
    random start only and are trained together. Each minimises::

        (1 / W) (Σ weight · loss(y, s) + reg Σ_r √W_r ‖r‖²)

    over rows (p, r, b) of users and items and the weights of layers, where W_r is the
    weight of the pairs of a row, or of all pairs for a layer, and W that of all pairs.
    The slopes β and γ have a Gaussian prior, whose variance is learned.
    Ratings are standardised inside, so their scale needs no setting.

    A further column of X with strings, categories or bools adds, under its value v, the
    effect e_v and products a_u·r_v + d_i·s_v with context factors of the user and the
    item [5]_, which a column of noise leaves at zero (see the user guide).

    Side features of users and items (`user_features` and `item_features` of `fit`) are
    linear terms of their rows: p_u is Bᵀf_u plus a term of the user's own, and
    likewise r_u, b_u and the rows of items. Rows without ratings have the linear term
    only. `implicit_features` are another such term, of whom a row has ratings with
    [4]_.

    Parameters
    ----------
    n_factors : int, default=16
        Length of p and q, and of the embeddings r and s.
    hidden_layer_sizes : int or array-like of shape (n_layers,), default=(16,)
        Units of the hidden layers of the perceptron. Not used by architecture "gmf".
    architecture : {"neumf", "gmf", "mlp"}, default="neumf"
        Terms of the score: both, p·q only (generalised matrix factorisation), or the
        perceptron only. The paper has output weights for the factors of the product.
        They are one here, since scaling p and q has the same effect and would void
        their penalty.
    activation : {"relu", "tanh", "logistic", "silu"}, default="relu"
        Activation of the hidden layers.
    dropout : float, default=0.0
        Share of the hidden units that are set to zero in training.
    n_members : int, default=8
        Number of networks.
    implicit_features : bool, default=None
        Let the items that a user has rated describe the user, whatever the ratings, and
        the users who have rated an item the item: each row of a table has a share
        Σ y / √n, with a learned row y of each of its n counterparts. New users then
        have rows as soon as they have ratings. None is True for ratings and labels,
        unless the pairs with ratings are as good as drawn at random, and False if items
        are drawn.
    loss : {"squared_error", "absolute_error", "huber", "log_loss", "bpr"}, \
            default="squared_error"
        - "squared_error", "absolute_error", "huber" (squared up to one standard
          deviation, which outliers do not enter, then linear): of ratings.
        - "log_loss": of whether a user chose an item, y = 1 for the rows of X and 0 for
          drawn items. Predictions are probabilities.
        - "bpr": minus the log of the probability that the item of the row ranks above a
          drawn one [2]_, times y. Predictions are scores for rankings, without a scale.
    n_negatives : int, default=None
        Number of items drawn for each row in each epoch, uniformly; items that the user
        has a row of do not count. None is 4 for "log_loss" and "bpr", and 0 for the
        others. With "log_loss" and 0, the positive rows are those with y = 1. With a
        loss of ratings, a drawn item has rating 0, and y must be between 0 and 1.
    reg : float, default=None
        Penalty of squares, as in the objective above. None is 0.7 for ratings (0.35
        with "absolute_error" and "huber", which have half the curvature), 0.3 for
        labels ("log_loss" with `n_negatives=0`), and 0.1 for choices (`n_negatives`
        above 0). For ratings and labels it is up to ten times as large where there is
        little to learn from them. For ratings by "squared_error" and "huber" it falls
        where residuals are small, and without side features biases by "adam" have
        penalties of their own (see :ref:`networks_penalty`).
    solver : {"adam", "sgd"}, default="adam"
        Adam, or stochastic gradient descent with Nesterov's momentum.
    learning_rate_init : float, default=None
        The highest learning rate. It rises linearly from zero for a tenth of the steps
        and falls to zero as a cosine. None is 0.02. "sgd" divides the gradient of a row
        by the share of the batch with that row, and every gradient by the curvature of
        loss and penalty. A fit whose objective ends above that of one prediction for
        all pairs, since the rate is too high, gives a warning.
    batch_size : int, default=None
        Rows of X in a step, not counting drawn items. None takes forty steps an epoch,
        with 4 to 8192 rows each.
    max_iter : int, default=None
        Number of epochs. None is 10, and 20 for architecture "mlp", whose layers have
        to learn a product, and for "sgd" if items are drawn.
    early_stopping : bool, default=False
        Hold out a share of the rows, stop when their loss no longer falls, and keep the
        weights with which it was lowest.
    validation_fraction : float, default=0.1
        Share of the rows to hold out. Used with `early_stopping` only.
    n_iter_no_change : int, default=3
        Stop when so many epochs in a row have not raised the best validation score by
        `tol`. Used with `early_stopping` only.
    tol : float, default=1e-4
        See `n_iter_no_change`.
    handle_unknown : {"ignore", "warn", "error"}, default="ignore"
        Response to users and items that `fit` has not seen: predict from the other side
        and the mean of the rows of their own, the same with a warning, or raise an
        error.
    clip : bool, default=True
        Clip predictions to the range of the training ratings.
    rank_by : {"both", "rating", "choice"}, default="both"
        Score that `recommend` ranks by, after a fit of ratings: the expected rating;
        the strength of a choice, by a linear autoencoder of who rated which items
        [3]_; or "both", the strength times the gain of the expected rating. The
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
    warm_start : bool, default=False
        Start from the last fit. Users and items are matched by id.
    device : str or torch.device, default="auto"
        "auto" is CUDA where it is available and the work is worth it, else the CPU; or
        a device of torch.
    random_state : int, RandomState instance or None, default=None
        Seed of the first weights, the shuffling, the drawn items, the held out rows and
        the dropout.
    verbose : int, default=0
        Print a line per epoch if positive.

    Attributes
    ----------
    user_ids_, item_ids_ : ndarray of shape (n_users,) and (n_items,)
        Sorted raw ids.
    rating_range_ : tuple of float
        Bounds of `clip`.
    n_iter_ : int
        Number of epochs run.
    loss_curve_ : list of float
        Mean loss of the batches of every epoch and of all members, without the penalty,
        for standardised ratings.
    validation_scores_ : list of float
        Minus the loss of the held out rows after every epoch, scored by the mean of the
        members; None without `early_stopping`.
    n_features_in_ : int
        Number of columns of X.
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Names of the columns, if X had any.

    References
    ----------
    .. [1] He, Liao, Zhang, Nie, Hu, Chua (2017). Neural collaborative filtering. WWW.
    .. [2] Rendle, Freudenthaler, Gantner, Schmidt-Thieme (2009). BPR: Bayesian
       personalized ranking from implicit feedback. UAI.
    .. [3] Steck (2019). Embarrassingly shallow autoencoders for sparse data. WWW.
    .. [4] Koren (2008). Factorization meets the neighborhood: a multifaceted
       collaborative filtering model. KDD.
    .. [5] Rendle, Schmidt-Thieme (2010). Pairwise interaction tensor factorization for
       personalized tag recommendation. WSDM.

    Examples
    --------
    >>> from skrec import NCFRegressor
    >>> X = [["ann", "Heat"], ["ann", "Alien"], ["bob", "Heat"], ["bob", "Brazil"],
    ...      ["cleo", "Alien"], ["cleo", "Brazil"]]
    >>> y = [5, 3, 4, 2, 3, 1]
    >>> ncf = NCFRegressor(n_factors=2, random_state=0).fit(X, y)
    >>> ncf.recommend(["ann", "bob"], n_items=1)
    array([['Brazil'],
           ['Alien']], dtype=object)
    >>> mean, std = ncf.predict([["bob", "Alien"], ["dan", "Heat"]], return_std=True)
    >>> mean.shape, std.shape
    ((2,), (2,))
    """

    _parameter_constraints: dict = {
        **BaseRecommender._parameter_constraints,
        **GRADIENT_CONSTRAINTS,
        "n_factors": [Interval(Integral, 1, MAX_COUNT, closed="both")],
        "hidden_layer_sizes": [
            "array-like",
            Interval(Integral, 1, MAX_COUNT, closed="both"),
        ],
        "architecture": [StrOptions({"neumf", "gmf", "mlp"})],
        "activation": [StrOptions(set(ACTIVATIONS))],
        "dropout": [Interval(Real, 0, 1, closed="left")],
        "n_members": [Interval(Integral, 1, MAX_COUNT, closed="both")],
        "implicit_features": ["boolean", None],
        "reg": [Interval(Real, 0, MAX_WEIGHT, closed="both"), None],
        "solver": [StrOptions({"adam", "sgd"})],
        "tol": [Interval(Real, 0, None, closed="left")],
    }

    def __init__(
        self,
        n_factors: int = 16,
        hidden_layer_sizes: int | Sequence[int] = (16,),
        *,
        architecture: Literal["neumf", "gmf", "mlp"] = "neumf",
        activation: Literal["relu", "tanh", "logistic", "silu"] = "relu",
        dropout: float = 0.0,
        n_members: int = 8,
        implicit_features: bool | None = None,
        loss: Literal[
            "squared_error", "absolute_error", "huber", "log_loss", "bpr"
        ] = "squared_error",
        n_negatives: int | None = None,
        reg: float | None = None,
        solver: Literal["adam", "sgd"] = "adam",
        learning_rate_init: float | None = None,
        batch_size: int | None = None,
        max_iter: int | None = None,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        n_iter_no_change: int = 3,
        tol: float = 1e-4,
        handle_unknown: Literal["ignore", "warn", "error"] = "ignore",
        clip: bool = True,
        rank_by: Literal["both", "rating", "choice"] = "both",
        choice_threshold: float | None = None,
        warm_start: bool = False,
        device: str = "auto",
        random_state: int | np.random.RandomState | None = None,
        verbose: int = 0,
    ) -> None:
        self.n_factors = n_factors
        self.hidden_layer_sizes = hidden_layer_sizes
        self.architecture = architecture
        self.activation = activation
        self.dropout = dropout
        self.n_members = n_members
        self.implicit_features = implicit_features
        self.loss = loss
        self.n_negatives = n_negatives
        self.reg = reg
        self.solver = solver
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
        self.warm_start = warm_start
        self.device = device
        self.random_state = random_state
        self.verbose = verbose

    @reads_one_fit
    def feature_effects(
        self, *, by: Literal["value", "column"] = "value"
    ) -> pd.DataFrame:
        """Effects of context on the rating of an average user and an average item.

        The effect of a value is against the mean of all ratings. That of a number is of
        a standard deviation, from half of one below the mean to half of one above: the
        linear term, and with a perceptron its part, at the mean of all other numbers.

        Parameters
        ----------
        by : {"value", "column"}, default="value"
            Whether a row is for each value of a column, or for each column. That of a
            column is the standard deviation of the effects of its values over ratings.

        Returns
        -------
        effects : DataFrame of shape (n_features, 4)
            side : "context".

            feature : name of the column; by value, column and value.

            effect : in rating units; in those of log odds with "log_loss".

            std : standard deviation over members; NaN for one member.

        Raises
        ------
        AttributeError
            If `X` had no context, if the fit was of choices without y, or by "bpr",
            which does not learn effects that all items share.
        ValueError
            If `by` is none of the two.

        Examples
        --------
        >>> from skrec import NCFRegressor
        >>> from skrec.datasets import make_ratings
        >>> X, y = make_ratings(100, 50, 2000, random_state=0)
        >>> X["late"] = X.index % 2 == 0
        >>> ncf = NCFRegressor(random_state=0).fit(X, y + X["late"])
        >>> ncf.feature_effects()["effect"].round(1).tolist()
        [-0.5, 0.5]
        """
        check_by(by)
        if not self._context.names:
            raise AttributeError(
                f"This {type(self).__name__} was fitted without context, such as a "
                "further column of X with the season of a rating. Effects of side "
                "features have no single number in a network; fit an MFRegressor, or "
                "shuffle columns (see the user guide)."
            )
        model = self._model
        if not isinstance(model, FittedNetwork):
            raise no_effects(self)
        check_effects(self, model.objective.loss)
        of_numbers = zip(*model.number_effects(), strict=True)
        frames = context_effects(
            self._context,
            model.value_effects(),
            of_numbers,
            by,
            has_std=model.shape.n_members > 1,
        )
        return pd.concat(frames, ignore_index=True)

    def _solver(self) -> Solver:
        objective = objective_of(self.loss, self.n_negatives)
        draws_with_sgd = self.solver == "sgd" and objective.counts_unobserved
        is_slow = draws_with_sgd or self.architecture == "mlp"
        max_iter = self.max_iter or (SLOW_MAX_ITER if is_slow else DEFAULT_MAX_ITER)
        implicit_features = self.implicit_features
        if implicit_features is None and objective.counts_unobserved:
            implicit_features = False
        return gradient_solver(
            self,
            objective,
            self._sizes(),
            NetworkConversion(),
            DEFAULT_REG,
            NOISE_SHARE,
            max_iter=int(max_iter),
            dropout=self.dropout,
            implicit_features=implicit_features,
        )

    def _sizes(self) -> Shape:
        """Sizes of the network, without those of the data."""
        sizes: Any = self.hidden_layer_sizes
        sizes = tuple(sizes) if np.iterable(sizes) else (np.asarray(sizes)[()],)
        if not all(
            isinstance(size, int | np.integer) and 1 <= size <= MAX_COUNT
            for size in sizes
        ):
            raise ValueError(
                "hidden_layer_sizes must be ints of at least 1, one a layer, such as "
                "(64, 32), got "
                f"{self.hidden_layer_sizes!r}."
            )
        n_factors = int(self.n_factors)
        return Shape(
            0,
            0,
            0,
            n_factors=0 if self.architecture == "mlp" else n_factors,
            n_embedding=0 if self.architecture == "gmf" else n_factors,
            hidden_layer_sizes=tuple(map(int, sizes)),
            activation=self.activation,
            n_members=int(self.n_members),
        )
