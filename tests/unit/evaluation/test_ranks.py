"""Counting ranks against a full matrix in float64, with ties, duplicates, self-exclusion and tiny blocks."""

from __future__ import annotations

import math
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from notellm2.evaluation import ranks as module
from notellm2.evaluation.ranks import NOT_IN_POOL, Cosine, Ranks, count_ranks, nearest


def naive(scores: np.ndarray, targets: np.ndarray, selves: np.ndarray) -> tuple[list[int], list[int]]:
    """(above, ties) of every query from all scores at once."""
    above, ties = [], []
    for row, target, own in zip(scores, targets, selves, strict=True):
        others = [s for j, s in enumerate(row) if j not in (target, own)]
        above.append(sum(s > row[target] + 1e-6 for s in others))
        ties.append(sum(abs(s - row[target]) <= 1e-6 for s in others))
    return above, ties


def cosines(queries: np.ndarray, pool: np.ndarray) -> np.ndarray:
    def unit(rows: np.ndarray) -> np.ndarray:
        norms = np.linalg.norm(rows.astype(np.float64), axis=1, keepdims=True)
        return rows / np.where(norms > 0, norms, 1.0)

    return unit(queries) @ unit(pool).T


@st.composite
def retrieval_tests(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Small integer vectors: many zero rows, duplicates and exact ties, and no two cosines closer than 1e-3."""
    width = draw(st.integers(1, 3))
    row = st.lists(st.integers(-2, 2), min_size=width, max_size=width)
    pool = np.array(draw(st.lists(row, min_size=2, max_size=40)), np.float32)
    n = draw(st.integers(1, 12))
    queries, targets, selves = [], [], []
    for _ in range(n):
        target = draw(st.integers(0, len(pool) - 1))
        own = draw(st.integers(NOT_IN_POOL, len(pool) - 1).filter(lambda c, t=target: c != t))
        queries.append(pool[own] if own != NOT_IN_POOL else draw(row))
        targets.append(target)
        selves.append(own)
    return np.array(queries, np.float32), pool, np.array(targets), np.array(selves)


@settings(max_examples=200, deadline=None)
@given(
    retrieval_tests(),
    st.sampled_from([(1, 1), (2, 3), (3, 8), (5, 16), (512, 4096)]),
    st.sampled_from([0, 64, 10**9]),
)
def test_counts_equal_the_full_matrix(
    case: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray], blocks: tuple[int, int], sparse: int
) -> None:
    """With blocks counted hit by hit always (0), where it pays (64) and never; k up to beyond the pool."""
    queries, pool, targets, selves = case
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_SPARSE", sparse)
        patch.setattr(module, "QUERY_BLOCK", blocks[0])
        patch.setattr(module, "POOL_BLOCK", blocks[1])
        ranks = count_ranks(Cosine(queries, pool), targets, selves)
    above, ties = naive(cosines(queries, pool), targets, selves)
    assert ranks.above.tolist() == above
    assert ranks.ties.tolist() == ties
    assert ranks.candidates.tolist() == [len(pool) - (own != NOT_IN_POOL) for own in selves]
    for k in (1, 3, len(pool), len(pool) + 7):
        chances = [sum(place < k for place in range(a, a + t + 1)) / (t + 1) for a, t in zip(above, ties, strict=True)]
        assert ranks.recall(k).tolist() == pytest.approx(chances)
    assert ranks.recall(len(pool)).tolist() == [1.0] * len(queries)


def test_near_targets_are_counted_hit_by_hit_with_their_copies() -> None:
    rng = np.random.default_rng(5)
    pool = rng.standard_normal((8200, 24), dtype=np.float32)  # the last block is no multiple of eight
    pool[8000:] = pool[:200]
    targets = rng.integers(0, 400, 150)
    queries = pool[targets] + 1.2 * rng.standard_normal((150, 24), dtype=np.float32)
    ranks = count_ranks(Cosine(queries, pool), targets, np.full(150, NOT_IN_POOL))
    above, ties = naive(cosines(queries, pool), targets, np.full(150, NOT_IN_POOL))
    assert ranks.ties.tolist() == ties == [int(target < 200) for target in targets]
    assert np.abs(ranks.above - above).sum() <= 1
    assert 0 < ranks.above.mean() < 100


def test_counts_equal_the_full_matrix_over_several_blocks() -> None:
    rng = np.random.default_rng(3)
    pool = rng.standard_normal((9000, 24), dtype=np.float32)
    pool[4500:] = pool[:4500]  # every note twice, in different blocks
    queries = rng.standard_normal((700, 24), dtype=np.float32)
    targets = rng.integers(0, 9000, 700)
    selves = np.where(rng.random(700) < 0.5, (targets + 17) % 9000, NOT_IN_POOL)
    ranks = count_ranks(Cosine(queries, pool), targets, selves)
    scores = cosines(queries, pool)
    own_score = np.take_along_axis(scores, targets[:, None], 1)
    scores[np.arange(700), targets] = -9
    inside = np.flatnonzero(selves != NOT_IN_POOL)
    scores[inside, selves[inside]] = -9
    assert (ranks.ties >= 1).all()
    # Two of 6.3 million scores may round across the tolerance; more would be a mistake.
    assert np.abs(ranks.above - (scores > own_score + 1e-6).sum(axis=1)).sum() <= 2
    assert np.abs(ranks.ties - (np.abs(scores - own_score) <= 1e-6).sum(axis=1)).sum() <= 2


def test_the_query_itself_is_no_candidate() -> None:
    pool = np.array([[1, 0], [0.9, 0.1], [0, 1]], np.float32)
    ranks = count_ranks(Cosine(pool[:1], pool), np.array([1]), np.array([0]))
    assert (ranks.above[0], ranks.ties[0], ranks.candidates[0]) == (0, 0, 2)
    outside = count_ranks(Cosine(pool[:1], pool), np.array([1]), np.array([NOT_IN_POOL]))
    assert (outside.above[0], outside.candidates[0]) == (1, 3)


def test_a_collapsed_model_scores_as_chance() -> None:
    same = np.ones((50, 8), np.float32)
    ranks = count_ranks(Cosine(same[:4], same), np.arange(4), np.full(4, NOT_IN_POOL))
    assert ranks.recall(10).tolist() == [0.2] * 4
    chance = Ranks.by_chance(ranks.candidates)
    assert chance.recall(10).tolist() == [0.2] * 4
    assert chance.expected().tolist() == [25.5] * 4


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 30), st.integers(0, 30), st.integers(1, 70))
def test_figures_are_the_mean_over_all_orders_of_the_ties(above: int, ties: int, k: int) -> None:
    ranks = Ranks(np.array([above]), np.array([ties]), np.array([100]))
    places = range(above + 1, above + ties + 2)
    n = len(places)
    assert ranks.expected()[0] == pytest.approx(sum(places) / n)
    assert ranks.recall(k)[0] == pytest.approx(sum(p <= k for p in places) / n)
    assert ranks.reciprocal()[0] == pytest.approx(sum(1 / p for p in places) / n)
    assert ranks.ndcg(k)[0] == pytest.approx(sum(1 / math.log2(p + 1) for p in places if p <= k) / n)


def test_nearest_leaves_the_query_out_and_stops_at_the_pool() -> None:
    pool = np.array([[1, 0], [0.8, 0.6], [0, 1], [1, 0]], np.float32)
    scorer = Cosine(pool[:1], pool)
    assert [column for column, _ in nearest(scorer, 0, 10, 0)] == [3, 1, 2]
    assert nearest(scorer, 0, 2, NOT_IN_POOL)[0] == (0, pytest.approx(1.0))


def test_vectors_that_are_not_finite_are_refused() -> None:
    pool = np.ones((3, 2), np.float32)
    pool[1, 0] = np.nan
    with pytest.raises(ValueError, match="1 of 3 pool embeddings are not finite"):
        Cosine(np.ones((1, 2), np.float32), pool)
    parted = np.ones((module.UNIT_BLOCK + 1, 2), np.float32)
    parted[[0, -1], [0, 1]] = np.inf
    with pytest.raises(ValueError, match=f"2 of {len(parted)} pool embeddings are not finite"):
        Cosine(np.ones((1, 2), np.float32), parted)


def test_a_wide_pool_is_held_once() -> None:
    """530,000 x 768 of a vision encoder are 1.6 GB: normalising them must not take that again twice."""
    pool = np.random.default_rng(7).standard_normal((3 * module.UNIT_BLOCK, 64), dtype=np.float32)
    tracemalloc.start()
    scorer = Cosine(pool[:2], pool)
    held, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert pool.nbytes < held
    assert peak - held < pool.nbytes / 2
    whole = pool / np.linalg.norm(pool, axis=1, keepdims=True)
    zeros = np.zeros(2, np.float32)
    last = slice(len(pool) - 10, len(pool))
    np.testing.assert_allclose(scorer.margins(slice(0, 2), last, zeros), whole[:2] @ whole[last].T, atol=1e-6)


@pytest.mark.parametrize(
    ("targets", "selves", "message"),
    [([3], [-1], "outside the pool"), ([0], [5], "outside the pool"), ([1], [1], "own target"), ([], [], "1 queries")],
)
def test_columns_outside_the_pool_are_refused(targets: list[int], selves: list[int], message: str) -> None:
    scorer = Cosine(np.ones((1, 2), np.float32), np.ones((3, 2), np.float32))
    with pytest.raises(ValueError, match=message):
        count_ranks(scorer, np.array(targets, np.int64), np.array(selves, np.int64))


def test_no_queries_give_no_ranks() -> None:
    scorer = Cosine(np.empty((0, 2), np.float32), np.ones((3, 2), np.float32))
    ranks = count_ranks(scorer, np.empty(0, np.int64), np.empty(0, np.int64))
    assert len(ranks) == 0
    assert len(ranks.reciprocal()) == 0
