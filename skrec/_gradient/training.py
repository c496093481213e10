"""What the estimators that train a network share: options and iterations.

Canonical rows become tensors and a plan, epochs of the gradient loop become iterations
of an estimator. What the network is and what is kept of it are hooks.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import fields
from functools import partial
from typing import Any

import numpy as np
import torch
from scipy.special import expit
from sklearn.utils import check_random_state

from .._base import (
    BaseRecommender,
    Integral,
    Interval,
    Iteration,
    Real,
    StrOptions,
)
from .._data.interactions import Columns, Interactions, counted, numbered
from .._data.units import Units
from .fold_in import FoldIn
from .loop import OPTIMIZERS, Epoch, Samples, TrainingOptions, train
from .losses import LOSSES, RELATIVE_CURVATURE
from .network import (
    ITEM_TABLES,
    USER_TABLES,
    NeuMF,
    Shape,
    feature_weights,
    initial_weights,
    is_of_features,
)
from .row_features import RowFeatures
from .terms import FoldInProblem, Pairs, SeenPairs

# Losses whose scores are no ratings.
RANKING_LOSSES = ("log_loss", "bpr")

DEFAULT_N_NEGATIVES = 4
DEFAULT_LEARNING_RATE = 0.02
DEFAULT_TOL = 1e-4

# Without a batch_size: so many steps an epoch, with so many rows at least and at most.
STEPS_PER_EPOCH = 40
MIN_BATCH_SIZE, MAX_BATCH_SIZE = 16, 8192


class NetworkRecommender(BaseRecommender):
    """Template of an estimator that trains a network."""

    _parameter_constraints: dict = {
        **BaseRecommender._parameter_constraints,
        "loss": [StrOptions(set(LOSSES))],
        "n_negatives": [Interval(Integral, 0, None, closed="left"), None],
        "batch_size": [Interval(Integral, 1, None, closed="left"), None],
        "learning_rate_init": [Interval(Real, 0, None, closed="neither"), None],
        "early_stopping": ["boolean"],
        "validation_fraction": [Interval(Real, 0, 1, closed="neither")],
        "n_iter_no_change": [Interval(Integral, 1, None, closed="left")],
    }

    def _train(self, data: Interactions, device: torch.device) -> Iterator[Iteration]:
        """Iterations that start at random weights, or where the last fit ended."""
        units = self._units_of(data)
        known = None
        if self.warm_start and self._is_fitted():
            known = self._grown_weights(
                numbered(data.user_ids, self.user_ids_, "X (users)"),
                numbered(data.item_ids, self.item_ids_, "X (items)"),
            )
        random_state = check_random_state(self.random_state)
        network = self._network(data, known, random_state)
        return self._epochs(network, data, data.pairs, units, random_state, device)

    def _check_can_continue(self) -> None:
        if self._objective != self._fitted_objective:
            raise ValueError(
                "partial_fit continues a fit of loss and n_negatives "
                f"{self._fitted_objective}, but now they are {self._objective}. Set "
                "them back, or fit anew."
            )

    def _learned_further(
        self,
        data: Interactions,
        users: np.ndarray,
        items: np.ndarray,
        grown: Interactions,
        device: torch.device,
    ) -> dict[str, Any]:
        shape = self._shape_of(data)
        self._check_shape(shape)
        n_known = len(self.user_ids_), len(self.item_ids_)
        (users, new_users), (items, new_items) = (
            _behind(rows, n) for rows, n in zip((users, items), n_known, strict=True)
        )

        def gather(users: np.ndarray, items: np.ndarray) -> dict[str, np.ndarray]:
            weights = self._grown_weights(
                _looked_up(users, n_known[0], new_users),
                _looked_up(items, n_known[1], new_items),
            )
            return {n: weights[n] for n in weights if not is_of_features(n)}

        problem = FoldInProblem(
            loss=self.loss,
            n_negatives=self._n_negatives(),
            reg=self._reg(),
            seen=SeenPairs(self._seen_offsets, self._seen_items, n_known[1]),
            new_pairs=Pairs(
                users=users[data.users],
                items=items[data.items],
                target=self._units.standard_ratings(data.rating),
                weight=data.weight / self._units.mean_weight,
                context=self._units.standard_features(data.features),
            ),
            n_new_items=len(new_items),
        )
        revision = FoldIn(
            shape,
            gather,
            problem,
            check_random_state(self.random_state),
            device,
            tuple(self._descriptions),
        )
        losses = []
        for number in range(1, self._max_iter() + 1):
            loss, converged = revision.sweep()
            if not np.isfinite(loss):
                raise FloatingPointError(
                    "Further ratings, features or weights are so far from those of the "
                    "fit that single precision cannot hold them together; look for a "
                    "wrong unit, or fit anew."
                )
            losses.append(loss)
            self._tell(number, Iteration(loss, "rows revised", converged, dict))
            if converged:
                break
        return {
            **self._with_rows(
                {
                    "user": revision.updated("user", users),
                    "item": revision.updated("item", items),
                },
                data,
                grown,
            ),
            "validation_scores_": None,
            "n_iter_": self.n_iter_ + len(losses),
            "loss_curve_": [*self.loss_curve_, *losses],
        }

    def _network(
        self,
        data: Interactions,
        known: dict[str, np.ndarray] | None,
        random_state: np.random.RandomState,
    ) -> NeuMF:
        """A network at known weights, or at random ones."""
        shape = self._shape_of(data)
        seed = random_state.randint(2**31 - shape.n_members)
        if known is None:
            seeds = range(seed, seed + shape.n_members)
            weights = initial_weights(shape, seeds)
            if np.ptp(data.rating) == 0 and not self._counts_unseen_pairs():
                # No rating tells rows apart, and so their chance start shall not.
                for name in weights.keys() & {*USER_TABLES, *ITEM_TABLES}:
                    weights[name].zero_()
            return self._described_network(shape, weights, data, {})
        self._check_shape(shape)
        # A copy, since training works in place and may fail.
        weights = {name: torch.tensor(value) for name, value in known.items()}
        of_features = {name for name in weights if is_of_features(name)}
        return self._described_network(
            shape,
            {name: weights[name] for name in weights.keys() - of_features},
            data,
            {name: weights[name] for name in of_features},
        )

    def _check_shape(self, shape: Shape) -> None:
        """Refuse to go on with another network than that of the last fit."""
        fitted = self._fitted_shape()
        changed = [
            f"{field.name} (was {getattr(fitted, field.name)!r}, now "
            f"{getattr(shape, field.name)!r})"
            for field in fields(shape)
            if field.name not in ("n_users", "n_items")
            and getattr(shape, field.name) != getattr(fitted, field.name)
        ]
        if changed:
            raise ValueError(
                f"This {type(self).__name__} cannot go on from its last fit, which had "
                f"another network: {', '.join(changed)}. Fit anew with "
                "warm_start=False, or keep the network."
            )

    def _described_network(
        self,
        shape: Shape,
        weights: dict[str, torch.Tensor],
        data: Interactions,
        known: dict[str, torch.Tensor],
    ) -> NeuMF:
        """A network that has the features of `data`, with weights for them.

        They are zero, or those of the last fit of columns that are `known`.
        """
        features = {}
        places = self._places_of_columns(data)
        for side, described in data.described.items():
            features[side] = RowFeatures(described.matrix)
            added = feature_weights(side, len(described.names), weights)
            for name in added.keys() & known.keys():
                new = np.flatnonzero(places[side] >= 0)
                added[name][new] = known[name][places[side][new]]
            weights = weights | added
        return NeuMF(shape, weights, features)

    def _epochs(
        self,
        network: NeuMF,
        data: Interactions,
        pairs: np.ndarray,
        units: Units,
        random_state: np.random.RandomState,
        device: torch.device,
    ) -> Iterator[Iteration]:
        network = network.to(device)
        generator = torch.Generator(device).manual_seed(random_state.randint(2**31))
        tensor = partial(torch.as_tensor, device=device)
        samples = Samples(
            users=tensor(data.users),
            items=tensor(data.items),
            context=tensor(units.standard_features(data.features)).float(),
            target=tensor(units.standard_ratings(data.rating)).float(),
            weight=tensor(data.weight / data.weight.mean()).float(),
        )
        held_out = None
        if self.early_stopping:
            held_out, samples = self._split(samples, random_state)
        plan = self._plan(len(samples))
        epochs = train(network, samples, plan, generator, held_out, tensor(pairs))
        return self._reports(epochs, network, data, units)

    def _reports(
        self,
        epochs: Iterator[Epoch],
        network: NeuMF,
        data: Interactions,
        units: Units,
    ) -> Iterator[Iteration]:
        tol = DEFAULT_TOL if self.tol is None else self.tol
        scores: list[float] = []
        best, best_weights, n_worse = -np.inf, None, 0
        for number, epoch in enumerate(epochs, 1):
            self._check_convergence(number, epoch, network)
            progress = f"{epoch.seconds:.2f} s"
            export = partial(_exported, network)
            if epoch.validation_score is not None:
                score = epoch.validation_score
                scores.append(score)
                n_worse = 0 if score > best + tol else n_worse + 1
                if score > best:
                    best, best_weights = score, _exported(network)
                progress += f", validation score {score:.6f}"
                export = partial(dict, best_weights)
            yield Iteration(
                epoch.loss,
                progress,
                n_worse >= self.n_iter_no_change,
                partial(self._attributes_of, export, data, units, scores.copy()),
            )

    def _check_convergence(self, number: int, epoch: Epoch, network: NeuMF) -> None:
        known = [epoch.loss, epoch.validation_score or 0.0]
        finite = all(bool(p.square().sum().isfinite()) for p in network.parameters())
        if not (finite and np.isfinite(known).all()):
            raise FloatingPointError(
                f"{type(self).__name__} diverged at epoch {number}: its loss is "
                f"{epoch.loss}, or its weights are too large to multiply. Lower "
                f"learning_rate_init, which was {self._learning_rate()}."
            )

    def _attributes_of(self, export, data, units, scores) -> dict[str, Any]:
        return {
            **self._network_attributes(export(), data, units),
            "_units": units,
            "_fitted_objective": self._objective,
            "validation_scores_": scores or None,
        }

    def _split(
        self, samples: Samples, random_state: np.random.RandomState
    ) -> tuple[Samples, Samples]:
        """A share of the rows to validate on, and the rest."""
        order = torch.as_tensor(random_state.permutation(len(samples)))
        n_held_out = int(np.ceil(self.validation_fraction * len(samples)))
        if n_held_out == len(samples):
            raise ValueError(
                f"early_stopping=True holds out {n_held_out} of {len(samples)} rows "
                f"(validation_fraction={self.validation_fraction}), which leaves none "
                "to train on. Lower it, or set early_stopping=False."
            )
        order = order.to(samples.users.device)
        held_out, rest = order[:n_held_out], order[n_held_out:].sort().values
        return samples.take(held_out), samples.take(rest)

    def _plan(self, n_samples: int) -> TrainingOptions:
        batch_size = self.batch_size
        if batch_size is not None:
            batch_size = int(batch_size)
        else:
            batch_size = n_samples // STEPS_PER_EPOCH
            batch_size = min(max(batch_size, MIN_BATCH_SIZE), MAX_BATCH_SIZE)
        return TrainingOptions(
            loss=self.loss,
            n_negatives=self._n_negatives(),
            optimizer=self.solver,
            learning_rate=self._learning_rate(),
            batch_size=batch_size,
            n_epochs=self._max_iter(),
            reg=self._reg(),
            dropout=getattr(self, "dropout", 0.0),
        )

    def _learning_rate(self) -> float:
        if self.learning_rate_init is None:
            return DEFAULT_LEARNING_RATE
        return float(self.learning_rate_init)

    def _curvature(self) -> float:
        """How far the loss bends, which a penalty is to be in proportion to."""
        return RELATIVE_CURVATURE[self.loss]

    def _n_negatives(self) -> int:
        if self.n_negatives is not None:
            return int(self.n_negatives)
        return DEFAULT_N_NEGATIVES if self.loss in RANKING_LOSSES else 0

    def _is_implicit(self) -> bool:
        """Whether ratings are 1 where a pair was observed, and 0 where it was not."""
        chosen = self.loss in RANKING_LOSSES or self._n_negatives() > 0
        return chosen and self.solver in OPTIMIZERS

    def _needs_no_ratings(self) -> bool:
        return self._is_implicit()

    def _counts_unseen_pairs(self) -> bool:
        return self._is_implicit() and self._n_negatives() > 0

    @property
    def _objective(self) -> tuple[str, int]:
        return self.loss, self._n_negatives()

    def _read_ratings(self, y, columns: Columns) -> np.ndarray:
        rating = super()._read_ratings(y, columns)
        self._check_ratings(rating)
        return rating

    def _units_of(self, data: Interactions) -> Units:
        scaled = not self._is_implicit()
        return Units.of(
            data, centred=scaled and self._shape_of(data).biased, scaled=scaled
        )

    def _check_ratings(self, rating: np.ndarray) -> None:
        if self.loss == "bpr" and self._n_negatives() == 0:
            raise ValueError(
                "loss='bpr' compares what a user has chosen with drawn items; "
                "n_negatives must be at least 1."
            )
        outside = (rating < 0) | (rating > 1)
        if self._is_implicit() and outside.any():
            raise ValueError(
                f"loss={self.loss!r} with n_negatives={self._n_negatives()} needs "
                "ratings between 0 and 1 (1 for what a user has chosen), but y is "
                f"outside for {counted(outside, 'rating')}. For ratings on another "
                "scale pass (y > threshold).astype(float), or use "
                "loss='squared_error' with n_negatives=0."
            )

    def _rating_range(self, rating: np.ndarray) -> tuple[float, float]:
        if self.loss == "bpr":
            return -np.inf, np.inf
        return (0.0, 1.0) if self._is_implicit() else super()._rating_range(rating)

    def _response(self, score: np.ndarray) -> np.ndarray:
        return expit(score) if self._fitted_objective[0] == "log_loss" else score

    @abstractmethod
    def _grown_weights(
        self, users: np.ndarray, items: np.ndarray
    ) -> dict[str, np.ndarray]:
        """What the last fit has learned, in its units, as new arrays.

        Tables hold numbered rows, and behind them that of the unseen, which is -1.
        """

    @abstractmethod
    def _shape_of(self, data: Interactions) -> Shape:
        """Sizes of the network."""

    @abstractmethod
    def _reg(self) -> float:
        """Penalty in the objective of `TrainingOptions`."""

    def _is_fitted(self) -> bool:
        return hasattr(self, "_units")

    @abstractmethod
    def _fitted_shape(self) -> Shape:
        """Sizes of the network of the last fit, if it had been one."""

    @abstractmethod
    def _network_attributes(
        self, weights: dict[str, np.ndarray], data: Interactions, units: Units
    ) -> dict[str, Any]:
        """Fitted attributes."""

    @abstractmethod
    def _with_rows(
        self,
        tables: dict[str, dict[str, np.ndarray]],
        data: Interactions,
        grown: Interactions,
    ) -> dict[str, Any]:
        """Fitted attributes after the tables of the rows of `data` have changed.

        `grown` numbers the same rows among all ids.
        """


def _exported(network: NeuMF) -> dict[str, np.ndarray]:
    """Weights as arrays.

    The row of the unseen becomes the mean of the others.
    """

    def array(tensor: torch.Tensor) -> np.ndarray:
        return tensor.detach().cpu().numpy().copy()

    weights = {name: array(weight) for name, weight in network.named_parameters()}
    for side, features in network.features.items():
        weights[f"{side}_feature_mean"] = array(features.mean)
    for name in weights.keys() & {*USER_TABLES, *ITEM_TABLES}:
        weights[name][-1] = weights[name][:-1].mean(axis=0)
    return weights


def _behind(rows: np.ndarray, n_known: int) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of rows when new ones follow known ones, and the new ones' own."""
    is_new = rows < 0
    numbers = np.where(is_new, n_known + np.cumsum(is_new) - 1, rows)
    return numbers, rows[is_new]


def _looked_up(numbers: np.ndarray, n_known: int, new: np.ndarray) -> np.ndarray:
    """The way back from what `_behind` gives."""
    is_new = numbers >= n_known
    rows = numbers.copy()
    rows[is_new] = new[numbers[is_new] - n_known]
    return rows
