"""Exact ranks against the bare matrix product and against sorting the pool, at one size, in one process.

    python benchmarks/evaluation.py [--pool 530000] [--queries 2048] [--dim 64] [--json]

Reports CPU seconds a query of `count_ranks`, of the matrix product alone in the same blocks, and of a full sort of
the scores (as the method's released evaluation does), and the peak memory of the counting. Times are the least of
three, CPU time of all threads. Keys of --json: vs_matmul, vs_full_sort, peak_rss_gb, and what they were made from.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from collections.abc import Callable

import numpy as np

from notellm2.evaluation.ranks import F32, NOT_IN_POOL, POOL_BLOCK, QUERY_BLOCK, Cosine, blocks, count_ranks

SORTED_QUERIES = 64


def least_cpu_s(work: Callable[[], object], repeats: int = 3) -> float:
    """Least CPU seconds of a few runs."""
    seconds = []
    for _ in range(repeats):
        started = time.process_time()
        work()
        seconds.append(time.process_time() - started)
    return min(seconds)


def multiply(queries_QD: F32, pool_PD: F32) -> None:
    """The matrix product alone, block by block into one buffer."""
    out = np.empty(QUERY_BLOCK * POOL_BLOCK, np.float32)
    for rows in blocks(len(queries_QD), QUERY_BLOCK):
        for columns in blocks(len(pool_PD), POOL_BLOCK):
            left, right = queries_QD[rows], pool_PD[columns]
            np.matmul(left, right.T, out=out[: len(left) * len(right)].reshape(len(left), len(right)))


def sort_all(queries_QD: F32, pool_PD: F32) -> None:
    """Rank by sorting all scores of each query."""
    for query in queries_QD:
        np.argsort(-(pool_PD @ query))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pool", type=int, default=530_000, help="notes in the pool")
    parser.add_argument("--queries", type=int, default=2048, help="queries ranked")
    parser.add_argument("--dim", type=int, default=64, help="width of an embedding")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    given = parser.parse_args()
    rng = np.random.default_rng(0)
    pool = rng.standard_normal((given.pool, given.dim), dtype=np.float32)
    pool /= np.linalg.norm(pool, axis=1, keepdims=True)
    targets = rng.integers(0, given.pool, given.queries)
    queries = pool[targets] + 0.1 * rng.standard_normal((given.queries, given.dim), dtype=np.float32)
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    scorer = Cosine(queries, pool)
    selves = np.full(given.queries, NOT_IN_POOL)
    count_s = least_cpu_s(lambda: count_ranks(scorer, targets, selves)) / given.queries
    peak_gb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    matmul_s = least_cpu_s(lambda: multiply(queries, pool)) / given.queries
    sort_s = least_cpu_s(lambda: sort_all(queries[:SORTED_QUERIES], pool), 1) / min(SORTED_QUERIES, given.queries)
    result = {
        "pool": given.pool,
        "queries": given.queries,
        "dim": given.dim,
        "count_ms_per_query": round(1e3 * count_s, 4),
        "matmul_ms_per_query": round(1e3 * matmul_s, 4),
        "full_sort_ms_per_query": round(1e3 * sort_s, 3),
        "vs_matmul": round(count_s / matmul_s, 3),
        "vs_full_sort": round(sort_s / count_s, 1),
        "peak_rss_gb": round(peak_gb, 3),
    }
    print(json.dumps(result) if given.json else "\n".join(f"{name:24} {value}" for name, value in result.items()))


if __name__ == "__main__":
    main()
