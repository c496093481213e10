"""GradientSolver: mini-batch training of a network, as a solver of an estimator.

It converts canonical rows to tensors, epochs to iterations, and weights to models.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Generic

import numpy as np
import torch
from torch import Tensor

from .._data.context import KnownContext
from .._data.interactions import NO_FEATURES, FurtherRows, Interactions
from .._data.messages import counted
from .._data.sides import Sides
from .._data.units import (
    MAX_FURTHER,
    Units,
    mean_factors,
    median,
    robust_units,
)
from .._interfaces import CHOICE_LOSSES, Iteration, Objective, Solver, Start
from .._share import Share
from .context import network_context
from .fitted import Conversion, NetworkModel, Weights
from .fold_in import FoldIn
from .implicit import (
    Counterparts,
    factor_changes,
    is_clearly_informative,
    is_informative,
)
from .loop import Epoch, Objectives, train
from .losses import RELATIVE_CURVATURE
from .network import (
    ALL_TABLES,
    NUMBER_WEIGHTS,
    PLAIN_TABLES,
    SLOPES,
    TABLES,
    VALUE_TABLES,
    NeuMF,
    Shape,
    feature_weights,
    implicit_name,
    initial_weights,
    is_of_features,
    is_of_rows,
    slope_weights,
)
from .noise import penalty_multiple
from .objective import TrainingOptions, own_penalty
from .row_features import RowFeatures
from .samples import Part, Samples, numbers_of_range
from .terms import FoldInProblem, Pairs

DEFAULT_N_NEGATIVES = 4
DEFAULT_REG_CHOICES, DEFAULT_REG_LABELS = 0.1, 0.3
DEFAULT_LEARNING_RATE = 0.02
DEFAULT_TOL = 1e-4

# Losses that take gross outliers, for which the units do not depend on them.
ROBUST_LOSSES = ("absolute_error", "huber")

# Losses with slopes that grow with residuals, by which a penalty can follow the noise.
LOSSES_OF_NOISE = ("squared_error", "huber")

# Distances from the centre, in standard deviations, that count in their noise.
ROBUST_RANGE = 3.0

# A training has failed if its objective ends above so many times that of its start,
# and by a share of the variance of the ratings. Noise after one epoch has 1.2. The
# start of a continued fit, which may be far from new ratings, is known of one batch.
FAILED_RATIO, LEAST_EXCESS = 1.3, 1e-2
FAILED_RATIO_CONTINUED = 2.0

# Default of batch_size: steps per epoch, and the bounds of their rows.
STEPS_PER_EPOCH = 40
MIN_BATCH_SIZE, MAX_BATCH_SIZE = 4, 8192


def objective_of(loss: str, n_negatives: int | None) -> Objective:
    """Objective of a loss, with its default number of drawn items for None."""
    if n_negatives is None:
        n_negatives = DEFAULT_N_NEGATIVES if loss in CHOICE_LOSSES else 0
    return Objective(loss, int(n_negatives))


def default_reg(objective: Objective, of_ratings: float) -> float:
    """Penalty of choices, or that of ratings in proportion to the loss's curvature.

    Labels have one of their own, since log odds are not standardised.
    """
    if objective.counts_unobserved:
        return DEFAULT_REG_CHOICES
    if objective.loss == "log_loss":
        return DEFAULT_REG_LABELS
    return of_ratings * RELATIVE_CURVATURE[objective.loss]


@dataclass(frozen=True)
class Numbering:
    """Consecutive numbers of updated rows, in which new ones follow the known ones.

    Attributes
    ----------
    rows : ndarray of shape (n_rows,)
        Row numbers in the model, negative where new.
    n_known : int
        Number of rows of the model.
    """

    rows: np.ndarray
    n_known: int

    @property
    def new(self) -> np.ndarray:
        """Row numbers of the new rows."""
        return self.rows[self.rows < 0]

    @property
    def numbers(self) -> np.ndarray:
        """Numbers of `rows`."""
        is_new = self.rows < 0
        return np.where(is_new, self.n_known + np.cumsum(is_new) - 1, self.rows)

    def rows_of(self, numbers: np.ndarray) -> np.ndarray:
        """Row numbers in the model of given numbers."""
        is_new = numbers >= self.n_known
        rows = numbers.copy()
        rows[is_new] = self.new[numbers[is_new] - self.n_known]
        return rows


@dataclass(frozen=True)
class GradientSolver(Solver[NetworkModel], Generic[NetworkModel]):
    """Gradients of mini-batches (see `TrainingOptions` for the objective).

    Attributes
    ----------
    objective : Objective
    sizes : Shape
        Sizes of the network; those of the data are set in `fit`.
    conversion : Conversion
        Conversion between the network and the fitted model.
    optimizer : {"adam", "sgd"}
    max_iter : int
    reg : float
    noise_share : float
        Multiple of `reg` that ratings with as much noise as signal need, by which the
        penalty follows the noise. 0 for `reg` in any case.
    learning_rate, batch_size, tol : float, int and float, or None for the default
    dropout : float
    implicit_features : bool or None
        None is whether it is not at random whom rows have ratings with.
    early_stopping : bool
    validation_fraction : float
    n_iter_no_change : int
    """

    objective: Objective
    sizes: Shape
    conversion: Conversion[NetworkModel]
    optimizer: str
    max_iter: int
    reg: float
    noise_share: float = 0.0
    learning_rate: float | None = None
    batch_size: int | None = None
    tol: float | None = None
    dropout: float = 0.0
    implicit_features: bool | None = False
    early_stopping: bool = False
    validation_fraction: float = 0.1
    n_iter_no_change: int = 3

    @property
    def rating_work(self) -> float:
        # A forward pass and a backward pass of twice its size.
        n_pairs = 1 + self.objective.n_negatives
        return 3.0 * self.max_iter * n_pairs * self.sizes.score_work

    def check(self) -> None:
        if self.objective.loss == "bpr" and self.objective.n_negatives == 0:
            raise ValueError(
                "loss='bpr' compares chosen items with drawn items; n_negatives must "
                "be at least 1."
            )

    def check_context(self, known: KnownContext) -> None:
        """Every loss has terms of values."""

    def check_ratings(self, rating: np.ndarray, weight: np.ndarray) -> None:
        outside = (rating < 0) | (rating > 1)
        if self.objective.is_of_choices and outside.any():
            raise ValueError(
                f"loss={self.objective.loss!r} with n_negatives="
                f"{self.objective.n_negatives} needs ratings between 0 and 1 (1 for a "
                f"choice), but y is outside for {counted(outside, 'rating')}. For "
                "ratings on another scale set choice_threshold, such as "
                "choice_threshold=4, or use loss='squared_error' with n_negatives=0."
            )

    def iterations(
        self,
        data: Interactions,
        start: Start[NetworkModel] | None,
        random_state: np.random.RandomState,
        device: torch.device,
    ) -> Iterator[Iteration]:
        share, implicit = data.shares.user, self.implicit_features
        random_state = share.first(random_state)
        if implicit is None and start is not None:
            implicit = self.conversion.shape(start.model).implicit_features
        elif implicit is None:
            implicit = is_informative(data)
        shape = self._shape(data, implicit)
        is_scaled = not self.objective.is_of_choices
        units = Units.of(data, centred=is_scaled and shape.biased, scaled=is_scaled)
        is_robust = is_scaled and self.objective.loss in ROBUST_LOSSES
        if is_robust:
            units = robust_units(units, data, centred=shape.biased)
        units = replace(units, penalty=self._penalty(data, units, is_robust))
        if units.penalty > 1 and shape.implicit_features:
            # Whom rows have ratings with is to be learned too.
            penalty = 1.0 if is_clearly_informative(data) else units.penalty
            units = replace(units, penalty=penalty)
        mean = 0.0
        if is_scaled and not shape.biased:
            mean = _mean_score(data, units, is_robust)
        network = self._network(shape, data, mean, start, random_state).to(device)
        generator = torch.Generator(device).manual_seed(random_state.randint(2**31))
        tensor = partial(torch.as_tensor, device=device)
        samples = Samples(
            users=tensor(data.users).long(),
            items=tensor(data.items).long(),
            context=tensor(self._context(data, units)).float(),
            # A robust loss has the same slope at any outlier.
            target=tensor(
                units.standard_ratings(data.rating).clip(-MAX_FURTHER, MAX_FURTHER)
            ).float(),
            weight=tensor(data.weight / units.mean_weight).float(),
        )
        if device.type != "cpu":
            samples = samples.joined()
        held_out = None
        if self.early_stopping:
            held_out, samples = self._split(samples, share, random_state)
        if shape.implicit_features:
            network.counterparts = Counterparts.of(
                samples.users, samples.items, *data.shape, share
            )
        options = self._training_options(int(share.sum(float(len(samples)))))
        if self.noise_share and is_scaled and self.objective.loss in LOSSES_OF_NOISE:
            options = replace(options, follows_noise=True)
        epochs = train(
            network,
            samples,
            replace(options, mean=mean, reg=self.reg * units.penalty),
            generator,
            held_out,
            tensor(data.pairs),
            share,
        )
        rating_range = self._rating_range(data)

        def model(weights: Callable[[], Weights], penalty: float) -> NetworkModel:
            of_end = replace(units, penalty=penalty * units.penalty)
            return self.conversion.model(
                weights(), shape, data, of_end, self.objective, rating_range
            )

        return self._reports(epochs, network, model, start is not None)

    def _penalty(self, data: Interactions, units: Units, is_robust: bool) -> float:
        """Multiple of `reg` by the noise of plain ratings."""
        is_plain = not data.context.shape[1] and data.side_features == NO_FEATURES
        if not (self.noise_share and is_plain) or self.objective.counts_unobserved:
            return 1.0
        rating = units.standard_ratings(data.rating)
        if is_robust:
            rating = rating.clip(-ROBUST_RANGE, ROBUST_RANGE)
        return max(1.0, self.noise_share * penalty_multiple(data, rating))

    def check_update(self, model: NetworkModel) -> None:
        if model.objective != self.objective:
            fitted, asked = (
                (objective.loss, objective.n_negatives)
                for objective in (model.objective, self.objective)
            )
            raise ValueError(
                f"partial_fit continues a fit of loss and n_negatives {fitted}, but "
                f"now they are {asked}. Set them back, or fit anew."
            )

    def update(
        self,
        model: NetworkModel,
        further: FurtherRows,
        random_state: np.random.RandomState,
        device: torch.device,
        report: Callable[[float], None],
    ) -> NetworkModel:
        model.units.check_further(further.data.rating)
        low, high = self._rating_range(further.data)
        further = self.conversion.rest(model, further)
        implicit = self.implicit_features
        if implicit is None:
            implicit = self.conversion.shape(model).implicit_features
        shape = self._shape(further.data, implicit)
        self._check_shape(shape, model)
        known = model.with_cold_rows(*further.cold)
        users = Numbering(further.users, further.seen.n_users)
        items = Numbering(further.items, further.seen.n_items)

        changes = self._implicit_changes(known, further, shape.implicit_features)

        def gather(user_numbers: np.ndarray, item_numbers: np.ndarray) -> Weights:
            weights = self.conversion.weights(
                known, users.rows_of(user_numbers), items.rows_of(item_numbers)
            )
            for side, gathered, given in (
                ("user", user_numbers, users.numbers),
                ("item", item_numbers, items.numbers),
            ):
                for name, change in changes[side].items():
                    weights[name][np.searchsorted(gathered, given)] += change
            return {n: weights[n] for n in weights if not is_of_rows(n)}

        problem = self._fold_in_problem(further, model.units, users, items)
        nobody = np.empty(0, dtype=np.int64)
        shared = self.conversion.weights(model, nobody, nobody)
        implicit = shape.implicit_features
        described = {side: f"{side}_feature_mean" in shared for side in TABLES}
        fold_in = FoldIn(
            shape,
            gather,
            problem,
            random_state,
            device,
            tuple(side for side in TABLES if implicit or described[side]),
            {side: own_penalty(described[side], implicit) for side in TABLES},
        )
        self._sweep(fold_in, report)
        tables = {
            "user": fold_in.updated("user", users.numbers),
            "item": fold_in.updated("item", items.numbers),
        }
        rating_range = min(low, model.rating_range[0]), max(high, model.rating_range[1])
        return self.conversion.updated(
            model, tables, further, self.objective, rating_range
        )

    def _implicit_changes(
        self, model: NetworkModel, further: FurtherRows, implicit_features: bool
    ) -> dict[str, Weights]:
        """Changes of rows by their further counterparts, by side and table."""
        changes: dict[str, Weights] = {side: {} for side in TABLES}
        if not implicit_features:
            return changes
        everyone = [np.arange(n) for n in (further.seen.n_users, further.seen.n_items)]
        weights = self.conversion.weights(model, *everyone)
        for side, growth in zip(TABLES, further.growths, strict=True):
            factors = factor_changes(side, further)
            for name in weights.keys() & set(PLAIN_TABLES[side]):
                rows = weights[implicit_name(name)]
                change = factors @ rows.reshape(len(rows), -1)
                # New rows are at the mean of all.
                mean = weights[f"{side}_implicit_mean"] @ rows.reshape(len(rows), -1)
                change[growth.is_new] -= mean
                changes[side][name] = change.reshape(-1, *rows.shape[1:]).astype("f4")
        return changes

    def _fold_in_problem(
        self, further: FurtherRows, units: Units, users: Numbering, items: Numbering
    ) -> FoldInProblem:
        """Further rows in standard units, and the options that a fold-in needs."""
        data = further.data
        return FoldInProblem(
            loss=self.objective.loss,
            n_negatives=self.objective.n_negatives,
            reg=self.reg * (units.penalty if self.noise_share else 1.0),
            seen=further.seen,
            new_pairs=Pairs(
                users=users.numbers[data.users],
                items=items.numbers[data.items],
                target=units.standard_ratings(data.rating),
                weight=data.weight / units.mean_weight,
                context=self._context(data, units),
            ),
            n_new_items=len(items.new),
            n_columns=len(data.n_values),
        )

    @staticmethod
    def _context(data: Interactions, units: Units) -> np.ndarray:
        return network_context(data.context, units, data.n_values)

    def _sweep(self, fold_in: FoldIn, report: Callable[[float], None]) -> None:
        """Sweep until convergence, at most `max_iter` times."""
        for _ in range(self.max_iter):
            loss, converged = fold_in.sweep()
            if not np.isfinite(loss):
                raise FloatingPointError(
                    "Further ratings, features or weights are too far from those of "
                    "the fit for single precision; look for a wrong unit, or fit anew."
                )
            report(loss)
            if converged:
                break

    def _shape(self, data: Interactions, implicit_features: bool) -> Shape:
        n_users, n_items = data.shape
        return replace(
            self.sizes,
            n_users=n_users,
            n_items=n_items,
            n_context=data.numbers.shape[1],
            n_values=tuple(data.n_values),
            implicit_features=implicit_features,
        )

    def _rating_range(self, data: Interactions) -> tuple[float, float]:
        if self.objective.loss == "bpr":
            return -np.inf, np.inf
        if self.objective.is_of_choices:
            return 0.0, 1.0
        return data.rating_range

    def _network(
        self,
        shape: Shape,
        data: Interactions,
        mean: float,
        start: Start[NetworkModel] | None,
        random_state: np.random.RandomState,
    ) -> NeuMF:
        """Network with the weights of `start`, or with random ones."""
        columns: Sides = Sides(None, None) if start is None else start.columns
        seed = random_state.randint(2**31 - shape.n_members)
        if start is None:
            weights = initial_weights(shape, range(seed, seed + shape.n_members))
            low, high = data.rating_range
            if low == high and not self.objective.counts_unobserved:
                # Equal ratings do not distinguish rows, so random starts must not.
                for name in weights.keys() & ALL_TABLES:
                    weights[name].zero_()
            if mean:
                for side, centre in mean_factors(mean)._asdict().items():
                    weights[f"{side}_factors"][..., 0] += centre
        else:
            # Context that is no more, or is new, changes no size of the network.
            fitted = self.conversion.shape(start.model)
            n_values, n_context = fitted.n_values, fitted.n_context
            alike = replace(shape, n_values=n_values, n_context=n_context)
            self._check_shape(alike, start.model)
            weights = {
                name: torch.tensor(value)
                for name, value in self.conversion.weights(
                    start.model, start.users, start.items
                ).items()
                if not name.endswith("_implicit_mean")
            }
            if start.numbers is not None:
                weights = _with_numbers(weights, start.numbers)
            if shape.n_values or fitted.n_values or shape.n_context:
                initial = initial_weights(shape, range(seed, seed + shape.n_members))
                weights = _with_values(weights, initial, start.values)
        weights = slope_weights(shape) | weights
        of_features = {n: weights.pop(n) for n in list(weights) if is_of_features(n)}
        features = {}
        for side, described, places in zip(
            TABLES, data.side_features, columns, strict=True
        ):
            if described is None:
                continue
            features[side] = RowFeatures(described.matrix)
            added = feature_weights(side, len(described.names), weights)
            for name in added.keys() & of_features.keys():
                new = np.flatnonzero(places >= 0)
                added[name][new] = of_features[name][places[new]]
            weights = weights | added
        return NeuMF(shape, weights, features)

    def _check_shape(self, shape: Shape, model: NetworkModel) -> None:
        """Raise a ValueError if the last fit had another network."""
        fitted = self.conversion.shape(model)
        changed = [
            f"{field.name} (was {getattr(fitted, field.name)!r}, now "
            f"{getattr(shape, field.name)!r})"
            for field in fields(shape)
            if field.name not in ("n_users", "n_items")
            and getattr(shape, field.name) != getattr(fitted, field.name)
        ]
        if changed:
            raise ValueError(
                f"The last fit had another network: {', '.join(changed)}. Keep "
                "it, or begin anew by fit with warm_start=False."
            )

    def _reports(
        self,
        epochs: Iterator[Epoch],
        network: NeuMF,
        model: Callable[[Callable[[], Weights], float], NetworkModel],
        is_continued: bool,
    ) -> Iterator[Iteration]:
        tol = DEFAULT_TOL if self.tol is None else self.tol
        scores: list[float] = []
        best, best_penalty, n_worse = -np.inf, 1.0, 0
        best_weights: Weights = {}
        best_objective = Objectives(np.inf, np.inf, np.inf)

        def objective_of_best() -> Objectives:
            return best_objective

        for number, epoch in enumerate(epochs, 1):
            self._check_convergence(number, epoch, network)
            progress = f"{epoch.seconds:.2f} s"
            weights: Callable[[], Weights] = partial(_exported, network)
            objective, penalty = epoch.objective, epoch.penalty
            if epoch.validation_score is not None:
                score = epoch.validation_score
                scores.append(score)
                n_worse = 0 if score > best + tol else n_worse + 1
                if score > best:
                    best, best_weights = score, _exported(network)
                    best_objective, best_penalty = epoch.objective(), penalty
                progress += f", validation score {score:.6f}"
                weights = partial(dict, best_weights)
                objective, penalty = objective_of_best, best_penalty
            yield Iteration(
                epoch.loss,
                progress,
                n_worse >= self.n_iter_no_change,
                partial(model, weights, penalty),
                partial(self._warning, objective, is_continued),
                curves={"validation_scores_": scores.copy()} if scores else {},
            )

    def _check_convergence(self, number: int, epoch: Epoch, network: NeuMF) -> None:
        known = [epoch.loss, epoch.validation_score or 0.0]
        finite = all(bool(p.square().sum().isfinite()) for p in network.parameters())
        if not (finite and np.isfinite(known).all()):
            raise FloatingPointError(
                f"Training diverged at epoch {number}: its loss is {epoch.loss}, or "
                "its weights are too large to multiply. Lower learning_rate_init, "
                f"which was {self._learning_rate}."
            )

    def _warning(
        self,
        objective: Callable[[], Objectives],
        is_continued: bool,
        model: NetworkModel,
    ) -> str:
        """Warning of an objective above that of the start, or an empty string."""
        end, start, first = objective()
        most = max(FAILED_RATIO * start, start + LEAST_EXCESS)
        if is_continued:
            most = max(most, FAILED_RATIO_CONTINUED * first)
        if end <= most:
            return ""
        return (
            f"Training has failed: its objective is {end:.3g}, above the {start:.3g} "
            "of one prediction for all pairs. Lower learning_rate_init, which was "
            f"{self._learning_rate}."
        )

    def _split(
        self, samples: Samples, share: Share, random_state: np.random.RandomState
    ) -> tuple[Part, Samples]:
        """Held out rows for validation, and the other rows, of this process."""
        n_before, n_all = share.n_before(len(samples)), share.sum(float(len(samples)))
        order = torch.as_tensor(random_state.permutation(int(n_all)))
        n_held_out = int(np.ceil(self.validation_fraction * n_all))
        if n_held_out == n_all:
            raise ValueError(
                f"early_stopping=True holds out {n_held_out} of {n_all:.0f} rows "
                f"(validation_fraction={self.validation_fraction}), which leaves none "
                "to train on. Lower it, or set early_stopping=False."
            )
        order = order.to(samples.users.device)
        (held_out, places), (rest, _) = (
            numbers_of_range(part, n_before, len(samples))
            for part in (order[:n_held_out], order[n_held_out:].sort().values)
        )
        return Part(samples.take(held_out), places, n_held_out), samples.take(rest)

    def _training_options(self, n_samples: int) -> TrainingOptions:
        batch_size = self.batch_size
        if batch_size is None:
            batch_size = n_samples // STEPS_PER_EPOCH
            batch_size = min(max(batch_size, MIN_BATCH_SIZE), MAX_BATCH_SIZE)
        return TrainingOptions(
            loss=self.objective.loss,
            n_negatives=self.objective.n_negatives,
            optimizer=self.optimizer,
            learning_rate=self._learning_rate,
            batch_size=int(batch_size),
            n_epochs=self.max_iter,
            reg=self.reg,
            dropout=self.dropout,
        )

    @property
    def _learning_rate(self) -> float:
        if self.learning_rate is None:
            return DEFAULT_LEARNING_RATE
        return float(self.learning_rate)


def _with_numbers(weights: dict[str, Tensor], numbers: np.ndarray) -> dict[str, Tensor]:
    """Weights for other columns of numbers, whose places before are given."""
    of_others = weights.copy()
    for name in weights.keys() & {*NUMBER_WEIGHTS}:
        if not len(numbers):
            del of_others[name]
            continue
        # The last column is that of new ones, which have no effect yet.
        padded = torch.cat([weights[name], 0 * weights[name][:, :1]], dim=1)
        of_others[name] = padded[:, torch.as_tensor(numbers)]
    return of_others


def _with_values(
    weights: dict[str, Tensor], initial: dict[str, Tensor], values: np.ndarray
) -> dict[str, Tensor]:
    """Weights with tables of other values, whose numbers before are given."""
    kept = {*initial, *SLOPES.values()}
    of_others = {n: v for n, v in weights.items() if n in kept or is_of_features(n)}
    new = np.flatnonzero(values >= 0)
    for name in weights.keys() & initial.keys() & {*VALUE_TABLES}:
        of_others[name] = initial[name]
        of_others[name][new] = weights[name][values[new]]
    return initial | of_others


def _exported(network: NeuMF) -> Weights:
    """Weights as arrays; the last row of a table becomes the mean of the others."""

    def array(tensor: torch.Tensor) -> np.ndarray:
        return tensor.detach().cpu().numpy().copy()

    weights = {name: array(weight) for name, weight in network.named_parameters()}
    for side in network.features:
        weights[f"{side}_feature_mean"] = array(network.row_features(side).mean)
    if network.counterparts is not None:
        for side in TABLES:
            mean = network.counterparts.mean(side)
            weights[f"{side}_implicit_mean"] = array(mean)
    # An unknown value has no effect.
    for name in (weights.keys() & ALL_TABLES) - {*VALUE_TABLES}:
        weights[name][-1] = weights[name][:-1].mean(axis=0)
    return weights


def _mean_score(data: Interactions, units: Units, is_robust: bool) -> float:
    """Mean of the ratings in standard units, or their median."""
    if is_robust:
        return median(data.rating, data.weight, data.shares.user) / units.scale
    sums = np.array([data.weight @ data.rating, data.weight.sum()])
    of_rating, total = data.shares.user.sum(sums)
    return float(of_rating / total / units.scale)
