"""Compute exact ranks by counting the notes of the pool that score above a query's target; nothing is sorted.

Shape suffixes: Q queries (one a query-target pair), P notes of the pool, D width of an embedding.

A target's rank follows from two counts: the pool scores strictly above its own, and those equal to it. Scores come
in blocks of `QUERY_BLOCK` x `POOL_BLOCK`, so that beside the embeddings memory is one block (10 MB) whatever the size
of the pool. Where the model works, few scores of a block reach the target's, and only those are looked at a second
time. Pool 530,000 x 64 on one busy core: 0.64 ms a query, 1.17 times the bare matrix product (1.34 where the model
knows nothing), a 66th of sorting the pool (`benchmarks/evaluation.py`).

The tie rule: equal scores are in random order, and every figure is its expectation over that order. So a model that
gives all notes the same embedding scores exactly what chance scores: neither the 1.0 that counting only better scores
would give it, nor the 0.0 of the pessimistic rule. Scores within `TIE` of each other are equal: the same note twice in
the pool must tie, although a matrix product may round its two rows differently (float32: about 1e-7 for unit vectors).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]
Bool = npt.NDArray[np.bool_]

QUERY_BLOCK = 512
POOL_BLOCK = 4096
UNIT_BLOCK = 8192
TIE = 1e-6
NOT_IN_POOL = -1

# A block with fewer than one hit in `_SPARSE`, judged by every `_SAMPLE`th row, is counted hit by hit.
_SPARSE = 64
_SAMPLE = 16

# Booleans are counted eight at a time, as the bytes of a 64-bit sum: no byte may count past 255.
_LANES = 8
_ROUNDS = 128


class Scorer(Protocol):
    """Scores of queries against the pool, block by block."""

    @property
    def shape(self) -> tuple[int, int]:
        """Numbers of queries and of notes in the pool: (Q, P)."""

    def margins(self, rows: slice, columns: slice, thresholds: F32) -> F32:
        """Score some queries with some notes, less the queries' `thresholds` f32[Q]: f32[q, p].

        The caller may overwrite the result, and must be done with it before the next call.
        """

    def at(self, columns: I64) -> F32:
        """Score each query with the one note of the pool that `columns` i64[Q] names for it: f32[Q]."""


@dataclass(frozen=True)
class Ranks:
    """Where the target of each query stands in the pool.

    Attributes:
        above: i64[Q], notes of the pool that score strictly above the target.
        ties: i64[Q], other notes of the pool that score as the target does.
        candidates: i64[Q], notes that could have been recommended: the pool without the query itself.
    """

    above: I64
    ties: I64
    candidates: I64

    def __len__(self) -> int:
        return len(self.above)

    def __getitem__(self, rows: Bool | I64) -> Ranks:
        return Ranks(self.above[rows], self.ties[rows], self.candidates[rows])

    @classmethod
    def by_chance(cls, candidates: I64) -> Ranks:
        """Return the ranks of a scorer that knows nothing: everything ties, so that recall@k is k / candidates."""
        return cls(np.zeros_like(candidates), candidates - 1, candidates)

    def expected(self) -> F64:
        """Return the expected rank of each target, f64[Q]; the best is 1."""
        rank: F64 = self.above + self.ties / 2 + 1
        return rank

    def recall(self, k: int) -> F64:
        """Return the chance that each target is among the first `k`, f64[Q]; 0 or 1 where nothing ties."""
        chance: F64 = np.clip((k - self.above) / (self.ties + 1), 0.0, 1.0)
        return chance

    def reciprocal(self) -> F64:
        """Return the expectation of 1 / rank for each target, f64[Q]."""
        last = int((self.above + self.ties + 1).max(initial=1))
        return self._mean_gain(1.0 / np.arange(1, last + 1, dtype=np.float64))

    def ndcg(self, k: int) -> F64:
        """Return the expected NDCG@k (one relevant note), f64[Q]: 1 / log2(rank + 1) within the first `k`, else 0."""
        return self._mean_gain(1.0 / np.log2(np.arange(2, k + 2, dtype=np.float64)))

    def _mean_gain(self, gain: F64) -> F64:
        """Mean of the gains of the places above + 1 .. above + ties + 1; places beyond `gain` are worth nothing."""
        total = np.concatenate([[0.0], np.cumsum(gain)])
        last = np.minimum(self.above + self.ties + 1, len(gain))
        mean: F64 = (total[last] - total[np.minimum(self.above, len(gain))]) / (self.ties + 1)
        return mean


class Cosine:
    """Cosine similarity of embeddings. A zero vector (a note without image) is equally far from every note."""

    def __init__(self, queries_QD: npt.NDArray[np.floating], pool_PD: npt.NDArray[np.floating]) -> None:
        """Take embeddings of any float type, normalised or not.

        Raises:
            ValueError: an embedding is not finite; its scores would be neither above nor below any other.
        """
        self._queries_QD = np.empty(queries_QD.shape, np.float32)
        _write_units("query", queries_QD, self._queries_QD)
        # A column of ones lets the matrix product subtract the thresholds itself: comparing a block with one number
        # is three times cheaper than comparing it with a number a row.
        self._pool_PD1 = np.ones((len(pool_PD), pool_PD.shape[1] + 1), np.float32)
        _write_units("pool", pool_PD, self._pool_PD1[:, :-1])
        self._buffer = np.empty(QUERY_BLOCK * POOL_BLOCK, np.float32)

    @property
    def shape(self) -> tuple[int, int]:
        """Numbers of queries and of notes in the pool: (Q, P)."""
        return len(self._queries_QD), len(self._pool_PD1)

    def margins(self, rows: slice, columns: slice, thresholds: F32) -> F32:
        """See `Scorer.margins`; the block lies in a buffer that the next call uses again."""
        left = np.concatenate([self._queries_QD[rows], -thresholds[rows, None]], axis=1)
        right = self._pool_PD1[columns]
        size = len(left) * len(right)
        return np.matmul(left, right.T, out=self._buffer[:size].reshape(len(left), len(right)))

    def at(self, columns: I64) -> F32:
        """See `Scorer.at`."""
        scores = np.empty(len(columns), np.float32)
        for rows in blocks(len(columns), QUERY_BLOCK):
            pool_QD = self._pool_PD1[columns[rows], :-1]
            scores[rows] = np.einsum("qd,qd->q", self._queries_QD[rows], pool_QD)
        return scores


def count_ranks(scorer: Scorer, targets: I64, selves: I64) -> Ranks:
    """Rank each query's target in the pool, the query itself left out.

    Args:
        scorer: scores of Q queries against P notes.
        targets: i64[Q], column of each query's target in the pool.
        selves: i64[Q], column of the query itself in the pool, or `NOT_IN_POOL`.

    Raises:
        ValueError: a column is outside the pool, or a query is its own target.
    """
    n_queries, n_pool = scorer.shape
    _check_columns(targets, selves, n_queries, n_pool)
    thresholds = scorer.at(targets)
    above = np.zeros(n_queries, np.int64)
    at_least = np.zeros(n_queries, np.int64)
    hits = np.empty(QUERY_BLOCK * POOL_BLOCK, np.bool_)
    for rows in blocks(n_queries, QUERY_BLOCK):
        for columns in blocks(n_pool, POOL_BLOCK):
            margins = scorer.margins(rows, columns, thresholds)
            for excluded in (targets[rows], selves[rows]):
                here = np.flatnonzero((excluded >= columns.start) & (excluded < columns.stop))
                margins[here, excluded[here] - columns.start] = -np.inf
            better, equal_or_better = _count_block(margins, hits[: margins.size].reshape(margins.shape))
            above[rows] += better
            at_least[rows] += equal_or_better
    candidates = n_pool - (selves != NOT_IN_POOL).astype(np.int64)
    return Ranks(above, at_least - above, candidates)


def nearest(scorer: Scorer, row: int, k: int, own_column: int) -> list[tuple[int, float]]:
    """Find the `k` notes of the pool that score highest with one query: (column, score), best first.

    `own_column` is the query itself in the pool, or `NOT_IN_POOL`. Ties are in the order of the pool.
    """
    n_queries, n_pool = scorer.shape
    zeros = np.zeros(n_queries, np.float32)
    parts = [scorer.margins(slice(row, row + 1), c, zeros)[0].copy() for c in blocks(n_pool, POOL_BLOCK)]
    scores = np.concatenate(parts)
    if own_column != NOT_IN_POOL:
        scores[own_column] = -np.inf
    k = min(k, n_pool - (own_column != NOT_IN_POOL))
    order = np.argsort(-scores, kind="stable")[:k]
    return [(int(column), float(scores[column])) for column in order]


def blocks(n: int, size: int) -> list[slice]:
    """Split 0 .. n into ranges of `size`, the last one shorter."""
    return [slice(start, min(start + size, n)) for start in range(0, n, size)]


def _count_block(margins: F32, hits: Bool) -> tuple[I64, I64]:
    """i64[q], i64[q]: margins of each row above the tolerance, and those not below it.

    Args:
        margins: f32[q, p], contiguous.
        hits: bool[q, p], overwritten.
    """
    n_rows, width = margins.shape
    np.greater_equal(margins, np.float32(-TIE), out=hits)
    some = hits[::_SAMPLE]
    if width % _LANES == 0 and np.count_nonzero(some) * _SPARSE <= some.size:
        # A model that works: few notes come near a target. Look at these alone, eight at a time, not at all again.
        near = np.flatnonzero(hits.reshape(-1).view(np.uint64).astype(np.bool_))
        close = margins.reshape(-1, _LANES)[near]
        row = near // (width // _LANES)
        return _sums(close > TIE, row, n_rows), _sums(close >= -TIE, row, n_rows)
    at_least = _row_counts(hits)
    np.greater(margins, np.float32(TIE), out=hits)
    # Ties are rare: when the totals agree, so do the rows, and a second count by row is saved.
    return at_least if np.count_nonzero(hits) == at_least.sum() else _row_counts(hits), at_least


def _sums(hits: Bool, row: I64, n_rows: int) -> I64:
    """i64[q]: hits bool[h, 8] of each row, `row` i64[h] naming theirs."""
    return np.bincount(row, hits.sum(axis=1), n_rows).astype(np.int64)


def _row_counts(hits: Bool) -> I64:
    """i64[q]: hits of each row. NumPy's own sum by row takes eight times as long (measured, 512 x 4,096)."""
    width = hits.shape[1]
    whole = width - width % (_LANES * _ROUNDS)
    counts: I64 = np.count_nonzero(hits[:, whole:], axis=1).astype(np.int64)
    if whole:
        words = np.ascontiguousarray(hits[:, :whole]).view(np.uint64).reshape(len(hits), -1, _ROUNDS)
        lanes = np.add.reduce(words, axis=2).view(np.uint8).reshape(len(hits), -1)
        counts += lanes.sum(axis=1, dtype=np.int64)
    return counts


def _write_units(what: str, rows_ND: npt.NDArray[np.floating], into_ND: F32) -> None:
    """Scale rows to length 1, in blocks: a pool of wide vectors is large enough once."""
    bad = 0
    for some in blocks(len(rows_ND), UNIT_BLOCK):
        rows = np.asarray(rows_ND[some], np.float32)
        bad += int((~np.isfinite(rows).all(axis=1)).sum())
        norms = np.linalg.norm(rows, axis=1, keepdims=True)
        if not bad:
            np.divide(rows, np.where(norms > 0, norms, 1.0), out=into_ND[some])
    if bad:
        raise ValueError(f"{bad} of {len(rows_ND)} {what} embeddings are not finite")


def _check_columns(targets: I64, selves: I64, n_queries: int, n_pool: int) -> None:
    if len(targets) != n_queries or len(selves) != n_queries:
        raise ValueError(f"{n_queries} queries, but {len(targets)} targets and {len(selves)} own columns")
    if n_queries == 0:
        return
    if targets.min() < 0 or targets.max() >= n_pool or selves.min() < NOT_IN_POOL or selves.max() >= n_pool:
        raise ValueError(f"a query or its target lies outside the pool of {n_pool} notes")
    own = int((targets == selves).sum())
    if own:
        raise ValueError(f"{own} queries are their own target")
