"""Exact ranks against the bare matrix product and against sorting the pool, at one size, in one process.

    OMP_NUM_THREADS=1 python benchmarks/evaluation.py [--pool 530000] [--queries 2048] [--dim 64] [--json]

`count_ranks` is measured for a model that works (targets among the first few of the pool: `vs_matmul`) and, as its
hardest case, for one that knows nothing (targets anywhere: `vs_matmul_at_chance`). The matrix product is the bare one
of the same embeddings, in whichever blocks of a few sizes it is fastest. The full sort is what the method's released
evaluation does: torch.argsort of all scores of a query, then a search for the target.

All are CPU seconds of all threads; the sides take turns, and every figure is the median of `--repeats` turns (a ratio:
of the turns' ratios). `peak_rss_gb` is measured after the counting, before anything is sorted; it includes the
embeddings made here, and torch. A query's time does not depend on their number; --queries 21000 takes minutes.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch

from notellm2.evaluation.ranks import F32, I64, NOT_IN_POOL, POOL_BLOCK, QUERY_BLOCK, Cosine, blocks, count_ranks

SORTED_QUERIES = 32
PRODUCT_BLOCKS = ((QUERY_BLOCK, POOL_BLOCK), (512, 512), (512, 1024), (512, 4096), (512, 16384))


def cpu_s(work: Callable[[], object]) -> float:
    """CPU seconds of one run, all threads."""
    started = time.process_time()
    work()
    return time.process_time() - started


def multiply(queries_QD: F32, pool_PD: F32, size: tuple[int, int]) -> None:
    """The matrix product alone, block by block into one buffer."""
    out = np.empty(size[0] * size[1], np.float32)
    for rows in blocks(len(queries_QD), size[0]):
        for columns in blocks(len(pool_PD), size[1]):
            left, right = queries_QD[rows], pool_PD[columns]
            np.matmul(left, right.T, out=out[: len(left) * len(right)].reshape(len(left), len(right)))


def sort_all(queries_QD: F32, pool_PD: F32, targets: I64) -> torch.Tensor:
    """Rank as the method's released evaluation does: order all notes by score, then look where the target is."""
    scores_QP = torch.from_numpy(queries_QD) @ torch.from_numpy(pool_PD).T
    order_QP = torch.argsort(scores_QP, dim=1, descending=True)
    return torch.nonzero(order_QP == torch.from_numpy(targets)[:, None])[:, 1]


def unit_rows(rows_ND: F32) -> F32:
    """Rows of length 1."""
    units: F32 = rows_ND / np.linalg.norm(rows_ND, axis=1, keepdims=True)
    return units


def measure(pool_size: int, n_queries: int, dim: int, repeats: int) -> dict[str, float]:
    """Times and ratios of one size."""
    rng = np.random.default_rng(0)
    pool = unit_rows(rng.standard_normal((pool_size, dim), dtype=np.float32))
    targets = rng.integers(0, pool_size, n_queries)
    noise = rng.standard_normal((n_queries, dim), dtype=np.float32)
    queries = unit_rows(pool[targets] + 0.1 * noise)
    nowhere = np.full(n_queries, NOT_IN_POOL)
    works, knows_nothing = Cosine(queries, pool), Cosine(unit_rows(noise), pool)
    size = min(PRODUCT_BLOCKS, key=lambda one: min(cpu_s(lambda: multiply(queries[:512], pool, one)) for _ in "ab"))
    product: list[float] = []
    count: list[float] = []
    at_chance: list[float] = []
    for _ in range(repeats):
        product.append(cpu_s(lambda: multiply(queries, pool, size)))
        count.append(cpu_s(lambda: count_ranks(works, targets, nowhere)))
        at_chance.append(cpu_s(lambda: count_ranks(knows_nothing, targets, nowhere)))
    peak_gb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    few = min(SORTED_QUERIES, n_queries)
    sort = [cpu_s(lambda: sort_all(queries[:few], pool, targets[:few])) / few for _ in range(repeats)]
    a_query = statistics.median(count) / n_queries
    return {
        "pool": pool_size,
        "queries": n_queries,
        "dim": dim,
        "count_ms_per_query": round(1e3 * a_query, 4),
        "matmul_ms_per_query": round(1e3 * statistics.median(product) / n_queries, 4),
        "full_sort_ms_per_query": round(1e3 * statistics.median(sort), 3),
        "vs_matmul": round(statistics.median(c / p for c, p in zip(count, product, strict=True)), 3),
        "vs_matmul_at_chance": round(statistics.median(c / p for c, p in zip(at_chance, product, strict=True)), 3),
        "vs_full_sort": round(statistics.median(sort) / a_query, 1),
        "peak_rss_gb": round(peak_gb, 3),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pool", type=int, default=530_000, help="notes in the pool")
    parser.add_argument("--queries", type=int, default=2048, help="queries ranked")
    parser.add_argument("--dim", type=int, default=64, help="width of an embedding")
    parser.add_argument("--repeats", type=int, default=5, help="turns, of which the median counts")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    args = parser.parse_args()
    result = measure(args.pool, args.queries, args.dim, args.repeats)
    print(json.dumps(result) if args.json else "\n".join(f"{name:24} {value}" for name, value in result.items()))


if __name__ == "__main__":
    main()
