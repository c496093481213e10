"""NCFRegressor: parameters, docstring, and what its network predicts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, Literal, Self

import numpy as np
import torch
from scipy import sparse

from ._base import Integral, Interval, Iteration, Real, StrOptions, snapshot
from ._data.interactions import Interactions
from ._data.units import Units
from ._gradient.network import (
    ACTIVATIONS,
    TABLES,
    NeuMF,
    Shape,
    feature_name,
    is_of_features,
)
from ._gradient.training import NetworkRecommender
from ._topk import Fill

DEFAULT_REG_RATINGS, DEFAULT_REG_CHOICES = 0.7, 0.1
DEFAULT_MAX_ITER, SLOW_MAX_ITER = 10, 20

# Numbers of a hidden layer held at a time in predict and recommend.
TILE_SIZE = 2**22

# Users whose scores are an item's profile, and items for a user's.
N_PROFILE = 256

# Share of the largest score below which a profile is nothing but rounding of scores in
# single precision.
MIN_SIGNAL = 1e-6


class NCFRegressor(NetworkRecommender):
    """Neural collaborative filtering, as a regressor over (user, item) rows.

    The score of user u and item i, with features f of that rating, is that of NeuMF
    [1]_ with biases::

        s = a + b_u + c_i + p_u·q_i + MLP(r_u, s_i, f) + f·w

    and the prediction is the mean of `n_members` such networks, which differ in their
    random start alone and are trained side by side. With W_r the weight of all pairs
    that meet a row (p, r, b) or a layer's weights r, and W that of all pairs, each
    minimises::

        (1 / W) (Σ weight · loss(y, s) + reg Σ_r √W_r ‖r‖²)

    Ratings are standardised inside, so their scale needs no setting. What `fit` is told
    of users and items (`user_features`, `item_features`) enters as linear terms of
    their rows: p_u is Bᵀf_u and what the user adds to it, and so are r, b and those of
    items. Rows without ratings have the former alone.

    Parameters
    ----------
    n_factors : int, default=16
        Length of p and q, and of the embeddings r and s.
    hidden_layer_sizes : int or array-like of shape (n_layers,), default=(16,)
        Units of the hidden layers of the perceptron. Not used by architecture "gmf".
    architecture : {"neumf", "gmf", "mlp"}, default="neumf"
        Which of the two terms to have: both, p·q alone (generalised matrix
        factorisation), or the perceptron alone. The output weights that the paper gives
        the factors of the product are one here: p and q can express any others, and
        with others a penalty of p and q would mean nothing.
    activation : {"relu", "tanh", "logistic", "silu"}, default="relu"
        Of the hidden layers.
    dropout : float, default=0.0
        Share of the hidden units that are silenced in training.
    n_members : int, default=8
        Number of networks.
    loss : {"squared_error", "absolute_error", "huber", "log_loss", "bpr"}, \
            default="squared_error"
        - "squared_error", "absolute_error", "huber" (squared up to one standard
          deviation, then linear): of ratings.
        - "log_loss": of whether a user chose an item, y = 1 for the rows of X and 0 for
          drawn items. Predictions are probabilities.
        - "bpr": minus the log of the probability that the item of the row ranks above a
          drawn one [2]_, times y. Predictions are scores that rank, on no scale.
    n_negatives : int, default=None
        Items drawn for each row in each epoch, uniformly; one that the user has a row
        of does not count. None is 4 for "log_loss" and "bpr", and 0 for the others.
        With "log_loss" and 0, y says which rows are positive. With a loss of ratings, a
        drawn item has rating 0, and y must be between 0 and 1.
    reg : float, default=None
        Penalty of squares, as in the objective above. None is 0.7 for ratings (0.35
        with "absolute_error" and "huber", which bend half as far), and 0.1 for what
        users chose (`loss` "log_loss" and "bpr", or `n_negatives` above 0).
    solver : {"adam", "sgd"}, default="adam"
        Adam, or stochastic gradient descent with Nesterov's momentum.
    learning_rate_init : float, default=None
        The highest learning rate. It rises linearly from zero for a tenth of the steps
        and falls to zero as a cosine. None is 0.02. "sgd" divides the gradient of a row
        by the share of the batch that meets it, and every gradient by how far the loss
        and the penalty bend.
    batch_size : int, default=None
        Rows of X in a step; what is drawn for them comes on top. None takes forty steps
        an epoch, but with no fewer than 16 and no more than 8192 rows.
    max_iter : int, default=None
        Number of epochs. None is 10, and 20 for architecture "mlp", which has to find
        with layers what the product of factors begins with, and for "sgd" where items
        are drawn.
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
        What to do with users and items that `fit` has not seen: answer from what is
        known (the other side, and the mean of the rows of their own), the same with a
        warning, or refuse.
    clip : bool, default=True
        Clip predictions to the range of the training ratings.
    warm_start : bool, default=False
        Start from the last fit. Users and items are recognised by their ids.
    device : str or torch.device, default="auto"
        "auto" is CUDA where it is available, else the CPU; or a device of torch.
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
        What `clip` clips to.
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
        **NetworkRecommender._parameter_constraints,
        "n_factors": [Interval(Integral, 1, None, closed="left")],
        "hidden_layer_sizes": [
            "array-like",
            Interval(Integral, 1, None, closed="left"),
        ],
        "architecture": [StrOptions({"neumf", "gmf", "mlp"})],
        "activation": [StrOptions(set(ACTIVATIONS))],
        "dropout": [Interval(Real, 0, 1, closed="left")],
        "n_members": [Interval(Integral, 1, None, closed="left")],
        "reg": [Interval(Real, 0, None, closed="left"), None],
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
        self.warm_start = warm_start
        self.device = device
        self.random_state = random_state
        self.verbose = verbose

    def _max_iter(self) -> int:
        if self.max_iter is not None:
            return int(self.max_iter)
        draws_by_sgd = self.solver == "sgd" and self._is_implicit()
        is_slow = draws_by_sgd or self.architecture == "mlp"
        return SLOW_MAX_ITER if is_slow else DEFAULT_MAX_ITER

    def _can_converge(self) -> bool:
        return False

    def _reg(self) -> float:
        if self.reg is not None:
            return float(self.reg)
        if self._is_implicit():
            return DEFAULT_REG_CHOICES
        return DEFAULT_REG_RATINGS * self._curvature()

    def _iterate(self, data: Interactions, device: torch.device) -> Iterator[Iteration]:
        return self._train(data, device)

    def _shape_of(self, data: Interactions) -> Shape:
        sizes = self.hidden_layer_sizes
        sizes = (sizes,) if isinstance(sizes, Integral) else tuple(sizes)
        if not all(isinstance(size, Integral) and size >= 1 for size in sizes):
            raise ValueError(
                "hidden_layer_sizes must be ints of at least 1, one a layer, got "
                f"{self.hidden_layer_sizes!r}."
            )
        return Shape(
            *data.shape,
            data.features.shape[1],
            n_factors=0 if self.architecture == "mlp" else int(self.n_factors),
            n_embedding=0 if self.architecture == "gmf" else int(self.n_factors),
            hidden_layer_sizes=tuple(map(int, sizes)),
            activation=self.activation,
            n_members=int(self.n_members),
        )

    def _fitted_shape(self) -> Shape:
        return self._shape

    def _grown_weights(
        self, users: np.ndarray, items: np.ndarray
    ) -> dict[str, np.ndarray]:
        weights = self._weights.copy()
        for side, rows in (("user", users), ("item", items)):
            for name in weights.keys() & set(TABLES[side]):
                weights[name] = weights[name][np.append(rows, -1)]
        return weights

    def _with_rows(
        self,
        tables: dict[str, dict[str, np.ndarray]],
        data: Interactions,
        grown: Interactions,
    ) -> dict[str, Any]:
        weights = self._weights.copy()
        for side, growth in zip(TABLES, grown.growths, strict=True):
            for name, rows in tables[side].items():
                # The row of the unseen stays the last.
                weights[name] = growth.inserted(weights[name])
                weights[name][growth.given] = rows
        return {"_weights": weights, "_shape": self._shape_of(grown)}

    def _network_attributes(
        self, weights: dict[str, np.ndarray], data: Interactions, units: Units
    ) -> dict[str, Any]:
        return {"_weights": weights, "_shape": self._shape_of(data)}

    def _fitted_network(self, device: torch.device, dtype: torch.dtype) -> NeuMF:
        weights = {
            name: torch.as_tensor(value, dtype=dtype, device=device)
            for name, value in self._weights.items()
            if not is_of_features(name)
        }
        return NeuMF(self._shape, weights).requires_grad_(False)

    def _knowing(
        self, users: sparse.csr_array | None, items: sparse.csr_array | None
    ) -> Self:
        model, weights = snapshot(self), self._weights.copy()
        sizes = {"user": self._shape.n_users, "item": self._shape.n_items}
        for side, matrix in (("user", users), ("item", items)):
            if matrix is None:
                continue
            sizes[side] += matrix.shape[0]
            away = matrix[::-1] - weights[f"{side}_feature_mean"]
            for name in weights.keys() & set(TABLES[side]):
                table, added = weights[name], weights[feature_name(name)]
                said = away @ added.reshape(len(added), -1)
                described = table[-1] + said.reshape(-1, *table.shape[1:])
                weights[name] = np.concatenate(
                    [table[:-1], described.astype(table.dtype), table[-1:]]
                )
        model._weights = weights
        model._shape = replace(
            self._shape, n_users=sizes["user"], n_items=sizes["item"]
        )
        return model

    def _predict(
        self,
        users: np.ndarray,
        items: np.ndarray,
        features: np.ndarray,
        return_std: bool,
    ) -> tuple[np.ndarray, np.ndarray | None]:
        if return_std and self._shape.n_members == 1:
            raise ValueError(
                "return_std=True is the spread of the members' predictions, and this "
                "fit had n_members=1; fit with n_members of 2 or more."
            )
        device = self._torch_device()
        network = self._fitted_network(device, torch.float64)
        features = self._units.standard_features(features)
        mean, std = np.empty(len(users)), np.empty(len(users))
        step = max(1, TILE_SIZE // _numbers_of_a_pair(self._shape))
        for start in range(0, len(users), step):
            tile = slice(start, start + step)
            u, i, f = (
                torch.from_numpy(values[tile]).to(device)
                for values in (users, items, features)
            )
            score = network(u, i[:, None], f)[:, 0].cpu().numpy()
            score = self._units.centre + self._units.scale * score
            mean[tile] = score.mean(axis=1)
            if return_std:
                std[tile] = self._response(score).std(axis=1, ddof=1)
        return mean, std if return_std else None

    def _scorer(
        self, rows: np.ndarray, columns: np.ndarray, device: torch.device
    ) -> Callable[[slice], Fill]:
        network, shape = self._fitted_network(device, torch.float32), self._shape
        items = network.side_scores("item", torch.from_numpy(columns).to(device))
        item_bias = items.bias.mean(-1) + network.intercept.mean()

        def score(tile: slice) -> Fill:
            users = network.side_scores("user", torch.from_numpy(rows[tile]).to(device))
            user_bias = users.bias.mean(-1)

            def fill(columns: slice, out: torch.Tensor) -> None:
                torch.add(user_bias[:, None], item_bias[columns], out=out)
                if shape.n_factors:
                    # Members side by side: a sum of inner products is an inner product.
                    p, q = users.factors.flatten(1), items.factors[columns].flatten(1)
                    out.addmm_(p, q.T, alpha=1 / shape.n_members)
                if shape.n_embedding:
                    n_pairs = max(1, TILE_SIZE // _numbers_of_a_pair(shape))
                    width = min(n_pairs, out.shape[1])
                    for hidden, part in zip(
                        items.hidden[columns].split(width),
                        out.split(width, dim=1),
                        strict=True,
                    ):
                        height = n_pairs // width
                        for some, piece in zip(
                            users.hidden[:, None].split(height),
                            part.split(height),
                            strict=True,
                        ):
                            piece += network.perceptron(some, hidden).mean(-1)

            return fill

        return score

    def _ratings(self, scores: np.ndarray, rows: np.ndarray) -> np.ndarray:
        return self._response(self._units.centre + self._units.scale * scores)

    def _vectors(self, side: Literal["user", "item"], rows: np.ndarray) -> np.ndarray:
        if self._shape.n_embedding:
            raise ValueError(
                "Scores of a perceptron are no inner products; index vectors need a "
                "fit with architecture='gmf'."
            )
        factors = self._weights[f"{side}_factors"][rows].reshape(len(rows), -1)
        bias = self._weights[f"{side}_bias"][rows].mean(axis=1, keepdims=True)
        ends = [bias, np.ones_like(bias)]
        scale = np.float32(np.sqrt(self._shape.n_members))
        return np.hstack(
            [factors / scale, *(ends if side == "user" else reversed(ends))]
        )

    def _profiles(self, side: Literal["user", "item"]) -> tuple[np.ndarray, np.ndarray]:
        """Scores against some of the other side, less what all or none share.

        What rounding alone leaves of them is nothing.
        """
        n_users, n_items = self._shape.n_users, self._shape.n_items
        rows, columns = np.arange(n_users), np.arange(n_items)
        if side == "item":
            rows = _spread(rows)
        else:
            columns = _spread(columns)
        device = self._torch_device()
        scores = torch.empty(len(rows), len(columns), device=device)
        score = self._scorer(rows, columns, device)
        score(slice(None))(slice(None), scores)
        scores = scores.double().cpu().numpy()
        least = MIN_SIGNAL * np.abs(scores).max()
        scores -= scores.mean(axis=0)
        scores -= scores.mean(axis=1, keepdims=True)
        profiles = scores.T if side == "item" else scores
        lengths = np.linalg.norm(profiles, axis=1)
        is_nothing = np.abs(profiles).max(axis=1) < least
        lengths[is_nothing | (lengths == 0)] = np.inf
        return profiles.astype(np.float32), lengths.astype(np.float32)


def _numbers_of_a_pair(shape: Shape) -> int:
    """Most numbers that a layer holds of one pair, over all members."""
    return shape.n_members * max(shape.n_factors, *shape.hidden_layer_sizes, 1)


def _spread(rows: np.ndarray) -> np.ndarray:
    """Some rows, far apart."""
    chosen = np.linspace(0, len(rows) - 1, min(len(rows), N_PROFILE))
    return rows[chosen.astype(np.int64)]
