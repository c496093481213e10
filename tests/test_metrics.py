"""Metrics of ranked lists against plain loops and scikit-learn."""

import math
import warnings

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.exceptions import UndefinedMetricWarning
from sklearn.metrics import (
    label_ranking_average_precision_score,
    ndcg_score,
    roc_auc_score,
)

from skrec.metrics import (
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

METRICS = {
    "ndcg": ndcg_at_k,
    "precision": precision_at_k,
    "recall": recall_at_k,
    "map": average_precision_at_k,
    "mrr": reciprocal_rank,
    "hit_rate": hit_rate_at_k,
}
OF_WHOLE_LISTS = ["ndcg", "map", "mrr"]

every_metric = pytest.mark.parametrize("metric", METRICS)


def of_one_list(metric, gains, k):
    """The metric of relevances in the order of their ranks, by a plain loop."""
    relevant = [gain > 0 for gain in gains]
    if not any(relevant):
        return math.nan
    first = relevant[:k]
    if metric == "ndcg":

        def dcg(gains):
            return sum(g / math.log2(j + 2) for j, g in enumerate(gains[:k]))

        return dcg(gains) / dcg(sorted(gains, reverse=True))
    if metric == "precision":
        return sum(first) / k
    if metric == "recall":
        return sum(first) / sum(relevant)
    if metric == "map":
        precisions = [sum(first[: j + 1]) / (j + 1) for j in range(len(first))]
        hits = sum(p for p, r in zip(precisions, first, strict=True) if r)
        return hits / min(k, sum(relevant))
    if metric == "mrr":
        return 1 / (1 + first.index(True)) if any(first) else 0.0
    return float(any(first))


def by_loops(metric, y_true, y_score, groups, k, threshold, weight):
    """Values and weights of users in sorted order."""
    values, weights = [], []
    for user in sorted(set(groups)):
        rows = [i for i, g in enumerate(groups) if g == user and weight[i] > 0]
        rows.sort(key=lambda i: -y_score[i])
        gains = [max(y_true[i], 0) for i in rows]
        if threshold is not None:
            gains = [float(y_true[i] >= threshold) for i in rows]
        values.append(of_one_list(metric, gains, k))
        weights.append(sum(weight[i] for i in rows) / max(len(rows), 1))
    return values, weights


def sample(n_rows=60, n_users=8, seed=0):
    """Relevances, scores without ties, and users."""
    rng = np.random.default_rng(seed)
    y_true = rng.integers(0, 6, n_rows).astype(float)
    return y_true, rng.permutation(n_rows) / 7, rng.integers(0, n_users, n_rows)


@settings(max_examples=100)
@given(
    metric=st.sampled_from(list(METRICS)),
    seed=st.integers(0, 2**16),
    n_rows=st.integers(1, 40),
    n_users=st.integers(1, 10),
    k=st.integers(1, 12),
    threshold=st.sampled_from([None, -1, 0, 2.5, 4]),
    weighted=st.booleans(),
)
def test_equals_plain_loops(metric, seed, n_rows, n_users, k, threshold, weighted):
    rng = np.random.default_rng(seed)
    low = 0 if metric == "ndcg" and threshold is None else -3
    y_true = rng.integers(low, 6, n_rows)
    y_score = rng.permutation(n_rows) - n_rows / 2
    groups = rng.choice([f"user {j}" for j in range(n_users)], n_rows)
    weight = rng.integers(0, 4, n_rows) if weighted else np.ones(n_rows)
    weight[rng.integers(n_rows)] = 2
    params = {"k": k, "relevance_threshold": threshold, "sample_weight": weight}

    values = METRICS[metric](y_true, y_score, groups, average=False, **params)

    expected, weights = map(
        np.array, by_loops(metric, y_true, y_score, groups, k, threshold, weight)
    )
    assert_allclose(values, expected, rtol=1e-12)
    defined = ~np.isnan(expected)
    if defined.any():
        mean = METRICS[metric](y_true, y_score, groups, **params)
        assert_allclose(mean, np.average(expected[defined], weights=weights[defined]))


@pytest.mark.parametrize("metric", OF_WHOLE_LISTS)
def test_no_k_is_the_whole_list(metric):
    y_true, y_score, groups = sample()
    longest = np.bincount(groups).max()
    whole, same, first = (
        METRICS[metric](y_true, y_score, groups, k=k, relevance_threshold=5)
        for k in (None, longest, 1)
    )
    assert whole == same != first


@pytest.mark.parametrize("metric", ["precision", "recall", "hit_rate"])
def test_no_k_is_refused_where_the_order_would_not_count(metric):
    with pytest.raises(ValueError, match="k must be an int of at least 1, got None"):
        METRICS[metric](*sample(), k=None)


@pytest.mark.parametrize("k", [1, 3, 10, None])
def test_ndcg_is_that_of_sklearn(k):
    y_true, y_score, _ = sample(60)
    shape = 6, 10
    assert_allclose(
        ndcg_at_k(y_true, y_score, np.repeat(np.arange(6), 10), k=k),
        ndcg_score(y_true.reshape(shape), y_score.reshape(shape), k=k),
    )


def test_average_precision_of_whole_lists_is_that_of_sklearn():
    y_true, y_score, _ = sample(60)
    relevant = (y_true >= 4).reshape(6, 10)
    assert relevant.any(axis=1).all()
    assert_allclose(
        average_precision_at_k(
            y_true,
            y_score,
            np.repeat(np.arange(6), 10),
            k=None,
            relevance_threshold=4,
        ),
        label_ranking_average_precision_score(relevant, y_score.reshape(6, 10)),
    )


@settings(max_examples=200)
@given(
    seed=st.integers(0, 2**16),
    n_rows=st.integers(1, 60),
    n_users=st.integers(1, 8),
    n_scores=st.integers(1, 20),
    threshold=st.sampled_from([None, 0, 2]),
    weighted=st.booleans(),
)
def test_area_under_the_curve_is_that_of_sklearn(
    seed, n_rows, n_users, n_scores, threshold, weighted
):
    rng = np.random.default_rng(seed)
    y_true = rng.integers(-1, 4, n_rows)
    y_score = rng.integers(0, n_scores, n_rows) * 0.1
    groups = rng.choice([f"user {j}" for j in range(n_users)], n_rows)
    weight = rng.integers(0, 3, n_rows) if weighted else np.ones(n_rows)
    weight[rng.integers(n_rows)] = 2
    relevant = y_true > 0 if threshold is None else y_true >= threshold
    expected, weights = [], []
    for user in np.unique(groups):
        own = (groups == user) & (weight > 0)
        both = len(np.unique(relevant[own])) == 2
        area = roc_auc_score(relevant[own], y_score[own]) if both else math.nan
        expected.append(area)
        weights.append(weight[own].mean() if own.any() else 0)
    params = {"relevance_threshold": threshold, "sample_weight": weight}
    values = roc_auc(y_true, y_score, groups, average=False, **params)
    assert_allclose(values, expected, rtol=1e-12)
    defined = ~np.isnan(values)
    if defined.any():
        mean = np.average(values[defined], weights=np.array(weights)[defined])
        assert roc_auc(y_true, y_score, groups, **params) == pytest.approx(mean)
    else:
        with pytest.warns(UndefinedMetricWarning, match="both a relevant row and"):
            assert math.isnan(roc_auc(y_true, y_score, groups, **params))


@every_metric
def test_the_order_of_rows_does_not_matter_without_ties(metric):
    y_true, y_score, groups = sample()
    order = np.random.default_rng(1).permutation(len(y_true))
    f = METRICS[metric]
    assert_array_equal(
        f(y_true[order], y_score[order], groups[order], k=3, average=False),
        f(y_true, y_score, groups, k=3, average=False),
    )


def orders_of_rows(n_rows):
    """Orders that a tie broken by the order of rows, or by a common seed, betrays."""
    rows = np.arange(n_rows)
    yield from (rows, rows[::-1])
    for seed in (0, 42):
        shuffle = np.random.RandomState(seed).permutation(n_rows)
        yield from (shuffle, np.argsort(shuffle))


@pytest.mark.parametrize("order", range(6))
@pytest.mark.parametrize("interleaved", [True, False])
def test_a_constant_score_is_chance_whatever_the_order_of_rows(order, interleaved):
    n_users, n_rows = 500, 20
    groups = np.repeat(np.arange(n_users), n_rows)
    y_true = np.tile(np.arange(n_rows) < 5, n_users)
    if interleaved:
        groups, y_true = (a.reshape(n_users, -1).T.ravel() for a in (groups, y_true))
    order = list(orders_of_rows(len(groups)))[order]
    groups, y_true = groups[order], y_true[order]

    precision = precision_at_k(y_true, np.ones(len(groups)), groups, k=5)

    # A user's precision has a standard deviation of 0.17.
    assert precision == pytest.approx(0.25, abs=4 * 0.17 / np.sqrt(n_users))
    assert precision == precision_at_k(y_true, np.ones(len(groups)), groups, k=5)


def test_relevance_does_not_break_ties():
    groups, y_score = np.zeros(20), np.ones(20)
    first = [
        precision_at_k(np.arange(20) == row, y_score, groups, k=1) for row in range(20)
    ]
    assert sum(first) == 1


def test_a_perfect_list_is_worth_one_and_a_reversed_one_is_not():
    y_true = np.tile([5.0, 3, 2, 0, 0], 4)
    groups = np.repeat(np.arange(4), 5)
    for metric in ("ndcg", "recall", "map", "mrr", "hit_rate"):
        assert METRICS[metric](y_true, y_true, groups, k=3) == 1
        assert METRICS[metric](y_true, -y_true, groups, k=2) == 0
    assert METRICS["precision"](y_true, y_true, groups, k=3) == 1


def test_precision_divides_by_k_where_the_list_is_shorter():
    assert precision_at_k([1, 1], [2, 1], ["ann", "ann"], k=10) == 0.2


def test_average_precision_divides_by_what_a_list_can_hold():
    assert average_precision_at_k([1, 1, 1], [3, 2, 1], ["ann"] * 3, k=2) == 1


@every_metric
def test_users_without_a_relevant_row_are_in_no_mean(metric):
    y_true, y_score, groups = [1, 0, 0, 0], [1, 2, 2, 1], ["bob", "bob", "ann", "ann"]
    values = METRICS[metric](y_true, y_score, groups, k=2, average=False)
    assert_array_equal(np.isnan(values), [True, False])
    assert 0 < METRICS[metric](y_true, y_score, groups, k=2) == values[1]


@every_metric
def test_no_relevant_row_at_all_warns_and_is_nan(metric):
    with pytest.warns(UndefinedMetricWarning, match="no user with a relevant") as w:
        assert math.isnan(METRICS[metric]([0, 0], [1, 2], ["ann", "bob"]))
    assert w[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        values = METRICS[metric]([0, 0], [1, 2], ["ann", "bob"], average=False)
    assert_array_equal(values, [math.nan, math.nan])


def test_a_threshold_makes_relevance_binary():
    y_true, y_score = [5, 4, 1], [1, 3, 2]
    of_ratings = ndcg_at_k(y_true, y_score, ["ann"] * 3)
    of_likes = ndcg_at_k(y_true, y_score, ["ann"] * 3, relevance_threshold=4)
    assert of_likes == ndcg_at_k([1, 1, 0], y_score, ["ann"] * 3) != of_ratings
    assert recall_at_k(y_true, y_score, ["ann"] * 3, k=1, relevance_threshold=4) == 0.5


def test_negative_relevance_has_no_ndcg_but_is_not_relevant_elsewhere():
    y_true, y_score = [1, -1, 1], [1, 2, 3]
    with pytest.raises(
        ValueError, match=r"y_true must be at least 0 .* 1 row .*rows: 1.*threshold"
    ):
        ndcg_at_k(y_true, y_score, ["ann"] * 3)
    assert ndcg_at_k(y_true, y_score, ["ann"] * 3, relevance_threshold=0) < 1
    assert average_precision_at_k(y_true, y_score, ["ann"] * 3) == (1 + 2 / 3) / 2


@every_metric
def test_rows_without_weight_are_no_rows(metric):
    y_true, y_score, groups = sample()
    weight = np.random.default_rng(0).integers(0, 2, len(groups))
    kept = weight > 0
    assert METRICS[metric](
        y_true, y_score, groups, k=3, sample_weight=weight
    ) == METRICS[metric](y_true[kept], y_score[kept], groups[kept], k=3)


def test_a_user_whose_rows_have_no_weight_keeps_their_place():
    values = hit_rate_at_k(
        [1, 1], [1, 1], ["ann", "bob"], sample_weight=[0, 3], average=False
    )
    assert_array_equal(values, [math.nan, 1])


def test_users_count_by_their_mean_weight():
    groups, weight = ["ann", "ann", "ann", "bob"], [1, 2, 3, 6]
    score = hit_rate_at_k([0, 0, 1, 1], [3, 2, 1, 0], groups, k=1, sample_weight=weight)
    assert score == pytest.approx(6 / (2 + 6))


@pytest.mark.parametrize(
    "container",
    [list, tuple, pd.Series, pd.Categorical, pl.Series, pa.array, np.array],
)
def test_groups_come_in_any_container_and_sorted(container):
    groups = container(["bob", "ann", "bob", "ann"])
    values = precision_at_k([1, 0, 1, 1], [4, 3, 2, 1], groups, k=2, average=False)
    assert_array_equal(values, [0.5, 1])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"k": 0}, "k must be an int of at least 1, got 0"),
        ({"k": 2.0}, r"k must be an int of at least 1, got 2\.0"),
        ({"k": True}, "k must be an int of at least 1, got True"),
        ({"relevance_threshold": "4"}, "relevance_threshold .* number, got '4'"),
        ({"relevance_threshold": math.nan}, "relevance_threshold .* number, got nan"),
        ({"relevance_threshold": True}, "relevance_threshold .* number, got True"),
        ({"y_true": [1, math.nan, 0]}, "y_true must hold finite .* 1 row .*rows: 1"),
        ({"y_score": [1, 2, math.inf]}, "y_score must hold finite .* 1 row .*rows: 2"),
        ({"y_score": [1, 2]}, "there are 3 rows and y_score holds 2"),
        ({"y_true": [1, 2, 3, 4]}, "there are 3 rows and y_true holds 4"),
        ({"y_true": [[1, 2], [3, 4]]}, r"y_true must be one-dimensional, .* \(2, 2\)"),
        ({"groups": ["ann", None, "bob"]}, "groups holds 1 missing id"),
        ({"groups": []}, "groups holds no ids"),
        ({"sample_weight": [1, -1, 1]}, "Negative values .*`sample_weight`: .*rows: 1"),
        ({"sample_weight": [0, 0, 0]}, "sample_weight is zero in all rows"),
        ({"sample_weight": [1]}, r"shape \(1,\), but groups has 3 rows.*one weight"),
    ],
)
@pytest.mark.parametrize("metric", [*METRICS, "auc"])
def test_bad_input_is_refused(metric, changes, message):
    args = {"y_true": [1, 0, 1], "y_score": [1, 2, 3], "groups": ["a", "a", "b"]}
    if metric == "auc" and "k" in changes:
        pytest.skip("has no k")
    function = roc_auc if metric == "auc" else METRICS[metric]
    with pytest.raises(ValueError, match=message):
        function(**{**args, **changes})


@every_metric
def test_lists_are_of_ten_unless_k_is_given(metric):
    """The first reciprocal rank needs no bound."""
    relevance, score = np.array([0] * 10 + [1, 0, 1]), -np.arange(13.0)
    rows = [relevance, score, np.zeros(13, dtype=int)]
    k = None if metric == "mrr" else 10
    assert METRICS[metric](*rows) == METRICS[metric](*rows, k=k)
    assert METRICS[metric](*rows) != METRICS[metric](*rows, k=11) or metric == "mrr"


def test_items_in_lists_are_not_turned_into_strings():
    assert catalogue_coverage([2**63, -1], [-1, 2**63, 7, 8]) == 0.5
    with pytest.raises(TypeError, match="mixes ids of types int, str"):
        catalogue_coverage(["a", 1], ["a", "b"])


def test_coverage_counts_the_catalogue_s_items_once():
    lists = np.array([["b", "a"], ["a", "b"], ["a", "gone"]])
    assert catalogue_coverage(lists, ["a", "b", "c", "d", "d"]) == 0.5
    assert catalogue_coverage(lists.ravel(), ["a", "b"]) == 1
    assert catalogue_coverage(pd.Series(["c"]), pl.Series(["a", "b", "c", "d"])) == 0.25


def test_empty_places_of_lists_do_not_count():
    lists = [["b", "a"], ["a", None]]
    assert catalogue_coverage(lists, ["a", "b", "c", "d"]) == 0.5
    assert catalogue_coverage(np.array([[1, np.nan]]), [1.0, 2.0]) == 0.5
    rows = [("u", "a"), ("v", "a"), ("u", "b")]
    assert novelty(lists, rows) == novelty(["b", "a", "a"], rows)
    with pytest.raises(ValueError, match="recommended holds no ids"):
        catalogue_coverage([[None]], ["a"])
    with pytest.raises(ValueError, match="catalogue holds 1 missing id"):
        catalogue_coverage(lists, ["a", None])


UNEQUAL = {
    "lists": [["a"], ["b", "c"], []],
    "tuples": (("a",), ("b", "c")),
    "arrays": [np.array(["a"]), np.array(["b", "c"])],
    "series": [pd.Series(["a"]), pd.Series(["b", "c"])],
    "sets": [{"a"}, {"b", "c"}],
    "an array of lists": pd.Series([["a"], ["b", "c"]]).to_numpy(),
    "a column of lists": pl.Series([["a"], ["b", "c"]]),
    "missing places": [["a", None], ["b", "c", np.nan]],
}


@pytest.mark.parametrize("lists", UNEQUAL.values(), ids=UNEQUAL)
def test_lists_may_be_of_unequal_lengths(lists):
    rows = [["ann", "a"], ["ann", "b"], ["bob", "b"], ["cy", "b"], ["dan", "c"]]
    assert catalogue_coverage(lists, ["a", "b", "c", "d"]) == 0.75
    assert novelty(lists, rows) == novelty(["a", "b", "c"], rows)


@pytest.mark.parametrize("container", [pd.DataFrame, pl.DataFrame, pa.table])
def test_lists_may_be_a_table_of_users_and_items(container):
    # Other columns hold numbers that items have, too.
    lists = {"user": [1, 1, 2], "item": [7, 8, 7], "rank": [1, 2, 1]}
    table = container(lists | {"score": [3.0, 2.0, 5.0]})
    assert catalogue_coverage(table, [1, 2, 3, 7, 8]) == 0.4
    rows = [[1, 7], [2, 7], [2, 1], [3, 2]]
    assert novelty(table, rows) == novelty([7, 8, 7], rows)


def test_coverage_refuses_what_it_cannot_count():
    with pytest.raises(ValueError, match="catalogue holds no ids"):
        catalogue_coverage(["a"], [])
    with pytest.raises(ValueError, match="recommended holds no ids"):
        catalogue_coverage([], ["a"])
    message = "recommended holds ids of kind 'string'.*but the catalogue holds ids"
    with pytest.raises(TypeError, match=message):
        catalogue_coverage(["1"], [1, 2])


@pytest.mark.parametrize("container", [np.array, list, pd.DataFrame, pl.DataFrame])
def test_novelty_is_the_mean_information_of_places(container):
    rows = [(u, i) for i, n in enumerate((8, 4, 1)) for u in range(n)]
    X_train = rows if container is list else container(np.array([*rows, *rows]))
    assert novelty([[0, 0], [0, 0]], X_train) == 0
    assert novelty([[1, 0], [2, 2]], X_train) == (1 + 0 + 3 + 3) / 4
    # An item that nobody has counts as if one user had it.
    assert novelty(np.array([99, 0]), X_train) == 1.5


def test_novelty_reads_ids_beside_features():
    X_train = pd.DataFrame({"user": ["a", "b"], "item": ["x", "y"], "shop": "city"})
    assert novelty(["x"], X_train) == 1


def test_novelty_refuses_what_it_cannot_count():
    with pytest.raises(ValueError, match="recommended holds no ids"):
        novelty([], [["ann", "tea"]])
    with pytest.raises(ValueError, match="X_train has no rows"):
        novelty(["tea"], np.empty((0, 2)))
    with pytest.raises(ValueError, match="X_train needs a column of users"):
        novelty(["tea"], ["ann", "tea"])
