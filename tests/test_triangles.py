"""Lower triangles of covariances: packing, and rounding within a tolerance."""

import io
import pickle

import numpy as np
import pytest
from helpers import copied
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone

import skrec
from skrec import MFRegressor
from skrec._alternating import triangles
from skrec._alternating.covariances import PackedCovariance
from skrec._alternating.triangles import (
    TOLERANCE,
    QuantisedTriangles,
    compact,
    packed,
    unpacked,
)
from skrec._data.vocabulary import Growth
from skrec.datasets import make_ratings


def posteriors(rng, n_rows, size, most=3, dtype=np.float64, scale=0.3):
    """Covariances of rows with up to `most` observations, in units far apart."""
    units = 10.0 ** rng.uniform(-3, 3, size)
    z = rng.normal(scale=scale, size=(n_rows, most, size))
    z *= rng.random((n_rows, most, 1)) < 0.7
    precision = np.eye(size) + z.swapaxes(1, 2) @ z
    return (np.linalg.inv(precision) * np.outer(units, units)).astype(dtype)


def relative_errors(found, expected):
    """Most that variances of sums change, relative to these, for each row."""
    found, expected = found.astype(np.float64), expected.astype(np.float64)
    root = np.linalg.inv(np.linalg.cholesky(expected))
    away = root @ (found - expected) @ root.swapaxes(1, 2)
    return np.abs(np.linalg.eigvalsh(away)).max(axis=1)


def rounded(covariances):
    values = packed(covariances)
    return QuantisedTriangles.of(values, values.mean(axis=0))


@given(seed=st.integers(0, 2**16), size=st.integers(1, 7))
@settings(max_examples=40)
def test_a_triangle_has_the_elements_of_its_matrix(seed, size):
    matrices = posteriors(np.random.default_rng(seed), 4, size)
    values = packed(matrices)
    assert_array_equal(values, [matrix[np.tril_indices(size)] for matrix in matrices])
    assert_allclose(unpacked(values), matrices, rtol=1e-12)
    assert_array_equal(unpacked(values[2]), unpacked(values)[2])


@given(
    seed=st.integers(0, 2**16),
    size=st.integers(1, 7),
    most=st.sampled_from([0, 1, 3, 40, 4000]),
    dtype=st.sampled_from([np.float32, np.float64]),
)
@settings(max_examples=80)
def test_no_variance_is_off_by_more_than_the_tolerance(seed, size, most, dtype):
    covariances = posteriors(np.random.default_rng(seed), 9, size, most, dtype)
    # A row unlike the others.
    covariances[4] = posteriors(np.random.default_rng(seed), 1, size, 900, dtype)[0]
    found = rounded(covariances)
    whole = unpacked(found[:])
    assert whole.dtype == dtype
    assert (relative_errors(whole, covariances) < 1.02 * TOLERANCE).all()
    is_exact = found.place >= 0
    assert_array_equal(found[:][is_exact], packed(covariances)[is_exact])
    assert_array_equal(found[np.array([7, 4, 7])], found[:][[7, 4, 7]])


def test_light_rows_are_rounded_finely_and_a_determined_one_is_not():
    rng = np.random.default_rng(0)
    covariances = posteriors(rng, 400, 17, most=2, dtype=np.float32)
    # Two elements of which only the sum is uncertain, and variances out of the range of
    # half precision.
    covariances[7, :2, :2] = np.outer(*[np.sqrt(covariances[7, [0, 1], [0, 1]])] * 2)
    covariances[7, [0, 1], [0, 1]] *= 1.0001
    covariances[9] *= 1e-9
    found = rounded(covariances)
    assert_array_equal(np.flatnonzero(found.place >= 0), [7, 9])
    is_light = found.place < 0
    errors = relative_errors(unpacked(found[is_light]), covariances[is_light])
    assert np.median(errors) < TOLERANCE / 2
    assert found.nbytes < 0.3 * packed(covariances).nbytes


@given(seed=st.integers(0, 2**16))
@settings(max_examples=20)
def test_rows_that_are_rounded_are_never_rounded_again(seed):
    rng = np.random.default_rng(seed)
    covariances = posteriors(rng, 12, 4, most=30)
    first = rounded(covariances[:8])
    both = first.followed_by(packed(covariances[8:]))
    assert_array_equal(both[:][:8], first[:])
    assert (relative_errors(unpacked(both[:]), covariances) < 1.02 * TOLERANCE).all()
    rows = rng.integers(12, size=9)
    assert_array_equal(both.take(rows)[:], both[:][rows])
    assert len(both.take(slice(3, 5))) == 2


@given(seed=st.integers(0, 2**16), n_updates=st.integers(1, 6))
@settings(max_examples=30)
def test_rounded_covariances_are_those_of_a_whole_copy(seed, n_updates):
    """After updates, new rows and changes of units, also once these are merged."""
    rng = np.random.default_rng(seed)
    matrices = posteriors(rng, 40, 3)
    known = PackedCovariance.of_triangles(rounded(matrices))
    ids, expected = np.arange(40), dict(enumerate(matrices))
    for _ in range(n_updates):
        factor = rng.uniform(0.5, 2)
        known = known * factor
        expected = {id_: factor * value for id_, value in expected.items()}
        further = np.unique(rng.choice(60, 12))
        rows = np.where(np.isin(further, ids), np.searchsorted(ids, further), -1)
        growth = Growth.of(ids, further, rows)
        values = posteriors(rng, len(further), 3) * 0.5
        known = known.with_updates(PackedCovariance.of(values), growth)
        expected |= dict(zip(further, values, strict=True))
        ids = growth.ids
        assert_allclose(known[0, growth.given], values, rtol=1e-9)
        if rng.random() < 0.5:
            known = known._merged()
    whole = np.stack([expected[id_] for id_ in ids])
    assert isinstance(known.stored, QuantisedTriangles)
    assert (relative_errors(known[0], whole) < 1.02 * TOLERANCE).all()
    assert_array_equal(pickle.loads(pickle.dumps(known))[0], known[0])
    some = rng.choice(len(ids), 3)
    assert_array_equal(known.take(some)._merged()[0], known._merged()[0, some])


def test_only_many_rows_that_are_alike_are_rounded(monkeypatch):
    rng = np.random.default_rng(0)
    light, heavy = (
        packed(posteriors(rng, 1000, 17, *of)) for of in ((2,), (9, float, 3.0))
    )
    assert compact(light) is light
    monkeypatch.setattr(triangles, "MIN_BYTES", light.nbytes)
    assert compact(light).nbytes < 0.16 * light.nbytes
    assert compact(heavy) is heavy
    # A single element is a variance, which takes as much.
    alone = np.ones((light.nbytes // 4, 1), dtype=np.float32)
    assert compact(alone) is alone


X, Y = make_ratings(300, 80, 1500, random_state=0)
FIRST, LAST = slice(0, 1300), slice(1300, None)


@pytest.fixture(scope="module", params=["vb", "als"])
def pair(request):
    """A fit with whole covariances, and the same fit with rounded ones."""
    model = MFRegressor(5, solver=request.param, rank_by="rating", clip=False)
    models = [clone(model).fit(X[FIRST], Y[FIRST])]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(triangles, "MIN_BYTES", 0)
        models.append(clone(model).fit(X[FIRST], Y[FIRST]))
    for model, stored in zip(models, (np.ndarray, QuantisedTriangles), strict=True):
        for rows in (model._model.users, model._model.items):
            assert isinstance(rows.covariance.stored, stored)
    return models


def test_rounding_moves_no_prediction_and_no_deviation_by_half_the_tolerance(pair):
    exact, model = pair
    assert_array_equal(model.predict(X), exact.predict(X))
    if exact.solver == "vb":
        deviations = [fitted.predict(X, return_std=True)[1] for fitted in pair]
        assert_allclose(*deviations, rtol=TOLERANCE / 2)
        scores = [
            fitted.recommend(n_items=5, strategy="lower_bound", return_scores=True)[1]
            for fitted in pair
        ]
        assert_allclose(*scores, atol=TOLERANCE * deviations[0].max())


@pytest.mark.parametrize("change", ["partial_fit", "forget rows", "forget users"])
def test_changes_of_a_fit_are_those_by_whole_covariances(pair, change):
    """Within a hundredth of what they change at most."""
    before = pair[0].predict(X)
    changed = []
    for fitted in pair:
        model = copied(fitted)
        if change == "partial_fit":
            for rows in np.array_split(np.arange(1300, 1500), 5):
                model.partial_fit(X.iloc[rows], Y[rows])
        elif change == "forget rows":
            model.forget(X[FIRST][::3], Y[FIRST][::3])
        else:
            is_theirs = (X["user"] < 40).to_numpy() & (np.arange(1500) < 1300)
            model.forget(X[is_theirs], Y[is_theirs], users=[44, 45])
        changed.append(model)
    exact, found = (model.predict(X) for model in changed)
    assert_allclose(found, exact, atol=0.01 * np.abs(exact - before).max())
    if pair[0].solver == "vb":
        deviations = [model.predict(X, return_std=True)[1] for model in changed]
        assert_allclose(*deviations, rtol=TOLERANCE / 2)


@pytest.mark.parametrize("is_updated", [False, True])
def test_copies_of_rounded_fits_answer_as_they_do(pair, is_updated):
    model, file = copied(pair[1]), io.BytesIO()
    if is_updated:
        model.partial_fit(X[LAST], Y[LAST])
    model.save(file)
    for copy in (skrec.load(file), pickle.loads(pickle.dumps(model))):
        covariance = copy._model.users.covariance
        assert isinstance(covariance.stored, QuantisedTriangles)
        assert_array_equal(covariance[0], model._model.users.covariance[0])
        assert_array_equal(copy.predict(X), model.predict(X))
        copy.partial_fit(X[:9], Y[:9])
        expected = copied(model).partial_fit(X[:9], Y[:9])
        assert_array_equal(copy.predict(X), expected.predict(X))
