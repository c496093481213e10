"""Evidence of the effects of pairs of rows and values, and of their precision."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property

import torch
from torch import Tensor

from .evidence import precision_evidence
from .scalars import fetched, total
from .state import PRIOR_VARIANCE
from .value_pairs import ValuePairs

# Precision of the levels beside slopes: a weak prior, which leaves them to the ratings.
LEVEL_PRECISION = 100.0

# The same where there are no biases, and so no levels.
NO_LEVEL = 1e12

# A precision is searched for within this distance of the last one, on a logarithmic
# scale, by so many golden sections.
SPAN, N_SECTIONS, GOLDEN = 1.0, 3, (math.sqrt(5) - 1) / 2


@dataclass(frozen=True)
class PairEvidence:
    """Conditional of the effects δ and the levels l of pairs, by the precision τ of δ.

    With g_j and h_j the sums over a pair's ratings of β x^j and of β x^j times the
    residual, A = g₂ + τ, and L = L₀ + Σ (g₀ − g₁² / A) over the n pairs of a row,

        l ~ N(Σ (h₀ − g₁ h₁ / A) / L, 1 / L),    δ | l ~ N((h₁ − g₁ l) / A, 1 / A).

    Without l, the bias of a row would have taken up what its effects have in common,
    as if it were known, and τ would be too large. The prior of l beside values is that
    of the mean of these effects, L₀ = nτ, so that a column without effects has no
    levels either, whose variance would count twice, beside that of the biases. A slope
    is about the mean of a number, and says nothing of l, for which L₀ is fixed.

    Attributes
    ----------
    pairs : ValuePairs
    g : sequence of Tensor of shape (n_pairs,)
        g₀, g₁ and g₂, which are the same where all numbers are 1.
    h : sequence of Tensor of shape (n_pairs,)
        h₀ and h₁.
    biased : bool
        Whether there are levels.
    prior_variance : float
        Variance of an effect by the prior of τ.
    """

    pairs: ValuePairs
    g: Sequence[Tensor]
    h: Sequence[Tensor]
    biased: bool = True
    prior_variance: float = PRIOR_VARIANCE

    @cached_property
    def within(self) -> tuple[Tensor, Tensor]:
        """g₀g₂ − g₁² and h₀g₂ − h₁g₁, which are 0 where all numbers are 1."""
        (g0, g1, g2), (h0, h1) = self.g, self.h
        return (g0 * g2 - g1.square()).clamp_(min=0), h0 * g2 - h1 * g1

    @cached_property
    def level_precision(self) -> float:
        """L₀ where it is fixed; 0 where it grows with τ."""
        if not self.biased:
            return NO_LEVEL
        return 0.0 if self.pairs.numbers is None else LEVEL_PRECISION

    @cached_property
    def n_effects(self) -> Tensor:
        """Effects of which the level of each row is the mean; 0 where L₀ is fixed."""
        counts = self.pairs.by_row.offsets.diff().clamp(min=1).to(self.g[0])
        return torch.zeros_like(counts) if self.level_precision else counts

    @property
    def n_draws(self) -> int:
        """Effects, and levels, of which τ is the precision."""
        n_levels = 0 if self.level_precision else len(self.n_effects)
        return len(self.pairs) + n_levels

    def levels(self, tau: float) -> tuple[Tensor, Tensor]:
        """Means and precisions of the levels."""
        A, (of_g, of_h) = self.g[2] + tau, self.within
        shares = (of_h + tau * self.h[0]) / A, (of_g + tau * self.g[0]) / A
        sums = self.pairs.by_row_entries.sum(torch.stack(shares, 1), None)
        precision = self.level_precision + tau * self.n_effects + sums[:, 1]
        return sums[:, 0] / precision, precision

    def effects(self, level: Tensor, tau: float) -> Tensor:
        """Means of the effects given the levels."""
        return (self.h[1] - self.g[1] * level[self.pairs.rows]) / (self.g[2] + tau)

    def value(self, tau: float) -> float:
        """Twice the evidence of τ, up to a constant."""
        mean, precision = self.levels(tau)
        A = self.g[2] + tau
        (value,) = fetched(
            total(self.h[1].square() / A - A.log())
            + total(precision * mean.square() - precision.log())
        )
        return value + precision_evidence(self.n_draws, tau, self.prior_variance)

    def likeliest_precision(self, before: float | None) -> float:
        """The τ of the largest evidence, perhaps only the largest near to one before.

        Alternating updates of τ and of the effects would creep, above all where there
        are none and only the prior of τ bounds it.
        """
        if before is None:
            grid = [10.0 ** (power / 2) for power in range(-2, 14)]
            before = max(grid, key=self.value)
        # Golden sections of an interval around it.
        # One of the two points of a section is a point of the last one, nearly.
        at = cache(lambda x: self.value(math.exp(x)))

        def value(x: float) -> float:
            return at(round(x, 9))

        low, high = math.log(before) - SPAN, math.log(before) + SPAN
        tried = [math.log(before)]
        for _ in range(N_SECTIONS):
            left, right = high - GOLDEN * (high - low), low + GOLDEN * (high - low)
            low, high = (low, right) if value(left) >= value(right) else (left, high)
            tried += [left, right]
        return math.exp(max(tried, key=value))
