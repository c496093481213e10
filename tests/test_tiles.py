"""Tiles of rows: neither their size nor the number of threads matters."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import default_threads, make_problem, random_posterior, run

from skrec._alternating.als import als
from skrec._alternating.gibbs import gibbs
from skrec._alternating.layout import ALONE_TILE_SIZE
from skrec._alternating.moments import SideMoments
from skrec._alternating.tiles import SideConditional, in_turn, parallel_map
from skrec._alternating.update import update
from skrec._alternating.vb import vb
from skrec._threads import torch_threads


@pytest.fixture
def small_tiles(monkeypatch):
    """Tiles of few rows, which a pool of threads takes however little work they are."""
    monkeypatch.setattr("skrec._alternating.layout.TILE_SIZE", 40)
    monkeypatch.setattr("skrec._alternating.tiles.MIN_POOL_WORK", 0)


@pytest.mark.parametrize(
    ("n_rows", "n_factors", "is_shared"),
    [(20, 2, False), (20, 32, False), (1000, 2, False), (1000, 32, True)],
)
def test_threads_share_work_that_is_worth_it(n_rows, n_factors, is_shared):
    problem, _ = make_problem(n_users=n_rows, n_items=n_rows, n_factors=n_factors)
    with default_threads(2):
        with parallel_map(problem) as tile_map:
            assert (tile_map is not map) == is_shared
        with torch_threads(1), parallel_map(problem) as tile_map:
            assert tile_map is (in_turn if is_shared else map)


def test_a_thread_alone_takes_fewer_tiles_than_threads_that_share_them():
    layout = make_problem(n_factors=8)[0].layout
    n_rows = 2000
    alone, shared = (layout.tile_rows(n_rows, m) for m in (map, in_turn))
    assert shared < alone == n_rows
    assert layout.tile_rows(10**6, map) * layout.n_packed <= ALONE_TILE_SIZE


def test_tiles_of_double_precision_have_half_as_many_rows():
    layout = make_problem(n_factors=8)[0].layout
    for tile_map in (map, in_turn):
        single, double = (layout.tile_rows(10**5, tile_map, size) for size in (4, 8))
        assert double == pytest.approx(single / 2, rel=0.05)


@pytest.mark.parametrize("solver", [vb, gibbs, als])
def test_the_number_of_threads_does_not_matter(small_tiles, solver):
    args = {vb: [], gibbs: [np.random.RandomState], als: [0.3]}[solver]
    threads, means = torch.get_num_threads(), []
    try:
        for n_threads in (1, 3):
            torch.set_num_threads(n_threads)
            problem, _ = make_problem(n_users=60)
            drawn = [arg(0) if callable(arg) else arg for arg in args]
            means.append(run(solver, problem, 4, *drawn)[-1].users.mean)
            assert torch.get_num_threads() == n_threads
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(*means)


def test_an_update_depends_neither_on_tiles_nor_on_threads(small_tiles, monkeypatch):
    problem, _ = make_problem(n_users=60, n_context=1)
    start = random_posterior(problem, is_certain=False)
    threads, states = torch.get_num_threads(), []
    try:
        for tile_size, n_threads in ((2**17, 1), (40, 1), (40, 3)):
            monkeypatch.setattr("skrec._alternating.layout.TILE_SIZE", tile_size)
            torch.set_num_threads(n_threads)
            states.append(
                update(
                    problem,
                    start,
                    is_certain=False,
                    past_weight=50.0,
                    max_sweeps=3,
                    tol=0.0,
                )
            )
            assert torch.get_num_threads() == n_threads
    finally:
        torch.set_num_threads(threads)
    whole, tiled, threaded = states
    assert torch.equal(tiled.users.mean, threaded.users.mean)
    for name in ("mean", "covariance"):
        found, expected = getattr(tiled.users, name), getattr(whole.users, name)
        np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("is_updated", [False, True])
def test_tiles_have_the_conditional_of_the_whole(monkeypatch, is_updated):
    problem, _ = make_problem(unobserved_weight=0.0 if is_updated else 0.3)
    state = random_posterior(problem, is_certain=False)
    side, layout = state.users, problem.layout
    side = replace(side, row_priors=side) if is_updated else side

    def moments():
        given = SideConditional.given(
            problem.users, side, state.items, 2.0, layout, map
        )
        parts = given.map_tiles(
            lambda rows, conditional: (rows, *conditional.moments()[:2])
        )
        rows, means, covariances = zip(*parts, strict=True)
        return rows, torch.cat(means), torch.cat(covariances)

    (whole,), *expected = moments()
    assert whole == slice(0, len(problem.users))
    monkeypatch.setattr("skrec._alternating.layout.ALONE_TILE_SIZE", 40)
    rows, *found = moments()
    assert len(rows) > 1
    assert [tile.start for tile in rows[1:]] == [tile.stop for tile in rows[:-1]]
    for part, moment in zip(found, expected, strict=True):
        np.testing.assert_allclose(part, moment, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("biased", [True, False])
def test_sums_of_a_block_of_tiles_are_those_of_each_tile(monkeypatch, biased):
    problem, _ = make_problem(n_users=50, n_factors=24, biased=biased)
    layout = problem.layout
    assert layout.tile_rows(50, map) == 50
    expected = run(vb, problem, 3)[-1]
    monkeypatch.setattr("skrec._alternating.layout.TILE_SIZE", 9 * layout.n_packed)
    monkeypatch.setattr("skrec._alternating.layout.MAX_BLOCK_ROWS", 20)
    assert (layout.tile_rows(50, map), layout.block_rows(50, map)) == (9, 20)
    found = run(vb, problem, 3)[-1]
    for name in ("mean", "covariance"):
        pair = getattr(found.users, name), getattr(expected.users, name)
        np.testing.assert_allclose(*pair, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("biased", [True, False])
@pytest.mark.parametrize("n_factors", [2, 3])
def test_large_tables_of_moments_are_summed_by_parts(monkeypatch, n_factors, biased):
    problem, _ = make_problem(n_users=60, n_factors=n_factors, biased=biased)
    expected = run(vb, problem, 3)[-1]
    users, layout = expected.users, problem.layout
    two_columns = 2 * len(users.mean) * users.mean.element_size()
    monkeypatch.setattr("skrec._alternating.moments.MAX_TABLE_BYTES", two_columns)
    arguments = users.mean, users.covariance, users.relative_precision, layout, map
    assert not SideMoments.of(*arguments, problem.items).tables
    found = run(vb, problem, 3)[-1]
    for side in ("users", "items"):
        for name in ("mean", "covariance"):
            of_parts, whole = (
                getattr(getattr(state, side), name) for state in (found, expected)
            )
            torch.testing.assert_close(of_parts, whole, rtol=1e-12, atol=1e-14)
