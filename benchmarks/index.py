"""Our index kinds against exact search, hnswlib and usearch: recall, latency, size and build time in one run.

    python benchmarks/index.py [--count 530000] [--dim 64] [--queries 1000] [--only ivf hnswlib] [--json]

Vectors lie in clusters of very different sizes (a mixture with Pareto weights, about 200 vectors a cluster on average,
noise of 0.7 of the centre's length), normalised; queries are drawn from the same mixture and are not in the index. One
thread everywhere. Ours are built, written and memory-mapped as a publication is, the others searched in memory as their
libraries are. Every operating point is asked all queries one by one, in three rounds over all points so that a busy
moment hits all alike; p50 and p99 are the medians of the rounds, qps is of the best of three batches of all queries.
A row is on the front where no other row has both a better recall and a shorter p50.

--json: one object an operating point: recall_at_100, p50_ms, p99_ms, qps, build_s, mb, on_front; "default" repeats what
``index.kind: auto`` gives.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from notellm2.index.build import plan_index, write_index
from notellm2.index.search import open_index, search_rows
from notellm2.recipe import IndexConfig

K = 100
ROUNDS = 3
CLUSTER = 200
NOISE = 0.7
Vectors = np.ndarray[Any, np.dtype[np.float32]]
Rows = np.ndarray[Any, np.dtype[np.int64]]


def clustered(count: int, dim: int, seed: int = 0) -> Vectors:
    """L2-normalised vectors as the module describes them."""
    random = np.random.default_rng(seed)
    centres = random.standard_normal((max(1, count // CLUSTER), dim), dtype=np.float32)
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    weights = random.pareto(1.5, len(centres)) + 0.2
    chosen = random.choice(len(centres), count, p=weights / weights.sum())
    vectors = centres[chosen] + NOISE / np.sqrt(dim) * random.standard_normal((count, dim), dtype=np.float32)
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float32)


@dataclass
class Point:
    """An index at one setting.

    Attributes:
        name: index and setting.
        search: queries to int64[n, K].
        prepare: sets the setting; indexes are shared by their points.
        build_s: seconds to build.
        mb: size of its file, megabytes.
    """

    name: str
    search: Callable[[Vectors], Rows]
    prepare: Callable[[], object]
    build_s: float
    mb: float
    p50: list[float] = field(default_factory=list)
    p99: list[float] = field(default_factory=list)
    qps: list[float] = field(default_factory=list)
    recall: float = 0.0


def ours(vectors: Vectors, folder: Path, kind: str, settings: tuple[int, ...]) -> Iterator[Point]:
    """A kind of ours, at several nprobe or efSearch."""
    plan = plan_index(kind, len(vectors), IndexConfig().nprobe)
    path = folder / f"{kind}.faiss"
    started = time.perf_counter()
    write_index(vectors, plan, path, threads=1)
    build_s = time.perf_counter() - started
    index = open_index(path)
    name = plan.factory

    def prepare(setting: int) -> None:
        if isinstance(index, faiss.IndexIVF):
            index.nprobe = setting
        elif hasattr(index, "hnsw"):
            index.hnsw.efSearch = setting

    for setting in settings or (0,):
        named = name if not settings else f"{name} {'nprobe' if 'IVF' in name else 'ef'}={setting}"
        yield Point(
            named,
            lambda queries: search_rows(index, queries, K)[1],
            lambda setting=setting: prepare(setting),
            build_s,
            path.stat().st_size / 1e6,
        )


def hnswlib_points(vectors: Vectors, folder: Path) -> Iterator[Point]:
    """hnswlib with M 16 and efConstruction 200."""
    import hnswlib

    index = hnswlib.Index("ip", vectors.shape[1])
    started = time.perf_counter()
    index.init_index(len(vectors), M=16, ef_construction=200, random_seed=1)
    index.set_num_threads(1)
    index.add_items(vectors)
    build_s = time.perf_counter() - started
    path = folder / "hnswlib.bin"
    index.save_index(str(path))
    for ef in (100, 128, 192, 256, 384):
        yield Point(
            f"hnswlib M=16 ef={ef}",
            lambda queries: index.knn_query(queries, K, num_threads=1)[0].astype(np.int64),
            lambda ef=ef: index.set_ef(ef),
            build_s,
            path.stat().st_size / 1e6,
        )


def usearch_points(vectors: Vectors, folder: Path) -> Iterator[Point]:
    """usearch with connectivity 16 and expansion 128 at building."""
    from usearch.index import Index

    index = Index(ndim=vectors.shape[1], metric="ip", dtype="f32", connectivity=16, expansion_add=128)
    started = time.perf_counter()
    index.add(np.arange(len(vectors)), vectors, threads=1)
    build_s = time.perf_counter() - started
    path = folder / "usearch.bin"
    index.save(str(path))

    def prepare(expansion: int) -> None:
        index.expansion_search = expansion

    def search(queries: Vectors) -> Rows:
        keys = index.search(queries[0] if len(queries) == 1 else queries, K, threads=1).keys
        return np.atleast_2d(keys).astype(np.int64)

    for expansion in (100, 128, 192, 256, 384):
        yield Point(
            f"usearch M=16 ef={expansion}",
            search,
            lambda expansion=expansion: prepare(expansion),
            build_s,
            path.stat().st_size / 1e6,
        )


def measure(points: list[Point], queries: Vectors, exact: Rows) -> None:
    """Fill in the points' figures."""
    for round_ in range(ROUNDS):
        for point in points:
            point.prepare()
            for query in queries[:50]:
                point.search(query[None])
            times, answers = [], []
            for query in queries:
                started = time.perf_counter()
                rows = point.search(query[None])
                times.append((time.perf_counter() - started) * 1e3)
                answers.append(rows[0])
            point.p50.append(float(np.median(times)))
            point.p99.append(float(np.percentile(times, 99)))
            started = time.perf_counter()
            point.search(queries)
            point.qps.append(len(queries) / (time.perf_counter() - started))
            if round_ == 0:
                shares = [np.isin(rows, truth).sum() / K for rows, truth in zip(answers, exact, strict=True)]
                point.recall = float(np.mean(shares))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=530_000, help="vectors in the index")
    parser.add_argument("--dim", type=int, default=64, help="width of a vector")
    parser.add_argument("--queries", type=int, default=1000, help="queries asked one by one")
    parser.add_argument("--only", nargs="*", default=None, metavar="NAME", help="flat, a kind, hnswlib, usearch")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    args = parser.parse_args()
    faiss.omp_set_num_threads(1)
    everything = clustered(args.count + args.queries, args.dim)
    vectors, queries = everything[: args.count], everything[args.count :]
    exact = faiss.knn(queries, vectors, K, metric=faiss.METRIC_INNER_PRODUCT)[1]
    default = plan_index("auto", args.count, IndexConfig().nprobe)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        makers: dict[str, Callable[[], Iterator[Point]]] = {
            "flat": lambda: ours(vectors, folder, "flat", ()),
            "ivf-sq8": lambda: ours(vectors, folder, "ivf-sq8", (32, 64, 128, 256)),
            "ivf-fp16": lambda: ours(vectors, folder, "ivf-fp16", (32, 64, 128, 256)),
            "hnsw": lambda: ours(vectors, folder, "hnsw", (100, 128, 192, 256, 384)),
            "hnswlib": lambda: hnswlib_points(vectors, folder),
            "usearch": lambda: usearch_points(vectors, folder),
        }
        points = [p for key, make in makers.items() if args.only is None or key in args.only for p in make()]
        measure(points, queries, exact)
    rows = {p.name: _figures(p, points) for p in points}
    chosen = next((r for n, r in rows.items() if n.split(" ")[0] == default.factory and _is_default(n, default)), None)
    if args.json:
        print(json.dumps({"count": args.count, "dim": args.dim, "default": chosen, **rows}))
        return
    print(f"{args.count:,} x {args.dim}, {args.queries} queries, one thread; default: {default.factory}")
    print(f"{'':32}recall@100   p50 ms   p99 ms      qps  build s      MB  front")
    for name, row in rows.items():
        print(
            f"{name:32}{row['recall_at_100']:10.4f}{row['p50_ms']:9.3f}{row['p99_ms']:9.3f}{row['qps']:9.0f}"
            f"{row['build_s']:9.1f}{row['mb']:8.1f}  {'*' if row['on_front'] else ''}"
        )


def _figures(point: Point, points: list[Point]) -> dict[str, float | bool]:
    p50 = float(np.median(point.p50))
    beaten = any(p.recall > point.recall and float(np.median(p.p50)) < p50 for p in points)
    return {
        "recall_at_100": round(point.recall, 4),
        "p50_ms": round(p50, 4),
        "p99_ms": round(float(np.median(point.p99)), 4),
        "qps": round(max(point.qps), 1),
        "build_s": round(point.build_s, 2),
        "mb": round(point.mb, 2),
        "on_front": not beaten,
    }


def _is_default(name: str, plan: Any) -> bool:
    setting = plan.parameters.get("nprobe", plan.parameters.get("search_effort"))
    return setting is None or name.endswith(f"={setting}")


if __name__ == "__main__":
    main()
