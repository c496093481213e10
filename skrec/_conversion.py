"""PosteriorConversion: posteriors of MFRegressor as networks of gradient solvers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ._alternating.network_weights import (
    are_of_network,
    as_posterior,
    as_weights,
    fitted_columns,
    network_weights,
)
from ._alternating.posterior import Posterior
from ._alternating.value_terms import FittedColumn
from ._data.interactions import FurtherRows, Interactions
from ._data.units import Units
from ._gradient.fitted import Conversion, Weights
from ._gradient.network import Shape
from ._interfaces import Objective


class PosteriorConversion(Conversion[Posterior]):
    """Conversion between a posterior and a network of factors and biases."""

    def shape(self, model: Posterior) -> Shape:
        return Shape(
            model.users.mean.shape[1],
            model.items.mean.shape[1],
            len(model.coef),
            n_factors=model.n_factors,
            biased=model.row_size > model.n_factors,
            n_values=tuple(
                len(column.weight)
                for column in model.columns
                if column.number is None and are_of_network(model.columns)
            ),
        )

    def weights(
        self, model: Posterior, users: np.ndarray, items: np.ndarray
    ) -> Weights:
        weights = as_weights(model.take(users, items), model.units)
        return weights | network_weights(model.columns, users, items, model.units)

    def model(
        self,
        weights: Weights,
        shape: Shape,
        data: Interactions,
        units: Units,
        objective: Objective,
        rating_range: tuple[float, float],
    ) -> Posterior:
        columns = fitted_columns(weights, units, data.value_weights)
        posterior = replace(as_posterior(weights, units), columns=columns)
        noise_variance = np.nan
        if not objective.is_of_choices:
            predicted = posterior.mean(data.users, data.items, data.context)
            square = data.weight @ (data.rating - predicted) ** 2
            total, share = data.weight.sum(), data.shares.user
            noise_variance = share.sum(float(square)) / share.sum(float(total))
        return replace(
            posterior,
            noise_variance=noise_variance,
            objective=objective,
            rating_range=rating_range,
        )

    def rest(self, model: Posterior, further: FurtherRows) -> FurtherRows:
        if are_of_network(model.columns):
            return further
        data = further.data
        where = further.users[data.users], further.items[data.items], data.context
        rating = data.rating - model.column_means(*where)
        return replace(further, data=replace(data.without_values(), rating=rating))

    def updated(
        self,
        model: Posterior,
        tables: dict[str, Weights],
        further: FurtherRows,
        rating_range: tuple[float, float],
    ) -> Posterior:
        nobody = np.empty(0, dtype=np.int64)
        shared = self.weights(model, nobody, nobody)
        # The last row of a table is that of unseen users or items.
        with_unseen = {
            name: np.concatenate([rows, shared[name]])
            for of_side in tables.values()
            for name, rows in of_side.items()
        }
        units, data = model.units, further.data
        columns: tuple[FittedColumn, ...] = ()
        if are_of_network(model.columns):
            value_weights = [c.weight for c in model.columns if c.number is None]
            columns = fitted_columns(shared | with_unseen, units, value_weights)
        updated = replace(as_posterior(shared | with_unseen, units), columns=columns)
        # Noise variance over all ratings; past ones have a weight of 1.
        weight, n_past = data.weight / units.mean_weight, len(further.seen.items)
        predicted = updated.mean(data.users, data.items, data.context)
        squares = weight @ (data.rating - predicted) ** 2
        noise_variance = (n_past * model.noise_variance + squares) / (
            n_past + weight.sum()
        )
        return replace(
            model.with_updates(updated, *further.growths),
            noise_variance=noise_variance,
            objective=model.objective,
            rating_range=rating_range,
        )
