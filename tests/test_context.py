"""Columns of context that have values: reading, and the terms of all solvers."""

import io
import warnings
from dataclasses import replace
from itertools import islice

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import torch
from helpers import copied, rmse, small, unconverged
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone

from skrec import DummyRecommender, MFRegressor, NCFRegressor, load
from skrec._alternating.als import als
from skrec._alternating.column_moments import column_mean, column_variance
from skrec._alternating.gibbs import gibbs
from skrec._alternating.layout import Layout
from skrec._alternating.pair_evidence import LEVEL_PRECISION, PairEvidence
from skrec._alternating.problem import Problem, RatingArrays
from skrec._alternating.start import spectral_start
from skrec._alternating.state import PRIOR_VARIANCE
from skrec._alternating.value_pairs import ValuePairs
from skrec._alternating.vb import vb
from skrec._data.reading import Columns
from skrec._ranks import collect
from skrec._share import ALL_ROWS

SEASONS = np.array(["autumn", "spring", "summer", "winter"])


def problem_with_context(seed=0, n=300, n_values=(4, 2), is_unknown=0.0, **options):
    """A problem with columns of context, and its arrays."""
    rng = np.random.default_rng(seed)
    u, i = rng.integers(15, size=n), rng.integers(10, size=n)
    order = np.lexsort((i, u))
    u, i = u[order], i[order]
    codes = np.column_stack([rng.integers(k, size=n) for k in n_values])
    codes[rng.random(codes.shape) < is_unknown] = -1
    slopes = rng.normal(size=(10, 5))
    y = slopes[i, codes[:, 0]] + rng.normal(size=15)[u] + rng.normal(size=n) / 2
    y = (y - y.mean()) / y.std()
    w = rng.uniform(0.5, 2, n)
    numbers = rng.normal(size=(n, options.pop("n_numbers", 0)))
    # Numbers that differ by user, as times do.
    numbers += rng.normal(size=(15, numbers.shape[1]))[u]
    y += numbers @ np.ones(numbers.shape[1]) * rng.normal(size=15)[u]
    arrays = RatingArrays(
        *(u, i, (15, 10), y, w, numbers),
        values=codes,
        n_values=n_values,
        slopes=range(numbers.shape[1]) if options.pop("has_slopes", False) else (),
    )
    size = options.pop("n_factors", 2), options.pop("biased", True)
    layout = Layout(*size, torch.device("cpu"))
    problem = Problem.from_arrays(arrays, layout, torch.float64)
    if options.pop("implicit_features", False):
        problem = problem.with_implicit_features()
    return problem, (u, i, codes, y, w)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"n_values": (1, 40)},
        {"n_numbers": 2, "n_factors": 0},
        {"n_numbers": 2, "has_slopes": True, "n_values": (2,)},
        {"n_numbers": 1, "has_slopes": True, "is_unknown": 0.2},
        {"n_numbers": 1, "has_slopes": True, "biased": False},
        {"implicit_features": True, "is_unknown": 0.2},
        {"biased": False},
    ],
    ids=[
        "plain",
        "one value and many",
        "numbers too",
        "slopes",
        "slopes and values",
        "slopes without biases",
        "unknown values",
        "no biases",
    ],
)
def test_no_sweep_lowers_the_bound(options):
    problem, _ = problem_with_context(**options)
    states = islice(vb(problem, spectral_start(problem)), 30)
    assert np.diff([state.objective for state in states]).max() < 1e-9


def term_tables(columns, states, codes, numbers, u, i):
    """Of each term of ratings: its mean and its variance, by loops over matrices."""
    for j, (column, state) in enumerate(zip(columns, states, strict=True)):
        is_number = column.users.numbers is not None
        x = numbers[:, j] if is_number else np.ones(len(u))
        place = j - numbers.shape[1] if len(columns) > codes.shape[1] else j
        values = np.zeros(len(u), dtype=int) if is_number else codes[:, place]
        if not is_number:
            variance = state.values.variance
            variance = (
                np.zeros(len(state.values.mean)) if variance is None else variance
            )
            yield (
                np.append(state.values.mean, 0)[values],
                np.append(variance, 0)[values],
            )
        for pairs, terms, rows in (
            (column.users, state.users, u),
            (column.items, state.items, i),
        ):
            layout = Layout(terms.rows.mean.shape[1], False, torch.device("cpu"))
            a, r = terms.rows.mean.numpy(), terms.values.mean.numpy()
            mean, variance = np.zeros((2, len(u)))
            for n in np.flatnonzero(values >= 0):
                row, value = rows[n], values[n]
                (p,) = np.flatnonzero((pairs.rows == row) & (pairs.values == value))
                mean[n] = x[n] * (a[row] @ r[value] + float(terms.effects.mean[p]))
                mean[n] += float(terms.levels.mean[row])
                if terms.effects.variance is None:
                    continue
                variance[n] = x[n] ** 2 * float(terms.effects.variance[p])
                variance[n] += 2 * x[n] * float(terms.covariance[p])
                variance[n] += float(terms.levels.variance[row])
                if a.shape[1]:
                    S, T = (
                        layout.unpack(side.covariance).numpy()
                        for side in (terms.rows, terms.values)
                    )
                    S, T = S[row], T[value]
                    variance[n] += r[value] @ S @ r[value] + a[row] @ T @ a[row]
                    variance[n] += (S * T).sum()
            yield mean, variance


@pytest.mark.parametrize("n_values", [(4, 2), (1, 40)])
@pytest.mark.parametrize("n_numbers", [0, 2])
def test_no_sweep_of_als_raises_the_objective(n_values, n_numbers):
    problem, (u, i, codes, y, w) = problem_with_context(
        n_values=n_values, n_numbers=n_numbers, has_slopes=True
    )
    reg = 2.0
    states = list(islice(als(problem, spectral_start(problem), reg), 20))
    assert np.diff([state.objective for state in states]).max() < 1e-9
    last, numbers = states[-1], problem.context.numpy()
    x, z = last.users.mean[u], last.items.mean[i]
    rest = y - (x[:, :2] * z[:, :2]).sum(1).numpy() - (x[:, 2] + z[:, 2]).numpy()
    rest -= numbers @ last.coef.numpy()
    tables = term_tables(problem.columns, last.columns, codes, numbers, u, i)
    rest -= sum(mean for mean, _ in tables)
    squares = (last.users.mean**2).sum() + (last.items.mean**2).sum()
    penalty = reg * (squares + (last.coef**2).sum())
    for state in last.columns:
        penalty += state.values.precision * (state.values.mean**2).sum()
        for terms in (state.users, state.items):
            assert not terms.levels.mean.any()
            assert not terms.rows.mean.numel() + terms.values.mean.numel()
            penalty += terms.effects.precision * (terms.effects.mean**2).sum()
    expected = (w @ rest**2 + float(penalty)) / w.sum()
    assert last.objective == pytest.approx(expected)


@pytest.mark.parametrize("tau", [0.3, 5.0, 200.0])
@pytest.mark.parametrize("has_numbers", [False, True])
def test_levels_and_effects_are_those_of_a_dense_gaussian(tau, has_numbers):
    rng = np.random.default_rng(0)
    rows, values = rng.integers(3, size=60), rng.integers(4, size=60)
    x = rng.normal(1, 2, size=60) if has_numbers else np.ones(60)
    w, residual = rng.uniform(1, 3, 60), rng.normal(size=60)
    if has_numbers:
        numbers = torch.as_tensor(x)
        pairs, values = (
            ValuePairs.of_rows(rows, 3, numbers, ALL_ROWS),
            np.zeros_like(rows),
        )
    else:
        pairs = ValuePairs.between(rows, values, (3, 4), torch.device("cpu"))
    sums = pairs.sums_over(torch.as_tensor(w), torch.as_tensor(residual))
    evidence = PairEvidence(
        pairs, sums.weight, sums.residual, prior_variance=PRIOR_VARIANCE
    )
    of_ratings = pairs.of_ratings.numpy()
    Z = np.hstack([x[:, None] * np.eye(len(pairs))[of_ratings], np.eye(3)[rows]])

    def dense(tau):
        """Precision and h of (δ, l), and the logarithm of the evidence."""
        # A level beside values is the mean of the effects of a row.
        n_effects = np.bincount(pairs.rows, minlength=3)
        of_levels = np.full(3, LEVEL_PRECISION) if has_numbers else tau * n_effects
        prior = np.append(np.full(len(pairs), tau), of_levels)
        n_draws = len(pairs) if has_numbers else len(prior)
        A, b = (Z.T * w) @ Z + np.diag(prior), Z.T @ (w * residual)
        value = b @ np.linalg.solve(A, b) - np.linalg.slogdet(A)[1]
        # The prior of τ, with one effect of variance a tenth.
        return A, b, value + (1 + n_draws) * np.log(tau) - 0.1 * tau

    A, b, value = dense(tau)
    mean, precision = evidence.levels(tau)
    assert_allclose(mean, np.linalg.solve(A, b)[len(pairs) :])
    assert_allclose(1 / precision, np.linalg.inv(A).diagonal()[len(pairs) :])
    # Up to a constant.
    assert_allclose(evidence.value(tau) - evidence.value(1.0), value - dense(1.0)[2])
    best = evidence.likeliest_precision(None)
    for other in (tau, best * 1.3, best / 1.3):
        assert evidence.value(best) >= evidence.value(other) - 0.05


@pytest.mark.parametrize("n_numbers", [0, 2])
def test_moments_at_ratings_are_those_of_the_terms(n_numbers):
    problem, (u, i, codes, *_) = problem_with_context(
        is_unknown=0.1, n_numbers=n_numbers, has_slopes=True
    )
    *_, state = islice(vb(problem, spectral_start(problem)), 6)
    terms = problem.columns, state.columns
    mean, variance = column_mean(*terms), column_variance(*terms)
    numbers = problem.context.numpy()
    tables = list(term_tables(problem.columns, state.columns, codes, numbers, u, i))
    expected, spread = (sum(parts) for parts in zip(*tables, strict=True))
    assert_allclose(mean, expected, atol=1e-10)
    assert_allclose(variance, spread, atol=1e-10)
    places = torch.tensor([5, 0, 5, 99])
    for some, every in zip(
        (column_mean(*terms, places), column_variance(*terms, places)),
        (mean, variance),
        strict=True,
    ):
        assert_allclose(some, every[places])


def test_draws_of_gibbs_have_context_too():
    problem, _ = problem_with_context()
    start = spectral_start(problem)
    states = gibbs(problem, start, np.random.RandomState(0), vb_sweeps=3)
    draws = [s for s in islice(states, 40) if not s.is_warm_up]
    means = np.stack([column_mean(problem.columns, s.columns) for s in draws[5:]])
    *_, last = islice(vb(problem, start), 20)
    expected = column_mean(problem.columns, last.columns)
    assert np.corrcoef(means.mean(0), expected)[0, 1] > 0.9
    assert means.std(0).min() > 0


def seasonal(seed=0, n_users=150, n_items=80, n_ratings=8000, noise=0.3):
    """Ratings with an effect of the season that differs by item."""
    rng = np.random.default_rng(seed)
    u, i = rng.integers(n_users, size=n_ratings), rng.integers(n_items, size=n_ratings)
    s = rng.integers(4, size=n_ratings)
    taste = rng.normal(size=(n_users, 2)) @ rng.normal(size=(2, n_items))
    y = 3 + taste[u, i] + 1.05 * rng.normal(size=(n_items, 4))[i, s]
    y += noise * rng.normal(size=n_ratings)
    X = pd.DataFrame({"user": u, "item": i, "season": SEASONS[s]})
    return X, pd.Series(y)


X, Y = seasonal()
TRAIN, TEST = slice(0, 6400), slice(6400, None)
MF = {"n_factors": 4, "rank_by": "rating", "clip": False}


@pytest.fixture(scope="module")
def fitted():
    return MFRegressor(**MF).fit(X[TRAIN], Y[TRAIN])


def test_seasons_of_items_are_learned(fitted):
    assert rmse(fitted, X[TEST], Y[TEST]) < 0.38
    ids = X[["user", "item"]]
    bare = MFRegressor(**MF).fit(ids[TRAIN], Y[TRAIN])
    assert rmse(bare, ids[TEST], Y[TEST]) > 0.9
    assert np.diff(fitted.loss_curve_).max() < 0


def test_standard_deviations_cover_new_ratings(fitted):
    mean, std = fitted.predict(X[TEST], return_std=True)
    assert 0.93 < (np.abs(Y[TEST] - mean) < 2 * std).mean() < 0.99
    _, unknown = fitted.predict(X[TEST].assign(season="monsoon"), return_std=True)
    assert unknown.mean() > 1.5 * std.mean()


def test_als_and_gibbs_learn_them_too():
    als_model = MFRegressor(**MF, solver="als", reg=1.0).fit(X[TRAIN], Y[TRAIN])
    assert rmse(als_model, X[TEST], Y[TEST]) < 0.45
    draws = MFRegressor(**MF, solver="gibbs", max_iter=15, random_state=0)
    draws = draws.fit(X[TRAIN], Y[TRAIN])
    assert rmse(draws, X[TEST], Y[TEST]) < 0.4
    mean, std = draws.predict(X[TEST], return_std=True)
    assert (np.abs(Y[TEST] - mean) < 2 * std).mean() > 0.9


def test_noise_costs_nothing():
    noisy = X.assign(
        season=np.random.RandomState(0).randint(50, size=len(X)).astype(str)
    )
    ids, y = X[["user", "item"]], Y
    bare = MFRegressor(**MF).fit(ids[TRAIN], y[TRAIN])
    with_noise = MFRegressor(**MF).fit(noisy[TRAIN], y[TRAIN])
    error = rmse(with_noise, noisy[TEST], y[TEST])
    assert error < 1.002 * rmse(bare, ids[TEST], y[TEST])


@pytest.mark.parametrize("scale", [1e25, 1e-25])
def test_the_scale_of_ratings_does_not_matter(scale):
    y = FEW_Y - FEW_Y.mean()
    for biased in (True, False):
        params = {"biased": biased, "max_iter": 3, "clip": False, "n_factors": 2}
        with unconverged():
            one = MFRegressor(**params, rank_by="rating").fit(FEW, y)
            other = MFRegressor(**params, rank_by="rating").fit(FEW, scale * y)
        for expected, found in zip(
            one.predict(FEW, return_std=True),
            other.predict(FEW, return_std=True),
            strict=True,
        ):
            assert_allclose(found / scale, expected, rtol=1e-3, atol=1e-3)


def test_plain_products_have_context_without_biases():
    params = {**MF, "biased": False, "n_factors": 6}
    model = MFRegressor(**params).fit(X[TRAIN], Y[TRAIN])
    assert rmse(model, X[TEST], Y[TEST]) < 0.5
    assert np.diff(model.loss_curve_).max() < 0


def test_an_unknown_value_has_no_effect(fitted):
    unknown = fitted.predict(X[TEST].assign(season="monsoon"))
    # Biases and factors alone.
    model = replace(fitted._model, columns=())
    where = (
        np.searchsorted(ids, X[TEST][name])
        for name, ids in (("user", fitted.user_ids_), ("item", fitted.item_ids_))
    )
    assert_allclose(unknown, model.mean(*where, np.zeros((len(unknown), 0))))
    with pytest.raises(ValueError, match=r"unknown values of 'season'.*'monsoon'"):
        copied(fitted).set_params(handle_unknown="error").predict(
            X[TEST].assign(season="monsoon")
        )


FEW = X[:400].assign(season=SEASONS[np.arange(400) % 4], free=np.arange(400) % 3 == 0)
FEW_Y = Y[:400]

CONTAINERS = {
    "categories": lambda: FEW.astype({"season": "category"}),
    "categories in another order": lambda: FEW.assign(
        season=pd.Categorical(FEW["season"], categories=[*SEASONS[::-1], "never"])
    ),
    "objects": lambda: FEW.astype({"season": object, "free": object}),
    "polars": lambda: pl.DataFrame(FEW),
    "polars categories": lambda: pl.DataFrame(FEW).with_columns(
        pl.col("season").cast(pl.Categorical)
    ),
    "pyarrow": lambda: pa.Table.from_pandas(FEW, preserve_index=False),
    "array of objects": lambda: FEW.to_numpy(object),
    "lists": lambda: FEW.astype(object).to_numpy().tolist(),
}


@pytest.mark.parametrize("container", CONTAINERS.values(), ids=CONTAINERS)
def test_the_container_of_values_does_not_matter(container):
    expected = small(max_iter=2).fit(FEW, FEW_Y).predict(FEW[:50])
    found = small(max_iter=2).fit(container(), FEW_Y).predict(container()[:50])
    assert_array_equal(found, expected)


def test_categories_of_numbers_are_values_and_numbers_are_not():
    hour = np.arange(400) % 6
    numeric = FEW[["user", "item"]].assign(hour=hour)
    model = small().fit(numeric, FEW_Y)
    assert model.coef_.shape == (1,)
    by_value = small().fit(numeric.astype({"hour": "category"}), FEW_Y)
    assert by_value.coef_.shape == (0,)
    # Numbers that were categories in fit are values in predict.
    assert_array_equal(
        by_value.predict(numeric),
        by_value.predict(numeric.astype({"hour": "category"})),
    )


def test_canonical_rows_decide_alone():
    order = np.random.RandomState(0).permutation(400)
    model = small(max_iter=3).fit(FEW, FEW_Y)
    other = small(max_iter=3).fit(FEW.iloc[order], FEW_Y.iloc[order])
    assert_array_equal(other.predict(FEW), model.predict(FEW))
    weight = np.arange(400) % 3
    weight[FEW["season"] == "winter"] = 0
    weighted = small(max_iter=3).fit(FEW, FEW_Y, sample_weight=weight)
    rows = np.repeat(np.arange(400), weight)
    repeated = small(max_iter=3).fit(FEW.iloc[rows], FEW_Y.iloc[rows])
    assert_allclose(weighted.predict(FEW), repeated.predict(FEW), rtol=1e-12)
    assert "season_winter" not in set(weighted.feature_effects()["feature"])


@pytest.mark.usefixtures("short_chain")
@pytest.mark.parametrize("solver", ["vb", "gibbs", "als"])
@pytest.mark.parametrize(
    "rows",
    [slice(0, 50), slice(0, 2), slice(0, 1)],
    ids=["fifty rows", "two rows", "one row"],
)
def test_few_rows_are_enough(solver, rows):
    model = MFRegressor(**MF, solver=solver, max_iter=4, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.fit(FEW[rows], FEW_Y[rows])
    assert np.isfinite(model.predict(FEW)).all()


def test_a_fit_of_one_user_and_of_values_that_are_all_the_same():
    one = FEW.assign(user="ann")
    assert np.isfinite(small().fit(one, FEW_Y).predict(one)).all()
    same = FEW.assign(season="winter").drop(columns="free")
    ids = same[["user", "item"]]
    with unconverged():
        found = small(max_iter=5, tol=0.0).fit(same, FEW_Y).predict(same)
        bare = small(max_iter=5, tol=0.0).fit(ids, FEW_Y).predict(ids)
    assert np.corrcoef(found, bare)[0, 1] > 0.99


def test_further_rows_are_folded_in_given_their_context(fitted):
    is_new = X["user"] == 7
    first = MFRegressor(**MF).fit(X[~is_new], Y[~is_new])
    rows, y = X[is_new], Y[is_new]
    half, rest = slice(0, 35), slice(35, None)
    model = copied(first).partial_fit(rows[half], y[half])
    blind = copied(first).partial_fit(rows[half].assign(season="monsoon"), y[half])
    error = rmse(model, rows[rest], y[rest])
    assert error < 0.8 * rmse(blind, rows[rest], y[rest])
    assert error < 0.5
    model = copied(fitted).partial_fit(rows[half].assign(user=10**6), y[half])
    # Terms of known rows stay, and those of new rows are none.
    old, (column,) = fitted._model.columns[0], model._model.columns
    where = np.arange(20), np.arange(20), (np.arange(20) % 4, np.ones(20))
    assert_allclose(column.mean(*where), old.mean(*where))
    newest = np.array([len(model.user_ids_) - 1])
    assert not column.users.mean(newest, np.array([0])).any()


@pytest.mark.parametrize("solver", ["vb", "als"])
def test_rows_that_are_forgotten_are_as_if_they_had_not_been_added(solver):
    model = MFRegressor(**MF, solver=solver).fit(X[TRAIN], Y[TRAIN])
    new, y = X[TEST][:30].assign(user=10**6), Y[TEST][:30]
    grown = copied(model).partial_fit(new, y)
    shrunk = copied(grown).forget(new, y, users=[10**6])
    assert_allclose(shrunk.predict(X[TEST]), model.predict(X[TEST]), atol=0.05)
    less = copied(model).forget(users=[0, 5], items=[3])
    kept = X[TEST][~X[TEST]["user"].isin([0, 5]) & (X[TEST]["item"] != 3)]
    assert_allclose(less.predict(kept), model.predict(kept), atol=1e-6)


def test_shares_of_rows_add_up_to_the_rating_without_context(fitted):
    own = X[TRAIN]["user"] == 7
    ratings = X[TRAIN][own], Y[TRAIN][own]
    reasons = fitted.explain(7, [3, 4], part="rating", ratings=ratings)
    asked = pd.DataFrame({"user": 7, "item": [3, 4], "season": "monsoon"})
    totals = reasons.groupby("item")["contribution"].sum()
    assert_allclose(totals, fitted.predict(asked), atol=1e-5)


def test_effects_of_values_are_in_feature_effects():
    y = FEW_Y + 0.8 * FEW["free"] + np.where(FEW["season"] == "winter", 1.0, 0)
    age = pd.DataFrame({"age": range(150)})
    for features in ({}, {"user_features": age}):
        model = MFRegressor(**MF).fit(FEW, y, **features)
        effects = model.feature_effects()
        of_context = effects[effects["side"] == "context"]
        of_context = of_context.set_index("feature")[["effect", "std"]]
        assert (of_context["std"] > 0).all()
        difference = of_context.loc["free_True"] - of_context.loc["free_False"]
        assert difference["effect"] == pytest.approx(0.8, abs=0.35)
        by_column = model.feature_effects(by="column").set_index("feature")
        share = FEW["season"].value_counts(normalize=True).sort_index().to_numpy()
        seasons = of_context.loc[[f"season_{s}" for s in SEASONS], "effect"]
        spread = np.sqrt(share @ seasons.to_numpy() ** 2)
        assert by_column.loc["season", "effect"] == pytest.approx(spread, rel=1e-3)
    points = MFRegressor(**MF, solver="als").fit(FEW, y).feature_effects()
    assert points["std"].isna().all()


def test_a_fit_can_be_copied_cloned_and_gone_on_with(fitted):
    assert_array_equal(copied(fitted).predict(X[TEST]), fitted.predict(X[TEST]))
    file = io.BytesIO()
    fitted.save(file)
    loaded = load(file)
    assert_array_equal(loaded.predict(X[TEST]), fitted.predict(X[TEST]))
    lists = [m.recommend([3], context={"season": "winter"}) for m in (fitted, loaded)]
    assert_array_equal(*lists)
    again = clone(fitted).fit(X[TRAIN], Y[TRAIN])
    assert_array_equal(again.predict(X[TEST]), fitted.predict(X[TEST]))
    warm = copied(fitted).set_params(warm_start=True)
    # Other rows, in which a season is missing and another is new.
    rows = X[TEST][X[TEST]["season"] != "spring"].replace("winter", "monsoon")
    warm.fit(rows, Y[rows.index])
    assert rmse(warm, rows, Y[rows.index]) < 0.4


def test_draws_go_on_after_a_burn_in_of_the_terms_of_context():
    """Few draws of a warm start are as good as few draws of a fit."""
    model = MFRegressor(2, solver="gibbs", rank_by="rating", max_iter=3, random_state=0)
    rng = np.random.default_rng(0)
    u, i, s = (rng.integers(n, size=1500) for n in (50, 20, 4))
    y = 2 * rng.normal(size=(20, 4))[i, s] + 0.3 * rng.normal(size=1500)
    rows = pd.DataFrame({"user": u, "item": i, "season": np.array(SEASONS)[s]})
    first = rmse(model.fit(rows[:1000], y[:1000]), rows[1000:], y[1000:])
    model.set_params(warm_start=True).fit(rows[:1000], y[:1000])
    assert len(model.loss_curve_) == 3
    assert rmse(model, rows[1000:], y[1000:]) < 1.1 * first


def test_other_fits_refuse_values_in_words():
    for model, y in (
        (MFRegressor(), None),
        (NCFRegressor(), None),
        (MFRegressor(solver="als", unobserved_weight=0.1), None),
    ):
        with pytest.raises(ValueError, match=r"'season'"):
            model.fit(FEW, y)
        assert not hasattr(model, "user_ids_")
    assert DummyRecommender().fit(FEW, FEW_Y).recommend([0], 2).shape == (1, 2)


def test_several_processes_refuse_values_in_words():
    columns = Columns.from_array(FEW.to_numpy(object))
    with pytest.raises(ValueError, match=r"column 2 of X holds.*one process"):
        # No process is asked before.
        collect(None, False, columns, FEW_Y.to_numpy(), np.ones(400))


REFUSED = {
    "missing": (
        FEW.assign(season=[None, *FEW["season"][1:]]),
        ValueError,
        r"column 2 of X \('season'\) is missing for 1 row.*fillna",
    ),
    "a number for a string": (
        FEW.assign(season=3),
        TypeError,
        r"column 2 of X \('season'\) holds.*'number'.*values of fit.*'string'",
    ),
    "a datetime": (
        FEW.assign(season=pd.Timestamp(0)),
        TypeError,
        r"column 2 of X \('season'\) holds.*'date",
    ),
}


@pytest.mark.parametrize(("rows", "error", "match"), REFUSED.values(), ids=REFUSED)
def test_values_of_another_kind_are_refused(rows, error, match):
    model = small().fit(FEW, FEW_Y)
    with pytest.raises(error, match=match):
        model.predict(rows)
