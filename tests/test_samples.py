"""Batches of the samples of several processes, against those of one."""

from itertools import pairwise

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from skrec._gradient.samples import Part, Sampler, Samples, numbers_of_range
from skrec._share import Share

N_ITEMS = 7


class Shard(Share):
    """Samples from one number to another, of so many."""

    has_all = False

    def __init__(self, start, n_all):
        self.start, self.n_all = start, n_all

    def n_before(self, n_entries):
        return self.start

    def sum(self, value):
        return float(self.n_all)


def make_samples(rng, n):
    users = torch.as_tensor(np.sort(rng.integers(9, size=n)))
    items = torch.as_tensor(rng.integers(N_ITEMS, size=n))
    numbers = torch.arange(n, dtype=torch.float32)
    return Samples(users, items, numbers[:, None], numbers, numbers + 1)


def make_sampler(samples, n_negatives, share=None):
    generator = torch.Generator().manual_seed(0)
    seen = (samples.users * N_ITEMS + samples.items).unique()
    args = () if share is None else (share,)
    return Sampler(samples, generator, N_ITEMS, n_negatives, seen, *args)


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 999), st.integers(0, 3), st.lists(st.integers(0, 9), min_size=2))
def test_batches_of_processes_are_parts_of_those_of_one(seed, n_negatives, sizes):
    rng = np.random.default_rng(seed)
    bounds = np.append(0, np.cumsum(np.maximum(sizes, 1))).tolist()
    n_all = bounds[-1]
    samples = make_samples(rng, n_all)
    one = make_sampler(samples, n_negatives)
    others = [
        make_sampler(samples[start:stop].joined(), n_negatives, Shard(start, n_all))
        for start, stop in pairwise(bounds)
    ]
    order = one.order()
    assert (order.sort().values == torch.arange(n_all)).all()
    assert all(torch.equal(other.order(), order) for other in others)
    for rows in order.tensor_split(3):
        expected = one.batch(rows)
        parts = [other.batch(rows) for other in others]
        places = torch.cat([other.own(rows)[1] for other in others])
        assert len(places) == len(rows)
        for name in ("users", "items", "context", "target", "weight"):
            whole = getattr(expected, name)
            joined = torch.cat([getattr(part, name) for part in parts])
            if name == "weight" and n_negatives:
                # Of users of two parts, each knows the items of its own.
                joined, whole = joined[:, :1], whole[:, :1]
            assert torch.equal(joined, whole[places])


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 999))
def test_no_negative_is_an_item_that_its_user_has_seen(seed):
    samples = make_samples(np.random.default_rng(seed), 30)
    sampler = make_sampler(samples, 4)
    drawn = sampler.with_negatives(Part(samples, None, 30))
    assert drawn.items.shape == drawn.target.shape == drawn.weight.shape == (30, 5)
    assert torch.equal(drawn.items[:, 0], samples.items)
    assert not drawn.target[:, 1:].any()
    known = set(zip(samples.users.tolist(), samples.items.tolist(), strict=True))
    for user, items, weights in zip(
        drawn.users.tolist(), drawn.items.tolist(), drawn.weight.tolist(), strict=True
    ):
        for item, weight in zip(items[1:], weights[1:], strict=True):
            assert weight == (0 if (user, item) in known else weights[0])


def test_processes_have_random_numbers_of_their_own():
    samples = make_samples(np.random.default_rng(0), 4)
    first, second = (make_sampler(samples, 0, Shard(start, 8)) for start in (0, 4))
    drawn = [
        torch.rand(3, generator=s.own_generator()).tolist() for s in (first, second)
    ]
    assert drawn[0] != drawn[1]
    assert first.own_generator() is not first.generator
    one = make_sampler(samples, 0)
    assert one.own_generator() is one.generator


def test_numbers_of_a_range_are_those_from_its_start():
    numbers, places = numbers_of_range(torch.tensor([7, 2, 9, 4, 5]), 4, 4)
    assert numbers.tolist() == [3, 0, 1]
    assert places.tolist() == [0, 3, 4]
