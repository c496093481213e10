"""Displays: their numbers against closed forms, and where they draw."""

import sys

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from scipy.stats import norm
from sklearn.compose import make_column_transformer
from sklearn.decomposition import PCA
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import Ridge
from sklearn.metrics import root_mean_squared_error
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline

from skrec import DummyRecommender, MFRegressor, NCFRegressor
from skrec.datasets import make_ratings
from skrec.inspection import (
    ErrorByCountDisplay,
    FactorMapDisplay,
    FitCurveDisplay,
    IntervalCalibrationDisplay,
    RankingCurveDisplay,
)
from skrec.metrics import RankingScorer, _functions, hit_rate_at_k, ndcg_at_k
from skrec.metrics._rankings import ranks_of

matplotlib = pytest.importorskip("matplotlib")
matplotlib.use("Agg")
plt = pytest.importorskip("matplotlib.pyplot")

X, Y = make_ratings(80, 60, 2000, random_state=0)
TRAIN, TEST = slice(0, 1500), slice(1500, None)


@pytest.fixture(scope="module")
def model():
    return MFRegressor(4).fit(X[TRAIN], Y[TRAIN])


@pytest.fixture(autouse=True)
def _closed_figures():
    yield
    plt.close("all")


rows = st.lists(
    st.tuples(
        st.integers(-3, 3), st.sampled_from([0.0, 0.5, 1.0, 2.0]), st.integers(0, 3)
    ),
    min_size=1,
    max_size=30,
).filter(lambda rows: any(weight for *_, weight in rows))


@settings(max_examples=50)
@given(rows)
def test_calibration_is_the_share_within_intervals_of_the_gaussian(rows):
    error, std, weight = map(np.array, zip(*rows, strict=True))
    levels = np.array([0.0, 0.3, 0.683, 0.9, 0.99])
    display = IntervalCalibrationDisplay.from_predictions(
        error + 2.0, np.full(len(rows), 2.0), std, sample_weight=weight, levels=levels
    )
    plt.close("all")
    width = norm.ppf((1 + levels) / 2)[:, None] * std
    inside = np.abs(error) <= width
    assert_allclose(display.observed, np.average(inside, axis=1, weights=weight))


def test_intervals_of_a_fit_are_calibrated_and_those_of_half_the_width_are_not(model):
    predicted, std = model.predict(X[TEST], return_std=True)
    ours = IntervalCalibrationDisplay.from_estimator(model, X[TEST], Y[TEST])
    assert_allclose(ours.nominal, np.arange(1, 20) / 20)
    assert_allclose(ours.observed, ours.nominal, atol=0.06)
    narrow = IntervalCalibrationDisplay.from_predictions(
        Y[TEST], predicted, std / 2, ax=ours.ax_, levels=[0.9], name="half"
    )
    assert narrow.observed[0] < 0.7
    labels = ours.ax_.get_legend_handles_labels()[1]
    assert labels == ["calibrated", "MFRegressor", "half"]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"y_std": [1.0, -1.0]}, "y_std holds negative"),
        ({"y_pred": [1.0]}, "y_pred must hold one number per row"),
        ({"y_true": [], "y_pred": [], "y_std": []}, "y_true is empty"),
        ({"levels": [0.5, 90]}, "levels must be from 0 to 1"),
        ({"y_true": [1.0, np.nan]}, "y_true must hold finite numbers"),
    ],
)
def test_calibration_refuses(wrong, message):
    rows = {"y_true": [1.0, 2.0], "y_pred": [1.0, 2.0], "y_std": [1.0, 1.0]}
    with pytest.raises(ValueError, match=message):
        IntervalCalibrationDisplay.from_predictions(**rows | wrong)


def test_a_fit_without_standard_deviations_has_no_calibration():
    als = MFRegressor(2, solver="als").fit(X, Y)
    with pytest.raises(ValueError, match="return_std=True needs"):
        IntervalCalibrationDisplay.from_estimator(als, X, Y)


def by_hand(users, y, predicted, counts):
    """RMSE by doubling bins of counts, by a plain loop."""
    found = {}
    for j, low in enumerate([0, 1, 2, 4, 8, 16, 32, 64]):
        high = [1, 2, 4, 8, 16, 32, 64, 128][j]
        within = (counts >= low) & (counts < high)
        if within.any():
            found[low] = root_mean_squared_error(y[within], predicted[within])
    return found


@pytest.mark.parametrize("by", ["user", "item"])
def test_error_is_that_of_the_rows_whose_user_has_so_many_ratings(by):
    # A log with repeats, string ids, and rows of users and items that fit has not seen.
    names = X.astype(str).add_prefix("the ")
    train = pd.concat([names[:700], names[:50]])
    model = MFRegressor(2).fit(train, np.append(Y[:700], Y[:50]))
    test, y = names[700:], Y[700:]
    strangers = pd.DataFrame([["new", "9"], ["3", "new"]], columns=names.columns)
    test, y = pd.concat([test, strangers]), np.append(y, [1.0, 5.0])
    display = ErrorByCountDisplay.from_estimator(model, test, y, by=by)
    column = 0 if by == "user" else 1
    known = train.drop_duplicates().iloc[:, column].value_counts()
    counts = test.iloc[:, column].map(known).fillna(0).to_numpy()
    expected = by_hand(test, y, model.predict(test), counts)
    filled = display.n_rows > 0
    assert_array_equal(display.edges[:-1][filled], list(expected))
    assert_allclose(display.error[filled], list(expected.values()))
    assert display.n_rows.sum() == len(y)
    assert display.n_rows[0] == (counts == 0).sum() > 0
    assert display.count[0] == 0
    assert np.isnan(display.error[~filled]).all()


def test_weights_are_repeats_and_the_standard_error_is_that_of_the_mean_square():
    rng = np.random.default_rng(0)
    y, counts, weight = rng.normal(size=90), np.arange(90) % 7, np.arange(90) % 3
    zero = np.zeros(90)
    weighted = ErrorByCountDisplay.from_predictions(
        y, zero, counts, sample_weight=weight
    )
    repeated = ErrorByCountDisplay.from_predictions(
        *(np.repeat(values, weight) for values in (y, zero, counts))
    )
    assert_allclose(weighted.error, repeated.error)
    unit = ErrorByCountDisplay.from_predictions(y, zero, zero, edges=[0, 10])
    assert_allclose(
        unit.std_error, np.std(y**2) / np.sqrt(90) / (2 * np.sqrt(np.mean(y**2)))
    )


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"counts": [-1, 2]}, "counts holds negative"),
        ({"edges": ["few", "many"]}, "edges must be two numbers or more"),
        ({"edges": [0, np.nan, 9]}, "edges must be two numbers or more"),
        ({"edges": [2, 1]}, "edges must be two numbers or more, in increasing order"),
        ({"edges": [0, 2]}, "the last edge must be above all counts"),
        ({"by": "row"}, "by must be 'user' or 'item'"),
        ({"y_true": [], "y_pred": [], "counts": []}, "y_true is empty"),
    ],
)
def test_error_by_count_refuses(wrong, message):
    rows = {"y_true": [1.0, 2.0], "y_pred": [1.0, 2.0], "counts": [1, 2]}
    with pytest.raises(ValueError, match=message):
        ErrorByCountDisplay.from_predictions(**rows | wrong)


def test_errors_of_one_row_without_error():
    display = ErrorByCountDisplay.from_predictions([3.0], [3.0], [0])
    assert display.error.tolist() == display.std_error.tolist() == [0.0]


@pytest.mark.parametrize("metric", ["ndcg", "recall", "hit_rate"])
@pytest.mark.parametrize("candidates", ["unseen", "test"])
def test_ranking_curves_are_scores_at_each_length(model, metric, candidates):
    display = RankingCurveDisplay.from_estimator(
        model,
        X[TEST],
        Y[TEST],
        metric=metric,
        k=[5, 1, 10],
        candidates=candidates,
        relevance_threshold=4,
    )
    assert display.k.tolist() == [1, 5, 10]
    for k, score in zip(display.k, display.scores, strict=True):
        scorer = RankingScorer(
            metric, k=int(k), candidates=candidates, relevance_threshold=4
        )
        assert score == scorer(model, X[TEST], Y[TEST])
    assert display.ax_.get_ylabel().endswith("@k")


def test_ranking_curves_of_scored_rows(model, monkeypatch):
    rows = Y[TEST], model.predict(X[TEST]), X["user"][TEST]
    expected = [ndcg_at_k(*rows, k=k) for k in (1, 2, 3, 4)]
    ranked = []
    monkeypatch.setattr(
        _functions, "ranks_of", lambda *rows: ranked.append(1) or ranks_of(*rows)
    )
    display = RankingCurveDisplay.from_predictions(*rows, k=4)
    assert display.scores.tolist() == expected
    assert len(ranked) == 1
    hits = RankingCurveDisplay.from_predictions(
        *rows, metric="hit_rate", k=[3], relevance_threshold=5, ax=display.ax_
    )
    assert hits.scores[0] == hit_rate_at_k(*rows, k=3, relevance_threshold=5)
    assert len(display.ax_.lines) == 2


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"metric": "auc"}, "metric must be one of"),
        ({"k": 0}, "k must be an int of at least 1"),
        ({"k": "10"}, "k must be an int of at least 1, got '10'"),
        ({"k": []}, "k must be an int or a list of at least one"),
        ({"k": [1, 2.5]}, "k must be an int of at least 1"),
    ],
)
def test_ranking_curves_refuse(model, wrong, message):
    with pytest.raises(ValueError, match=message):
        RankingCurveDisplay.from_estimator(model, X[TEST], Y[TEST], **wrong)


@pytest.mark.parametrize("side", ["user", "item"])
def test_maps_are_principal_components(model, side):
    display = FactorMapDisplay.from_estimator(model, side=side)
    factors = getattr(model, f"{side}_factors_")
    pca = PCA(2, svd_solver="full").fit(factors)
    expected = pca.transform(factors)
    signs = np.sign((expected * display.coordinates).sum(axis=0))
    assert_allclose(display.coordinates, expected * signs, atol=1e-5)
    assert_allclose(
        display.explained_variance_ratio, pca.explained_variance_ratio_, rtol=1e-4
    )
    largest = np.abs(display.coordinates).argmax(axis=0)
    assert (display.coordinates[largest, [0, 1]] > 0).all()
    counts = X[TRAIN][side].value_counts()
    assert_array_equal(display.n_ratings, counts[display.ids])


def test_the_map_labels_the_most_rated(model):
    most = X["item"][TRAIN].value_counts()
    top = most.index[0]
    display = FactorMapDisplay.from_estimator(model, labels={top: "Heat"}, n_labels=5)
    texts = [text.get_text() for text in display.texts_]
    assert texts[0] == "Heat"
    assert len(texts) == 5
    counts = most[[int(text) for text in texts[1:]]]
    assert (counts.diff().dropna() <= 0).all()
    boxes = [text.get_window_extent() for text in display.texts_]
    assert not any(a.overlaps(b) for a in boxes for b in boxes if a is not b)
    titles = pd.Series("x", index=model.item_ids_)
    few = display.plot(labels=titles, n_labels=1)
    assert [text.get_text() for text in few.texts_] == ["x"]
    assert not FactorMapDisplay.from_estimator(model, n_labels=0).texts_


def test_maps_of_one_factor_and_of_none():
    one = FactorMapDisplay.from_estimator(MFRegressor(1).fit(X, Y))
    assert (one.coordinates[:, 1] == 0).all()
    assert one.explained_variance_ratio.tolist() == [1, 0]
    with pytest.raises(ValueError, match="biases alone"):
        FactorMapDisplay.from_estimator(MFRegressor(0).fit(X, Y))
    for none in (DummyRecommender().fit(X), Ridge().fit(X, Y)):
        with pytest.raises(ValueError, match="has no factors to draw"):
            FactorMapDisplay.from_estimator(none)


def explained_by_two_axes(vectors):
    return PCA(2, svd_solver="full").fit(vectors).explained_variance_ratio_


@pytest.mark.parametrize("side", ["user", "item"])
@pytest.mark.parametrize("architecture", ["gmf", "mlp", "neumf"])
def test_maps_of_networks_are_of_their_predictions(architecture, side):
    ncf = NCFRegressor(
        2, architecture=architecture, n_members=2, max_iter=2, clip=False
    )
    ncf.fit(X, Y)
    pairs = pd.MultiIndex.from_product(
        [ncf.user_ids_, ncf.item_ids_], names=["user", "item"]
    ).to_frame()
    table = ncf.predict(pairs).reshape(len(ncf.user_ids_), -1)
    table = table if side == "user" else table.T
    centred = table - table.mean(axis=0) - table.mean(axis=1, keepdims=True)
    expected = explained_by_two_axes(centred)
    for rank_by in ("both", "rating", "choice"):
        ncf.set_params(rank_by=rank_by)
        display = FactorMapDisplay.from_estimator(ncf, side=side)
        assert_allclose(display.explained_variance_ratio, expected, rtol=1e-3)


@pytest.mark.parametrize("side", ["user", "item"])
def test_maps_of_choices_part_tastes(side):
    rng = np.random.default_rng(0)
    user = np.repeat(np.arange(60), 8)
    choices = pd.DataFrame({"user": user, "item": rng.integers(15, size=480)})
    choices["item"] += 15 * (user % 2)
    display = FactorMapDisplay.from_estimator(MFRegressor().fit(choices), side=side)
    is_right = display.coordinates[:, 0] > 0
    taste = display.ids % 2 if side == "user" else display.ids >= 15
    assert_array_equal(is_right == is_right[0], taste == taste[0])


@pytest.mark.parametrize(
    "wrong", [{"side": "film"}, {"n_labels": -1}, {"n_labels": 1.5}]
)
def test_maps_refuse(model, wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        FactorMapDisplay.from_estimator(model, **wrong)


def test_labels_are_found_by_id(model):
    with pytest.raises(TypeError, match="labels must be a dict or a Series"):
        FactorMapDisplay.from_estimator(model, labels=["title"] * 60)


def test_fit_curves_are_attributes(model):
    loss = FitCurveDisplay.from_estimator(model)
    loo = FitCurveDisplay.from_estimator(model, curve="loo", name="vb")
    assert_array_equal(loss.values, model.loss_curve_)
    assert_array_equal(loo.values, model.loo_curve_)
    assert_array_equal(loo.line_.get_xdata(), np.arange(model.n_iter_) + 1)
    ncf = NCFRegressor(2, n_members=1, max_iter=3, early_stopping=True, random_state=0)
    held_out = FitCurveDisplay.from_estimator(ncf.fit(X, Y), curve="validation")
    assert_array_equal(held_out.values, ncf.validation_scores_)
    assert FitCurveDisplay.from_estimator(MFRegressor().fit(X)).values.shape == (1,)


@pytest.mark.parametrize(
    ("fitted", "curve", "message"),
    [
        (lambda: MFRegressor(2, solver="als").fit(X, Y), "loo", "has no loo_curve_"),
        (lambda: MFRegressor(2).fit(X, Y), "bound", "curve must be one of 'loss'"),
        (
            lambda: MFRegressor.from_factors(np.ones((2, 1)), np.ones((3, 1))),
            "loss",
            "no iterations",
        ),
    ],
)
def test_fit_curves_refuse(fitted, curve, message):
    with pytest.raises(ValueError, match=message):
        FitCurveDisplay.from_estimator(fitted(), curve=curve)


def draw_all(estimator, rows, **keywords):
    return [
        FitCurveDisplay.from_estimator(estimator, **keywords),
        FactorMapDisplay.from_estimator(estimator, **keywords),
        IntervalCalibrationDisplay.from_estimator(estimator, *rows, **keywords),
        RankingCurveDisplay.from_estimator(estimator, *rows, k=3, **keywords),
        ErrorByCountDisplay.from_estimator(estimator, *rows, **keywords),
    ]


def test_displays_find_the_recommender_in_pipelines_and_searches(model):
    timed = X.assign(time=0)[["time", "user", "item"]]
    select = make_column_transformer(("passthrough", ["user", "item"]))
    pipe = make_pipeline(select, MFRegressor(4)).fit(timed[TRAIN], Y[TRAIN])
    search = GridSearchCV(pipe, {"mfregressor__n_factors": [4]}, cv=2)
    search = search.fit(timed[TRAIN], Y[TRAIN])
    expected = draw_all(model, (X[TEST], Y[TEST]))
    for outer in (pipe, search):
        for ours, theirs in zip(
            draw_all(outer, (timed[TEST], Y[TEST])), expected, strict=True
        ):
            assert_array_equal(
                ours.ax_.collections and ours.ax_.collections[0].get_offsets(),
                theirs.ax_.collections and theirs.ax_.collections[0].get_offsets(),
            )
            for line, other in zip(ours.ax_.lines, theirs.ax_.lines, strict=True):
                assert_allclose(line.get_xydata(), other.get_xydata(), rtol=1e-6)


def test_displays_draw_where_they_are_told(model):
    _, axes = plt.subplots(5)
    for j, ax in enumerate(axes):
        display = draw_all_at(j, model, ax)
        assert display.ax_ is ax
        assert display.figure_ is ax.figure
    again = display.plot()
    assert again.ax_ is not axes[-1]
    assert again.figure_ is again.ax_.figure


def draw_all_at(j, model, ax):
    rows = X[TEST], Y[TEST]
    return [
        lambda: FitCurveDisplay.from_estimator(model, ax=ax),
        lambda: FactorMapDisplay.from_estimator(model, ax=ax),
        lambda: IntervalCalibrationDisplay.from_estimator(model, *rows, ax=ax),
        lambda: RankingCurveDisplay.from_estimator(model, *rows, k=3, ax=ax),
        lambda: ErrorByCountDisplay.from_estimator(model, *rows, ax=ax),
    ][j]()


def test_displays_of_unfitted_and_of_other_estimators():
    for draw in (FitCurveDisplay.from_estimator, FactorMapDisplay.from_estimator):
        with pytest.raises(NotFittedError):
            draw(MFRegressor())
    for draw in (
        ErrorByCountDisplay.from_estimator,
        IntervalCalibrationDisplay.from_estimator,
        RankingCurveDisplay.from_estimator,
    ):
        for model in (MFRegressor(), GridSearchCV(MFRegressor(), {"n_factors": [1]})):
            with pytest.raises(NotFittedError):
                draw(model, X, Y)
    dummy = DummyRecommender().fit(X, Y)
    assert ErrorByCountDisplay.from_estimator(dummy, X, Y).n_rows.sum() == len(Y)

    class Constant:
        user_ids_ = np.arange(80)

        def predict(self, X):
            return np.full(len(X), 3.0)

    with pytest.raises(TypeError, match="Constant does not know which items"):
        ErrorByCountDisplay.from_estimator(Constant(), X, Y)


def test_without_matplotlib_an_error_names_it(model, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    for j in range(5):
        with pytest.raises(ImportError, match=r"Display draws by matplotlib.*pip"):
            draw_all_at(j, model, None)
