"""GradientSolver: mini-batch training of a network, as a solver of an estimator.

It converts canonical rows to tensors, epochs to iterations, and weights to models.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Generic

import numpy as np
import torch

from .._data.context import KnownContext
from .._data.interactions import NO_FEATURES, FurtherRows, Interactions
from .._data.messages import counted
from .._data.units import (
    MAX_FURTHER,
    Units,
    median,
    robust_units,
)
from .._interfaces import Iteration, Objective, Solver, Start
from .._share import Share
from .context import network_context
from .effects import Effects, additive_effects
from .fitted import Conversion, NetworkModel, Weights
from .fold_in import FoldIn
from .further import UpdatedRows
from .implicit import Counterparts
from .loop import Epoch, Objectives, train
from .losses import LOSSES
from .network import (
    ALL_TABLES,
    TABLES,
    VALUE_TABLES,
    NeuMF,
    Shape,
)
from .noise import Selection, penalty_multiple
from .objective import TrainingOptions
from .samples import Part, Samples, numbers_of_range
from .start import check_shape, continued_network, random_network
from .terms import FoldInProblem, Pairs

# Distances from the centre, in standard deviations, that count in the noise of ratings
# where the loss is robust.
ROBUST_RANGE = 3.0

# A training has failed if its objective ends above so many times that of its start,
# and by a share of the variance of the ratings. Noise after one epoch has 1.2. The
# start of a continued fit, which may be far from new ratings, is known of one batch.
FAILED_RATIO, LEAST_EXCESS = 1.3, 1e-2
FAILED_RATIO_CONTINUED = 2.0

# Default of batch_size: steps per epoch, and the bounds of their rows.
STEPS_PER_EPOCH = 40
MIN_BATCH_SIZE, MAX_BATCH_SIZE = 4, 8192


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
    reg, learning_rate, tol : float
    noise_share : float
        Multiple of `reg` that ratings with as much noise as signal need, by which the
        penalty follows the noise. 0 for `reg` in any case.
    batch_size : int or None
        None takes `STEPS_PER_EPOCH` steps, of rows within bounds.
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
    learning_rate: float
    tol: float
    noise_share: float = 0.0
    batch_size: int | None = None
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
        share = data.shares.user
        random_state = share.first(random_state)
        fitted = None if start is None else self.conversion.shape(start.model)
        selection = Selection(data)
        shape = self._shape(selection, fitted)
        units = self._units(selection, shape)
        mean = 0.0
        if self._is_of_ratings and not shape.biased:
            mean = _mean_score(data, units, self._is_robust)
        network = self._network(shape, data, mean, start, random_state).to(device)
        effects = self._effects(data, units, shape)
        # Where whom rows have ratings with tells effects, terms of counterparts learn
        # them first: effects that have seen a rating would leave them nothing of it.
        if (
            effects is not None
            and start is None
            and not (shape.implicit_features and selection.is_clearly_informative)
        ):
            network.begin_at(effects.level, effects.rows)
        generator = torch.Generator(device).manual_seed(random_state.randint(2**31))
        samples, held_out = self._samples(data, units, device), None
        if self.early_stopping:
            held_out, samples = self._split(samples, share, random_state)
        if shape.implicit_features:
            network.counterparts = Counterparts.of(
                samples.users, samples.items, *data.shape, share
            )
        n_samples = int(share.sum(float(len(samples))))
        options = self._training_options(n_samples, mean, self.reg * units.penalty)
        if effects is not None:
            options = replace(options, effect_penalties=effects.penalties)
        seen = torch.as_tensor(data.pairs, device=device)
        epochs = train(network, samples, options, generator, held_out, seen, share)
        rating_range = self._rating_range(data)

        def model(weights: Callable[[], Weights], multiple: float) -> NetworkModel:
            of_end = self._units_of_end(units, effects, multiple)
            return self.conversion.model(
                weights(), shape, data, of_end, self.objective, rating_range
            )

        return self._reports(epochs, network, model, start is not None)

    def _units_of_end(
        self, units: Units, effects: Effects | None, multiple: float
    ) -> Units:
        """Units with the penalties that a training ended with."""
        of_biases = None
        if effects is not None:
            of_users, of_items = effects.of_sides
            factor = multiple * LOSSES[self.objective.loss].relative_curvature
            of_biases = factor * of_users, factor * of_items
        return replace(
            units, penalty=multiple * units.penalty, bias_penalties=of_biases
        )

    @property
    def _is_of_ratings(self) -> bool:
        """Whether scores are standardised ratings."""
        return not self.objective.is_of_choices

    @property
    def _is_robust(self) -> bool:
        return self._is_of_ratings and LOSSES[self.objective.loss].is_robust

    def _units(self, selection: Selection, shape: Shape) -> Units:
        """Units of ratings and context, with the multiple of `reg` by the noise."""
        data = selection.data
        centred = self._is_of_ratings and shape.biased
        units = Units.of(data, centred=centred, scaled=self._is_of_ratings)
        if self._is_robust:
            units = robust_units(units, data, centred=shape.biased)
        penalty = self._penalty(data, units)
        if penalty > 1 and shape.implicit_features and selection.is_clearly_informative:
            # Whom rows have ratings with is to be learned too.
            penalty = 1.0
        return replace(units, penalty=penalty)

    def _penalty(self, data: Interactions, units: Units) -> float:
        """Multiple of `reg` by the noise of plain ratings."""
        is_plain = not data.context.shape[1] and data.side_features == NO_FEATURES
        if not (self.noise_share and is_plain) or self.objective.counts_unobserved:
            return 1.0
        rating = self._standard_ratings(data, units)
        return max(1.0, self.noise_share * penalty_multiple(data, rating))

    def _effects(
        self, data: Interactions, units: Units, shape: Shape
    ) -> Effects | None:
        """Effects by which biases begin and are penalised, with a default penalty.

        Held out rows must not be seen by them, features describe biases otherwise, and
        steps of "sgd" are by the curvatures of rows.
        """
        is_plain = data.side_features == NO_FEATURES and not self.early_stopping
        is_plain = is_plain and self.optimizer == "adam"
        if not (self.noise_share and self.reg and is_plain and shape.biased):
            return None
        if self.objective.counts_unobserved or not self._is_of_ratings:
            return None
        # The noise is that of a pair, whose mean has all that its rows tell.
        data, _ = data.merged()
        return additive_effects(data, self._standard_ratings(data, units))

    def _standard_ratings(self, data: Interactions, units: Units) -> np.ndarray:
        """Ratings in standard units, without outliers where the loss is robust."""
        rating = units.standard_ratings(data.rating)
        return rating.clip(-ROBUST_RANGE, ROBUST_RANGE) if self._is_robust else rating

    def _samples(
        self, data: Interactions, units: Units, device: torch.device
    ) -> Samples:
        """Rows in standard units, as tensors."""
        context = network_context(data.context, units, data.n_values)
        # A robust loss has the same derivative at any outlier.
        target = units.standard_ratings(data.rating).clip(-MAX_FURTHER, MAX_FURTHER)
        weight = data.weight / units.mean_weight
        tensor = partial(torch.as_tensor, device=device)
        samples = Samples(
            *(tensor(numbers).long() for numbers in (data.users, data.items)),
            *(tensor(values).float() for values in (context, target, weight)),
        )
        return samples if device.type == "cpu" else samples.joined()

    def _network(
        self,
        shape: Shape,
        data: Interactions,
        mean: float,
        start: Start[NetworkModel] | None,
        random_state: np.random.RandomState,
    ) -> NeuMF:
        seed = random_state.randint(2**31 - shape.n_members)
        if start is not None:
            return continued_network(shape, data, start, self.conversion, seed)
        low, high = data.rating_range
        # Equal ratings do not distinguish rows, so random starts must not.
        has_equal_rows = low == high and not self.objective.counts_unobserved
        return random_network(shape, data, mean, seed, has_equal_rows)

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
        fitted = self.conversion.shape(model)
        shape = self._shape(Selection(further.data), fitted)
        check_shape(shape, fitted)
        implicit = shape.implicit_features
        rows = UpdatedRows(self.conversion, model, further, implicit)
        problem = self._fold_in_problem(further, model.units, rows)
        fold_in = FoldIn(shape, rows.weights, problem, random_state, device)
        self._sweep(fold_in, report)
        tables = {
            side: fold_in.updated(side, numbering.numbers)
            for side, numbering in rows.numberings.items()
        }
        rating_range = min(low, model.rating_range[0]), max(high, model.rating_range[1])
        return self.conversion.updated(model, tables, further, rating_range)

    def _fold_in_problem(
        self, further: FurtherRows, units: Units, rows: UpdatedRows
    ) -> FoldInProblem:
        """Further rows in standard units, and the options that a fold-in needs."""
        data, users, items = further.data, *rows.numberings.values()
        multiple, of_biases = 1.0, None
        if self.noise_share:
            multiple, of_biases = units.penalty, units.bias_penalties
        return FoldInProblem(
            loss=self.objective.loss,
            n_negatives=self.objective.n_negatives,
            reg=self.reg * multiple,
            bias_penalties=of_biases,
            seen=further.seen,
            new_pairs=Pairs(
                users=users.numbers[data.users],
                items=items.numbers[data.items],
                target=units.standard_ratings(data.rating),
                weight=data.weight / units.mean_weight,
                context=network_context(data.context, units, data.n_values),
            ),
            n_new_items=len(items.new),
            n_columns=len(data.n_values),
        )

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

    def _shape(self, selection: Selection, fitted: Shape | None) -> Shape:
        """Sizes of the network, after the last fit if there is one."""
        data, implicit = selection.data, self.implicit_features
        if implicit is None and fitted is not None:
            implicit = fitted.implicit_features
        if implicit is None:
            implicit = selection.is_informative
        n_users, n_items = data.shape
        return replace(
            self.sizes,
            n_users=n_users,
            n_items=n_items,
            n_context=data.numbers.shape[1],
            n_values=tuple(data.n_values),
            implicit_features=implicit,
        )

    def _rating_range(self, data: Interactions) -> tuple[float, float]:
        if self.objective.loss == "bpr":
            return -np.inf, np.inf
        if self.objective.is_of_choices:
            return 0.0, 1.0
        return data.rating_range

    def _reports(
        self,
        epochs: Iterator[Epoch],
        network: NeuMF,
        model: Callable[[Callable[[], Weights], float], NetworkModel],
        is_continued: bool,
    ) -> Iterator[Iteration]:
        scores: list[float] = []
        best, n_worse = -np.inf, 0
        of_best: tuple[Callable[[], Weights], Callable[[], Objectives], float]
        for number, epoch in enumerate(epochs, 1):
            self._check_convergence(number, epoch, network)
            progress = f"{epoch.seconds:.2f} s"
            weights: Callable[[], Weights] = partial(_exported, network)
            objective, penalty = epoch.objective, epoch.penalty
            if epoch.validation_score is not None:
                score = epoch.validation_score
                scores.append(score)
                progress += f", validation score {score:.6f}"
                n_worse = 0 if score > best + self.tol else n_worse + 1
                if score > best:
                    best = score
                    of_best = (
                        partial(dict, weights()),
                        partial(Objectives, *objective()),
                        penalty,
                    )
                weights, objective, penalty = of_best
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
                f"which was {self.learning_rate}."
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
            f"{self.learning_rate}."
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

    def _training_options(
        self, n_samples: int, mean: float, reg: float
    ) -> TrainingOptions:
        batch_size = self.batch_size
        if batch_size is None:
            batch_size = n_samples // STEPS_PER_EPOCH
            batch_size = min(max(batch_size, MIN_BATCH_SIZE), MAX_BATCH_SIZE)
        return TrainingOptions(
            loss=self.objective.loss,
            n_negatives=self.objective.n_negatives,
            optimizer=self.optimizer,
            learning_rate=self.learning_rate,
            batch_size=int(batch_size),
            n_epochs=self.max_iter,
            reg=reg,
            dropout=self.dropout,
            mean=mean,
            follows_noise=bool(self.noise_share)
            and self._is_of_ratings
            and LOSSES[self.objective.loss].measures_noise,
        )


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
