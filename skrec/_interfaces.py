"""Iteration, Solver and Model: the contract between estimators and their solvers.

An estimator reads ids and ratings, takes iterations from a solver, and keeps the model
of the last one. Solvers and models have row numbers and arrays only. -1 is an unknown
row, and -2 - j a cold row with row j of the side features.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic, Self, TypeVar

import numpy as np
import torch
from scipy import sparse
from scipy.special import expit

from ._data.context import KnownContext
from ._data.forgotten import ForgottenRows
from ._data.interactions import FurtherRows, Interactions
from ._data.messages import shown
from ._data.sides import SideName, Sides
from ._data.units import Units
from ._storage import stored
from ._topk import Fill

# Rows predicted at a time. Fewer would not take less memory than rows and results.
PREDICTION_ROWS = 2**16

# Losses with scores that are not ratings.
CHOICE_LOSSES = ("log_loss", "bpr")

# Estimated effects, and their standard deviations.
Estimates = tuple[np.ndarray, np.ndarray]

NO_POSTERIOR = (
    "strategy={!r} needs a posterior of ratings, and this fit has none. Fit ratings y "
    "by MFRegressor with solver='vb' and store_covariance=True, or with "
    "solver='gibbs', and rank_by='both' or 'rating'."
)


@stored
@dataclass(frozen=True)
class Objective:
    """Loss of a fit, and the pairs that count in it.

    Attributes
    ----------
    loss : str
    n_negatives : int
        Items drawn for each pair, which count as not chosen.
    weighs_unobserved : bool
        Whether all pairs without a rating count as ratings of 0.
    """

    loss: str = "squared_error"
    n_negatives: int = 0
    weighs_unobserved: bool = False

    @property
    def counts_unobserved(self) -> bool:
        """Whether pairs that are not rows count as not chosen."""
        return self.n_negatives > 0 or self.weighs_unobserved

    @property
    def is_of_choices(self) -> bool:
        """Whether rows may be choices, each a rating of 1."""
        return self.loss in CHOICE_LOSSES or self.counts_unobserved

    def response(self, score: np.ndarray) -> np.ndarray:
        """Predicted ratings of scores."""
        return expit(score) if self.loss == "log_loss" else score


# Curves that only some solvers report.
CURVES = {"validation_scores_": None, "loo_curve_": None}

# The objective of a fit of choices: pairs that are no rows count as not chosen.
CHOICES = Objective(weighs_unobserved=True)


class Model(ABC):
    """A fitted model of NumPy arrays, over row numbers of users and items.

    Attributes
    ----------
    objective : Objective
    rating_range : tuple of float
        Bounds of clipped predictions.
    std_has_noise : bool
        Whether standard deviations are those of new ratings, with their noise.
    """

    objective: Objective
    rating_range: tuple[float, float]
    std_has_noise: ClassVar[bool] = False

    @property
    def score_work(self) -> float:
        """About how many multiplications a score takes."""
        return 64.0

    @abstractmethod
    def predict(
        self,
        users: np.ndarray,
        items: np.ndarray,
        context: np.ndarray,
        return_std: bool,
        device: torch.device,
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Predicted ratings of pairs, with `return_std` also standard deviations."""

    def predictions(
        self,
        users: np.ndarray,
        items: np.ndarray,
        context: np.ndarray,
        return_std: bool,
        device: torch.device,
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """As `predict`, of any number of pairs in little memory."""
        n_rows = len(users)
        y, std = np.empty(n_rows), np.empty(n_rows) if return_std else None
        for start in range(0, n_rows, PREDICTION_ROWS):
            tile = slice(start, start + PREDICTION_ROWS)
            y[tile], deviations = self.predict(
                users[tile], items[tile], context[tile], return_std, device
            )
            if std is not None and deviations is not None:
                std[tile] = deviations
        return y, std

    @abstractmethod
    def scorer(
        self, users: np.ndarray, items: np.ndarray, device: torch.device
    ) -> Callable[[slice], Fill]:
        """Function from a slice of `users` to scores of `items`, for rankings only."""

    def score_units(self, users: np.ndarray) -> tuple[float, np.ndarray]:
        """Scale, and offset of each user, that turn scores into ratings."""
        return 1.0, np.zeros(len(users))

    def scores_to_ratings(self, scores: np.ndarray, users: np.ndarray) -> np.ndarray:
        """Predicted ratings of scores of shape (n_users, n_items), at mean context."""
        scale, offset = self.score_units(users)
        ratings = self.objective.response(offset[:, None] + scale * scores)
        return ratings.astype(scores.dtype, copy=False)

    def with_cold_rows(
        self, users: sparse.csr_array | None, items: sparse.csr_array | None
    ) -> Self:
        """A copy with cold rows -2 - j for rows j of these side features."""
        return self

    def without(self, forgotten: ForgottenRows) -> Self:
        """A model of the users and items that are kept, by their new numbers."""
        raise ValueError(
            f"{type(self).__name__} cannot forget users or items; fit anew without "
            "their rows."
        )

    def in_context(self, users: np.ndarray, context: np.ndarray) -> Model:
        """A model whose row j is `users[j]`, in the context of row j, for scores only.

        Numbers of the context are NaN, and its values -1, where they are not given.
        """
        raise ValueError(
            "context changes lists of ratings, with rank_by='both' or 'rating' and "
            "strategy='mean' or 'sample', and lists by a loss; these lists do not "
            "depend on it. Leave context out."
        )

    def draw(
        self, users: np.ndarray, items: np.ndarray, random_state: np.random.RandomState
    ) -> Model:
        """A draw from the posterior of the scores of these rows.

        Scores of pairs depend on one draw of each user and each item.
        """
        raise ValueError(NO_POSTERIOR.format("sample"))

    def lower_bound(self) -> Model:
        """A model whose scores are lower by a standard deviation of their mean."""
        raise ValueError(NO_POSTERIOR.format("lower_bound"))

    def row_shares(
        self, user: int, items: np.ndarray, data: Interactions, numbers: np.ndarray
    ) -> np.ndarray:
        """Shares of the rated items of a user in predicted ratings of others.

        Shape (n_items, n_rated + 1), with all else last. `data` are rows of the user,
        and `numbers` those of their items in the model.
        """
        raise ValueError(
            "part='rating' needs the posterior of the user: a fit of ratings, and not "
            "of choices or from_factors, by MFRegressor with solver='vb' or 'als' and "
            "store_covariance=True."
        )

    def index_vectors(self, side: SideName, rows: np.ndarray) -> np.ndarray:
        """Vectors with inner products that rank as scores do, in float32."""
        raise ValueError("Scores of this model are not inner products.")

    def profiles(
        self, side: SideName, n_cold: int, device: torch.device
    ) -> tuple[np.ndarray, np.ndarray]:
        """Vectors for cosine similarities of all rows, and their lengths.

        Both in float32; the length of a negligible vector is inf. The `n_cold` cold
        rows follow those that are numbered.
        """
        raise ValueError("This model has no vectors to compare.")


class StandardisedModel(Model):
    """A model that was fitted in standard units.

    Attributes
    ----------
    units : Units
        Units of the ratings and the context of the fit.
    """

    units: Units


AnyModel = TypeVar("AnyModel", bound=Model)


@dataclass(frozen=True)
class Iteration:
    """The report of a solver after an iteration.

    Attributes
    ----------
    objective : float
        Minimised value, per unit of weight.
    progress : str
        Description of the iteration's result.
    converged : bool
    model : callable
        Returns the model of a fit that ends here, until the next iteration.
    warning : callable or None
        Returns the warning of a fit that ends here from its model, or an empty string.
    curves : dict of str to list of float
        Curves of all iterations so far by the attribute that holds them, of CURVES. A
        "loss_curve_" is that of the model, if it is not the one of the iterations.
    error : callable or None
        Returns an estimate of the root mean squared error of the model on ratings that
        it has not seen, until the next iteration.
    is_warm_up : bool
        Whether later iterations take more time and memory.
    """

    objective: float
    progress: str
    converged: bool
    model: Callable[[], Model]
    warning: Callable[[Any], str] | None = None
    curves: dict[str, list[float]] = field(default_factory=dict)
    error: Callable[[], float] | None = None
    is_warm_up: bool = False

    def __str__(self) -> str:
        return f"objective {self.objective:.6f}, {self.progress}"


def no_numbers() -> np.ndarray:
    """Numbers of nothing."""
    return np.empty(0, dtype=np.int64)


@dataclass(frozen=True)
class Start(Generic[AnyModel]):
    """A fitted model to start from, and its row numbers for the new data.

    Attributes
    ----------
    model : Model
    users, items : ndarray of shape (n_users,) and (n_items,)
        Row numbers in the model; -1 is new.
    columns : Sides of ndarray of shape (n_columns,)
        Columns of the side features in the model; -1 is new.
    values : ndarray of shape (n_values,)
        Numbers in the model of the values of context, column after column; -1 is new.
    numbers : ndarray of shape (n_numbers,) or None
        Places in the model of the columns of numbers; -1 is new. None is the same ones.
    """

    model: AnyModel
    users: np.ndarray
    items: np.ndarray
    columns: Sides[np.ndarray] = field(
        default_factory=lambda: Sides(no_numbers(), no_numbers())
    )
    values: np.ndarray = field(default_factory=no_numbers)
    numbers: np.ndarray | None = None


class Solver(ABC, Generic[AnyModel]):
    """Algorithm that fits a model, with its options.

    Attributes
    ----------
    objective : Objective
    max_iter : int
        Maximum number of iterations.
    converges : bool
        Whether a fit without convergence gives a warning.
    """

    objective: Objective
    max_iter: int
    converges: ClassVar[bool] = False

    @property
    def rating_work(self) -> float:
        """About how many multiplications a fit takes for each rating."""
        return 0.0

    def check(self) -> None:
        """Raise a ValueError for options that do not fit together."""

    def check_context(self, known: KnownContext) -> None:
        """Raise a ValueError for columns of values that the solver has no terms for."""
        name = shown(known.first_value_name)
        raise ValueError(
            f"Column {name} of X holds categories, for which this fit has no terms; "
            "fits of ratings y have, and fits of choices by loss='log_loss' or 'bpr', "
            "or with n_negatives. Leave it out of X, or give it as columns of 0 and 1, "
            "by OneHotEncoder."
        )

    def check_ratings(self, rating: np.ndarray, weight: np.ndarray) -> None:
        """Refuse ratings outside the domain of the objective; warn of vain weights."""

    def n_threads(self, data: Interactions) -> int:
        """Number of threads that an iteration can use well."""
        return torch.get_num_threads()

    @abstractmethod
    def iterations(
        self,
        data: Interactions,
        start: Start[AnyModel] | None,
        random_state: np.random.RandomState,
        device: torch.device,
    ) -> Iterator[Iteration]:
        """Endless iterations from `start`, or from the solver's own start."""

    def check_update(self, model: AnyModel) -> None:
        """Raise a ValueError for a model that these options cannot update."""
        raise ValueError("This solver cannot update a fitted model; fit anew.")

    def update(
        self,
        model: AnyModel,
        further: FurtherRows,
        random_state: np.random.RandomState,
        device: torch.device,
        report: Callable[[float], None],
    ) -> AnyModel:
        """A model updated by further rows; reports the objective after each sweep."""
        raise NotImplementedError

    def check_retraction(self, model: AnyModel) -> None:
        """Raise a ValueError for a model that cannot take rows back."""
        raise ValueError(
            "This fit cannot take single rows back, since it keeps no posterior that "
            "they could be taken from; MFRegressor with solver='vb' or 'als' can. "
            "Forget users or items, or fit anew without these rows."
        )

    def retract(self, model: AnyModel, forgotten: ForgottenRows) -> AnyModel:
        """A model without the share of rows, with users and items as before."""
        return model
