"""Iteration, Solver and Model: the contract between estimators and their solvers.

An estimator reads ids and ratings, asks a solver for iterations, and keeps the model of
the last one. A solver knows row numbers and arrays alone; a model answers for row
numbers. -1 is a row of which nothing is known, and -2 - j one that is known by row j of
its side features.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import ClassVar, Generic, Self, TypeVar

import numpy as np
import torch
from scipy import sparse
from scipy.special import expit

from ._data.interactions import FurtherRows, Interactions, SideName
from ._data.units import Units
from ._topk import Fill

# Losses whose scores are no ratings.
CHOICE_LOSSES = ("log_loss", "bpr")


@dataclass(frozen=True)
class Objective:
    """The loss that a model was fitted to, and the pairs that it counts.

    Attributes
    ----------
    loss : str
    n_negatives : int
        Items drawn beside each pair, which count as not chosen.
    weighs_unobserved : bool
        Whether all pairs without a rating count as ratings of 0.
    """

    loss: str = "squared_error"
    n_negatives: int = 0
    weighs_unobserved: bool = False

    @property
    def counts_unobserved(self) -> bool:
        """Whether pairs that are not among the rows count as not chosen."""
        return self.n_negatives > 0 or self.weighs_unobserved

    @property
    def is_of_choices(self) -> bool:
        """Whether rows may be choices, each a rating of 1."""
        return self.loss in CHOICE_LOSSES or self.counts_unobserved

    def response(self, score: np.ndarray) -> np.ndarray:
        """Predicted ratings of scores."""
        return expit(score) if self.loss == "log_loss" else score


class Model(ABC):
    """A fitted model: arrays, and answers for row numbers of users and items.

    Attributes
    ----------
    objective : Objective
    rating_range : tuple of float
        Least and largest rating, which predictions are clipped to.
    """

    objective: Objective
    rating_range: tuple[float, float]

    @abstractmethod
    def predict(
        self,
        users: np.ndarray,
        items: np.ndarray,
        context: np.ndarray,
        return_std: bool,
        device: torch.device,
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Predicted ratings of pairs, and with `return_std` their deviations."""

    @abstractmethod
    def scorer(
        self, users: np.ndarray, items: np.ndarray, device: torch.device
    ) -> Callable[[slice], Fill]:
        """Function from a slice of `users` to scores of `items`, which rank alone."""

    @abstractmethod
    def scores_to_ratings(self, scores: np.ndarray, users: np.ndarray) -> np.ndarray:
        """Predicted ratings of scores of shape (n_users, n_items), at mean context."""

    def with_cold_rows(
        self, users: sparse.csr_array | None, items: sparse.csr_array | None
    ) -> Self:
        """A copy that answers for rows -2 - j by row j of these side features."""
        return self

    def index_vectors(self, side: SideName, rows: np.ndarray) -> np.ndarray:
        """Vectors whose inner products rank as scores do, in float32."""
        raise ValueError("Scores of this model are no inner products.")

    def profiles(
        self, side: SideName, device: torch.device
    ) -> tuple[np.ndarray, np.ndarray]:
        """Vectors whose cosine is the similarity of two rows, and their lengths.

        In float32 both; the length of a negligible vector is inf.
        """
        raise ValueError("This model has no vectors to compare.")


class StandardisedModel(Model):
    """A model that was fitted in standard units.

    Attributes
    ----------
    units : Units
        Of the ratings and the context of the fit.
    """

    units: Units


AnyModel = TypeVar("AnyModel", bound=Model)


@dataclass(frozen=True)
class Iteration:
    """The report of a solver after an iteration.

    Attributes
    ----------
    objective : float
        The value that is minimised, per unit of weight.
    progress : str
        The outcome of the iteration, in words.
    converged : bool
    model : callable
        Makes the model as if the fit ended here.
    warning : str
        Is warned of if the fit ends here; empty if there is nothing.
    validation_scores : list of float or None
        One for each iteration so far, if rows are held out.
    """

    objective: float
    progress: str
    converged: bool
    model: Callable[[], Model]
    warning: str = ""
    validation_scores: list[float] | None = None

    def __str__(self) -> str:
        return f"objective {self.objective:.6f}, {self.progress}"


@dataclass(frozen=True)
class Start(Generic[AnyModel]):
    """A fitted model to start from, and where it has the rows of the new data.

    Attributes
    ----------
    model : Model
    users, items : ndarray of shape (n_users,) and (n_items,)
        Row numbers in the model; -1 is new.
    columns : dict of str to ndarray of shape (n_columns,)
        Of the side features of a "user" and of an "item": their columns in the model.
    """

    model: AnyModel
    users: np.ndarray
    items: np.ndarray
    columns: dict[str, np.ndarray]


class Solver(ABC, Generic[AnyModel]):
    """A way to fit a model, with its options.

    Attributes
    ----------
    objective : Objective
    max_iter : int
        Iterations at most.
    converges : bool
        Whether it is to converge within its iterations.
    """

    objective: Objective
    max_iter: int
    converges: ClassVar[bool] = False

    def check(self) -> None:
        """Refuse options that do not go together, with a ValueError."""

    def check_ratings(self, rating: np.ndarray) -> None:
        """Refuse ratings that the objective cannot take, with a ValueError."""

    @abstractmethod
    def iterations(
        self,
        data: Interactions,
        start: Start[AnyModel] | None,
        random_state: np.random.RandomState,
        device: torch.device,
    ) -> Iterator[Iteration]:
        """Endless iterations from `start`, or from a start of the solver's own."""

    def check_update(self, model: AnyModel) -> None:
        """Refuse a model that cannot be updated with these options."""
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
