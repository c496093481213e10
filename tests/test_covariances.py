"""Covariances of rows, with updated ones apart."""

import pickle

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from skrec._alternating.covariances import PackedCovariance
from skrec._data.vocabulary import Growth


def random_covariances(rng, *shape):
    roots = rng.normal(size=(*shape, shape[-1]))
    return roots @ roots.swapaxes(-1, -2)


@given(seed=st.integers(0, 2**16), n_updates=st.integers(1, 4))
@settings(max_examples=40)
def test_packed_covariances_are_those_of_a_whole_copy(seed, n_updates):
    rng = np.random.default_rng(seed)
    stored = random_covariances(rng, 5, 2)
    patched, expected = PackedCovariance.of(stored), dict(enumerate(stored))
    ids = np.arange(5)
    for _ in range(n_updates):
        factor = rng.uniform(0.5, 2)
        patched = patched * factor
        expected = {id_: factor * value for id_, value in expected.items()}
        further = np.unique(rng.choice(12, rng.integers(1, 4)))
        rows = np.where(np.isin(further, ids), np.searchsorted(ids, further), -1)
        growth = Growth.of(ids, further, rows)
        values = random_covariances(rng, len(further), 2)
        patched = patched.with_updates(PackedCovariance.of(values), growth)
        expected |= dict(zip(further, values, strict=True))
        ids = growth.ids
    whole = np.stack([expected[id_] for id_ in ids])
    assert_allclose(patched[0], whole)
    some = rng.choice(len(ids), 3)
    assert_allclose(patched[0, some], whole[some])
    assert_allclose(pickle.loads(pickle.dumps(patched))[0], whole)
