"""Compute intervals and tests by resampling queries: how a figure varies when queries of the same kind are drawn again.

Shape suffixes: N queries, M figures (each a mean over the queries), R resamples.

All figures of a set of queries are resampled together, with the same draws: the draws become a matrix of counts, and
every resample of every figure one matrix product. 21,000 queries x 130 figures x 1,000 resamples take seconds, in
blocks of `_BLOCK` resamples. The draws have a fixed seed: equal ranks give equal intervals, and a paired difference is
resampled exactly as its two sides are.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from notellm2.evaluation.ranks import F64

LEVEL = 0.95
_BLOCK = 64
_SEED = 20_240_529


@dataclass(frozen=True)
class Resampled:
    """Intervals and p-values of M means.

    Attributes:
        low: f64[M], lower end of the 95 % interval (percentile method).
        high: f64[M], upper end.
        p: f64[M], two-sided: how surprising a mean this far from zero would be if the truth were zero; 1 where every
            value is zero. Sensible for differences only.
    """

    low: F64
    high: F64
    p: F64


def resample(values_NM: F64, resamples: int) -> Resampled:
    """Bootstrap the means over the rows of `values_NM`.

    Args:
        values_NM: f64[N, M], N at least 1: a row a query, a column a figure (or the difference of two).
        resamples: R, how many times N queries are drawn with replacement.

    Raises:
        ValueError: there are no queries, or a value is not finite.
    """
    n_queries, n_figures = values_NM.shape
    if n_queries == 0:
        raise ValueError("nothing to resample: there are no queries")
    if not np.isfinite(values_NM).all():
        raise ValueError("a value to resample is not finite")
    rng = np.random.default_rng(_SEED)
    means_RM = np.empty((resamples, n_figures), np.float64)
    for start in range(0, resamples, _BLOCK):
        rows = min(_BLOCK, resamples - start)
        drawn = rng.integers(n_queries, size=(rows, n_queries)) + n_queries * np.arange(rows)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=rows * n_queries).reshape(rows, n_queries)
        means_RM[start : start + rows] = counts.astype(np.float64) @ values_NM / n_queries
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(means_RM, [tail, 1 - tail], axis=0)
    return Resampled(low, high, _p_values(means_RM))


def _p_values(means_RM: F64) -> F64:
    """Twice the share of resamples on the smaller side of zero; never 0, as R draws cannot show less than 1 / R."""
    resamples = len(means_RM)
    # A mean of zeros and ones that cancel may be off zero by rounding.
    smaller = np.minimum((means_RM <= 1e-12).sum(axis=0), (means_RM >= -1e-12).sum(axis=0))
    p: F64 = np.minimum(1.0, 2 * (smaller + 1) / (resamples + 1))
    return p
