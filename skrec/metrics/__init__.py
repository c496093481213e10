"""Metrics of ranked lists, and a scorer that evaluates them for a fitted estimator."""

from ._functions import (
    average_precision_at_k,
    catalogue_coverage,
    hit_rate_at_k,
    ndcg_at_k,
    novelty,
    precision_at_k,
    recall_at_k,
    reciprocal_rank,
    roc_auc,
)
from ._scorer import RankingScorer, get_scorer

__all__ = [
    "RankingScorer",
    "average_precision_at_k",
    "catalogue_coverage",
    "get_scorer",
    "hit_rate_at_k",
    "ndcg_at_k",
    "novelty",
    "precision_at_k",
    "recall_at_k",
    "reciprocal_rank",
    "roc_auc",
]
