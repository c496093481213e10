"""DiagramMixin: what was fitted, in the diagram that notebooks show."""

from __future__ import annotations

import numpy as np

from ._data.known_ids import KnownIds
from ._data.seen import SeenItems
from ._interfaces import Model
from ._sklearn import VisualBlock
from ._snapshot import snapshot


class DiagramMixin:
    """A caption in scikit-learn's diagram of an estimator, also inside of others."""

    _model: Model
    _users: KnownIds
    _items: KnownIds
    _seen: SeenItems
    n_iter_: int

    def _sk_visual_block_(self) -> VisualBlock:
        name = type(self).__name__
        fitted = "_model" in vars(self)
        caption = snapshot(self)._caption() if fitted else None
        return VisualBlock(
            "single", self, names=name, name_details=str(self), name_caption=caption
        )

    def _caption(self) -> str:
        """Sizes, iterations and noise of the fit."""
        is_of_choices = self._model.objective.is_of_choices
        rows = "choices of" if is_of_choices else "ratings of"
        parts = [
            _several(len(self._users), "user"),
            _several(len(self._items), "item"),
            f"{rows} {_several(len(self._seen), 'pair')}",
        ]
        # Some estimators, and fits of choices, have no factors or no noise.
        n_factors = getattr(self, "n_factors_", None)
        if n_factors is not None:
            parts.append(_several(n_factors, "factor"))
        parts.append(_several(self.n_iter_, "iteration"))
        noise = getattr(self, "noise_std_", np.nan)
        if np.isfinite(noise) and not is_of_choices:
            parts.append(f"noise {noise:.3g}")
        return ", ".join(parts)


def _several(n: int, noun: str) -> str:
    return f"{n:,} {noun}" + "s" * (n != 1)
