"""Health of the embedding space, whatever the test pairs say: is it spread out, or does it collapse on a few notes?

Shape suffixes: A notes that ask, P notes of the pool, D width, T test pairs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from notellm2.evaluation.ranks import F32, F64, I64, TIE, Bool

REACH = 100
"""Length of the lists in which a note of the pool must appear to count as reachable."""
RECOMMENDED = 10
"""Length of the lists whose notes' age is looked at."""
_ASKERS = 20_000
_SPREAD_NOTES = 2048
_BLOCK_SCORES = 8_000_000
_SEED = 0


@dataclass(frozen=True)
class Space:
    """One model's embeddings, rows of length 1.

    Attributes:
        queries_TD: f32[T, D], queries of the test pairs.
        targets_TD: f32[T, D], their targets.
        pool_PD: f32[P, D].
        young_P: bool[P], notes younger than a day; None where the data does not say.
    """

    queries_TD: F32
    targets_TD: F32
    pool_PD: F32
    young_P: Bool | None


def describe_space(space: Space) -> dict[str, Any]:
    """Compute the figures of `space.json`, as docs/reference/metrics.md explains them.

    `alignment` and `uniformity` are Wang and Isola's (ICML 2020, section 4.1.2, alpha 2, t 2); `effective_rank` is Roy
    and Vetterli's (EUSIPCO 2007): the exponential of the entropy of the normalised singular values, at most `dim`.
    Hubness, duplicates and young recommendations come from the lists of every note of the pool as a query, of 20,000
    drawn by a fixed seed where there are more (`askers`).
    """
    rng = np.random.default_rng(_SEED)
    n_pool, dim = space.pool_PD.shape
    askers = np.sort(rng.permutation(n_pool)[:_ASKERS])
    reached = np.zeros(n_pool, np.bool_)
    duplicates = 0
    young = 0
    recommended = 0
    step = max(1, _BLOCK_SCORES // n_pool)
    for start in range(0, len(askers), step):
        block = askers[start : start + step]
        columns_AK, scores_AK = _top(space.pool_PD, block, REACH)
        reached[columns_AK] = True
        if scores_AK.shape[1]:
            duplicates += int((scores_AK[:, 0] >= 1 - TIE).sum())
        if space.young_P is not None:
            lists = columns_AK[:, :RECOMMENDED]
            young += int(space.young_P[lists].sum())
            recommended += lists.size
    distances = ((space.queries_TD - space.targets_TD).astype(np.float64) ** 2).sum(axis=1)
    return {
        "alignment": float(distances.mean()) if len(distances) else None,
        "uniformity": _uniformity(space.pool_PD[rng.permutation(n_pool)[:_SPREAD_NOTES]]),
        "never_in_top_100_share": float(1 - reached.mean()),
        "duplicate_share": duplicates / len(askers),
        "effective_rank": effective_rank(space.pool_PD),
        "dim": dim,
        "young_share": young / recommended if recommended else None,
        "askers": len(askers),
    }


def effective_rank(rows_ND: F32) -> float:
    """Return exp of the entropy of the centred rows' normalised singular values; 0 where all rows are equal."""
    centred: F64 = rows_ND.astype(np.float64)
    centred -= centred.mean(axis=0)
    singular = np.sqrt(np.clip(np.linalg.eigvalsh(centred.T @ centred), 0.0, None))
    # What centring equal float32 rows leaves is noise, not a dimension.
    singular = singular[singular > 1e-6 * np.sqrt(len(rows_ND))]
    share = singular / singular.sum()
    return float(np.exp(-(share * np.log(share)).sum())) if len(share) else 0.0


def _uniformity(sample_ND: F32) -> float | None:
    """Log of the mean of exp(-2 |x - y|^2) over all pairs of different notes; lower is more spread out."""
    n = len(sample_ND)
    if n < 2:
        return None
    squared = np.clip(2 - 2 * (sample_ND @ sample_ND.T).astype(np.float64), 0.0, None)
    return float(np.log((np.exp(-2 * squared).sum() - np.exp(-2 * np.diagonal(squared)).sum()) / (n * (n - 1))))


def _top(pool_PD: F32, askers: I64, k: int) -> tuple[I64, F32]:
    """The `k` nearest other notes of each asker: columns i64[A, k] and scores f32[A, k], best first."""
    scores_AP = pool_PD[askers] @ pool_PD.T
    scores_AP[np.arange(len(askers)), askers] = -np.inf
    k = min(k, len(pool_PD) - 1)
    if k <= 0:
        return np.empty((len(askers), 0), np.int64), np.empty((len(askers), 0), np.float32)
    columns = np.argpartition(scores_AP, -k, axis=1)[:, -k:]
    scores = np.take_along_axis(scores_AP, columns, axis=1)
    order = np.argsort(-scores, axis=1, kind="stable")
    return np.take_along_axis(columns, order, axis=1), np.take_along_axis(scores, order, axis=1)
