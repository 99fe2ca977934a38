"""Build a FAISS index from vectors: which kind for how many notes, and how it is trained.

Kinds, on L2-normalised vectors and inner product, so that a score is a cosine:

- ``flat``: exact; every query reads every vector. Below 20,000 notes nothing approximate is worth its error.
- ``ivf-fp16``: k-means lists of half-precision vectors, of which a query reads nprobe; half the size.
- ``ivf-sq8``: the same of 8-bit codes; a quarter of the size, for millions of notes.
- ``hnsw``: a graph over whole vectors; the largest file and the slowest build.

Lists of half-precision vectors are the default because no other kind was better at any recall (``benchmarks/index.py``,
80,000 x 64 clustered, one thread, recall@100 at p50): ivf-fp16 with 64 lists read 0.9985 at 0.07 ms, with 128 0.9993 at
0.11; ivf-sq8 never passes 0.986, because its codes blur near neighbours; hnswlib 0.9936 at 0.22 and 0.9969 at 0.32, in
a file three times as large and built 20 times as long. Reading 128 lists rather than 64 costs little time, and on data
that clusters less (530,000 x 64, noise 0.9: ivf-sq8 0.937 with 64, 0.958 with 128) it decides whether an index passes.

Each index can give back the vector of any of its rows (ivf-sq8 through a direct map from row to position in a list, 8
bytes a note): that is how a note in the index is asked for its neighbours. The alternative, a file of vectors beside
the index, would more than double an ivf-sq8 publication and could disagree with it; the codes cost little as queries
(30,000 clustered notes: recall@100 0.9978 from codes, 0.9980 from the vectors themselves).
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import numpy.typing as npt

Vectors = npt.NDArray[np.float32]

FLAT_BELOW = 20_000
COMPACT_FROM = 2_000_000
SEED = 1234
MIN_POINTS_PER_LIST = 128
MAX_POINTS_PER_CENTROID = 128
IVF_CODES = {"ivf-sq8": "SQ8", "ivf-fp16": "SQfp16"}
HNSW_LINKS = 32
HNSW_BUILD_EFFORT = 80
HNSW_SEARCH_EFFORT = 256
_BLOCK = 65_536
_ARRAY_DIRECT_MAP = 1  # faiss.DirectMap.Array, which FAISS's own type stubs leave out


@dataclass(frozen=True)
class Plan:
    """How an index is to be built.

    Attributes:
        kind: "flat", "ivf-fp16", "ivf-sq8" or "hnsw".
        factory: the FAISS factory string.
        parameters: the other numbers it depends on.
    """

    kind: str
    factory: str
    parameters: Mapping[str, int]

    def as_json(self) -> dict[str, Any]:
        """Return all of it as plain JSON."""
        return {**asdict(self), "parameters": dict(self.parameters)}


def list_count(count: int) -> int:
    """Choose the inverted lists for so many notes: the largest power of two with 128 a list and at most 6 sqrt(N).

    530,000 notes give 4,096. The square root bounds the cost of k-means, which grows with lists times notes.
    """
    bound = min(count / MIN_POINTS_PER_LIST, 6 * math.sqrt(count))
    return 1 if bound < 2 else 1 << int(math.log2(bound))


def plan_index(kind: str, count: int, nprobe: int) -> Plan:
    """Choose the kind and parameters of an index for `count` notes.

    Args:
        kind: one of the kinds, or "auto".
        count: notes.
        nprobe: lists searched a query (inverted lists).
    """
    if kind == "auto":
        kind = "flat" if count < FLAT_BELOW else "ivf-fp16" if count < COMPACT_FROM else "ivf-sq8"
    if kind == "flat":
        return Plan(kind, "Flat", {})
    if kind in IVF_CODES:
        lists = list_count(count)
        parameters = {
            "lists": lists,
            "nprobe": min(nprobe, lists),
            "points_per_centroid": MAX_POINTS_PER_CENTROID,
            "seed": SEED,
        }
        return Plan(kind, f"IVF{lists},{IVF_CODES[kind]}", parameters)
    if kind == "hnsw":
        parameters = {"links": HNSW_LINKS, "build_effort": HNSW_BUILD_EFFORT, "search_effort": HNSW_SEARCH_EFFORT}
        return Plan(kind, f"HNSW{HNSW_LINKS},Flat", parameters)
    raise ValueError(f"index kind {kind!r}: expected auto, flat, ivf-fp16, ivf-sq8 or hnsw")


def write_index(
    vectors: Vectors, plan: Plan, path: Path, *, former: Path | None = None, threads: int | None = None
) -> str:
    """Build an index by plan and write it to a file; the same vectors, plan and former give the same index.

    Args:
        vectors: float32[N, d], rows L2-normalised; may be memory-mapped.
        plan: from `plan_index`.
        path: the file.
        former: file of an index by the same factory over vectors of the same model, to build on: inverted lists keep
            its lists (k-means is most of their cost) and are filled anew; a graph whose vectors are the first of these
            gets the others added; everything else is built anew.
        threads: most threads used; None: one a core, at most 8. A graph is built by one thread whatever is asked for,
            because with several its links depend on which came first.

    Returns:
        How it was made: "built", "trained before" or "appended to".
    """
    faiss.omp_set_num_threads(1 if plan.kind == "hnsw" else threads or min(8, os.cpu_count() or 1))
    index, made = _on_former(vectors, plan, former)
    if index is None:
        index, made = _trained(vectors, plan), "built"
    for start in range(index.ntotal, len(vectors), _BLOCK):
        # In blocks, so that a memory-mapped file is never in memory as a whole beside the index.
        index.add(np.ascontiguousarray(vectors[start : start + _BLOCK]))
    faiss.write_index(index, str(path))
    return made


def _trained(vectors: Vectors, plan: Plan) -> Any:
    """An empty index, ready for vectors."""
    index: Any = faiss.index_factory(vectors.shape[1], plan.factory, faiss.METRIC_INNER_PRODUCT)
    if plan.kind in IVF_CODES:
        index.cp.seed = plan.parameters["seed"]
        # More points a centroid than this cost k-means time without a better recall.
        index.cp.max_points_per_centroid = plan.parameters["points_per_centroid"]
        index.cp.min_points_per_centroid = 1
        index.set_direct_map_type(_ARRAY_DIRECT_MAP)
        index.nprobe = plan.parameters["nprobe"]
    elif plan.kind == "hnsw":
        index.hnsw.efConstruction = plan.parameters["build_effort"]
        index.hnsw.efSearch = plan.parameters["search_effort"]
    index.train(vectors)
    return index


def _on_former(vectors: Vectors, plan: Plan, former: Path | None) -> tuple[Any, str]:
    """An earlier index to add vectors to, from its number of vectors on; None where there is nothing to build on."""
    if former is None or plan.kind == "flat":
        return None, ""
    index: Any = faiss.read_index(str(former))
    if index.d != vectors.shape[1]:
        return None, ""
    if plan.kind in IVF_CODES:
        index.reset()
        index.nprobe = plan.parameters["nprobe"]
        return index, "trained before"
    if index.ntotal <= len(vectors):
        for start in range(0, index.ntotal, _BLOCK):
            count = min(_BLOCK, index.ntotal - start)
            if not np.array_equal(index.reconstruct_n(start, count), vectors[start : start + count]):
                return None, ""
        return index, "appended to"
    return None, ""
