"""Check an index before it may be published: its input, and its files as they lie on disk.

The index is asked exactly as a reader asks it (opened from its file, a note by its row, the note itself left out),
and its answers are scored against exact search with the vectors it was built from.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import numpy.typing as npt

from notellm2.index.layout import INDEX, META, FileEntry, IndexInvalid, NoteIds, damage
from notellm2.index.search import open_index, similar_rows

Vectors = npt.NDArray[np.float32]

RECALL_AT = 100
MIN_SELF_COSINE = 0.95
_NORM_TOLERANCE = 1e-3
_TIE = 1e-6
_SEED = 20_240_901
_BLOCK = 65_536


@dataclass(frozen=True)
class Validation:
    """The figures of a validation.

    Attributes:
        count: notes.
        dimension: width of a vector.
        queries: notes asked for.
        k: neighbours compared: 100, or all other notes when there are fewer.
        recall: share of the k best that a search returns, mean over the queries; a note as good as the k-th best
            counts.
        p50_ms: median time of one query, milliseconds, one thread.
        p99_ms: its 99th percentile.
        self_cosine: least cosine between a note's vector and what the index holds for it.
    """

    count: int
    dimension: int
    queries: int
    k: int
    recall: float
    p50_ms: float
    p99_ms: float
    self_cosine: float

    def as_json(self) -> dict[str, Any]:
        """Return all figures as plain JSON."""
        return asdict(self)


def check_vectors(vectors: Vectors, ids: Sequence[str]) -> None:
    """Refuse vectors that no index can be built from.

    Raises:
        IndexInvalid: not float32[N, d] with N > 0, as many vectors as ids, all finite and of length 1.
    """
    if vectors.dtype != np.float32 or vectors.ndim != 2 or 0 in vectors.shape:
        raise IndexInvalid(f"vectors are {vectors.dtype}{list(vectors.shape)}: expected float32 [N, d], not empty")
    if len(vectors) != len(ids):
        raise IndexInvalid(f"{len(vectors)} vectors for {len(ids)} note ids: they must correspond one to one")
    for start in range(0, len(vectors), _BLOCK):
        block = vectors[start : start + _BLOCK]
        norms = np.linalg.norm(block, axis=1)
        # A norm is not finite when any component is not, so one pass finds both faults.
        bad = np.flatnonzero(~(np.abs(norms - 1) <= _NORM_TOLERANCE))
        if len(bad):
            row = start + int(bad[0])
            what = "has length" if np.isfinite(norms[bad[0]]) else "is not finite: length"
            raise IndexInvalid(
                f"vector of note {ids[row]!r} (row {row}) {what} {norms[bad[0]]:.4g}, expected 1 "
                f"({len(bad)} such in rows {start}-{start + len(block) - 1}): embed the notes again"
            )


def validate(
    directory: Path, vectors: Vectors, ids: Sequence[str], *, sample: int, min_recall: float, nprobe: int
) -> Validation:
    """Check an index directory against what it was built from.

    Args:
        directory: with index, ids and meta.json.
        vectors: float32[N, d], L2-normalised: the truth.
        ids: their notes.
        sample: queries measured; all notes when there are fewer.
        min_recall: least recall.
        nprobe: of the recipe, named in the advice when recall is too low.

    Raises:
        IndexInvalid: names what failed, with its numbers.
    """
    meta = json.loads((directory / META).read_text())
    problems = damage(directory, {name: FileEntry(e["sha256"], e["bytes"]) for name, e in meta["files"].items()})
    if problems:
        raise IndexInvalid("index files differ from what was written: " + "; ".join(problems))
    stored = NoteIds.open(directory)
    if list(stored) != list(ids):
        raise IndexInvalid(f"the ids beside the index ({len(stored)}) are not the ids of the vectors ({len(ids)})")
    index = open_index(directory / INDEX)
    count, dimension = vectors.shape
    if (index.ntotal, index.d) != (count, dimension):
        raise IndexInvalid(f"the index holds {index.ntotal} x {index.d}, expected {count} x {dimension}")
    if index.metric_type != faiss.METRIC_INNER_PRODUCT:
        raise IndexInvalid(f"the index compares by FAISS metric {index.metric_type}, expected inner product (0)")
    rows = np.sort(np.random.default_rng(_SEED).choice(count, min(sample, count), replace=False))
    self_cosine = _self_cosine(index, vectors, rows, ids)
    recall, times = _recall(index, vectors, rows)
    k = min(RECALL_AT, count - 1)
    if recall < min_recall:
        raise IndexInvalid(
            f"recall@{k} against exact search is {recall:.4f} over {len(rows)} notes, expected at least {min_recall} "
            f"({meta['factory']}, {count} notes): raise index.nprobe (now {nprobe}), choose index.kind flat, or lower "
            "index.min_recall"
        )
    p50, p99 = np.percentile(times, [50, 99])
    return Validation(
        count=count,
        dimension=dimension,
        queries=len(rows),
        k=k,
        recall=round(recall, 6),
        p50_ms=round(float(p50), 4),
        p99_ms=round(float(p99), 4),
        self_cosine=round(self_cosine, 6),
    )


def _self_cosine(index: Any, vectors: Vectors, rows: npt.NDArray[np.int64], ids: Sequence[str]) -> float:
    """Least cosine of a note with itself in the index: rows that were mixed up show here."""
    held = np.stack([index.reconstruct(int(row)) for row in rows])
    cosines = np.einsum("nd,nd->n", held, vectors[rows]) / np.maximum(np.linalg.norm(held, axis=1), 1e-12)
    worst = int(np.argmin(cosines))
    if not cosines[worst] >= MIN_SELF_COSINE:
        raise IndexInvalid(
            f"the index holds another vector for note {ids[int(rows[worst])]!r} (row {rows[worst]}): cosine "
            f"{cosines[worst]:.4f}, expected at least {MIN_SELF_COSINE}"
        )
    return float(cosines[worst])


def _recall(index: Any, vectors: Vectors, rows: npt.NDArray[np.int64]) -> tuple[float, list[float]]:
    """Mean recall of the rows' neighbours, and the milliseconds each query took."""
    k = min(RECALL_AT, len(vectors) - 1)
    if k == 0:
        return 1.0, [0.0]
    exact, exact_rows = faiss.knn(vectors[rows], vectors, k + 1, metric=faiss.METRIC_INNER_PRODUCT)
    faiss.omp_set_num_threads(1)
    shares, times = [], []
    for row, scores, neighbours in zip(rows, exact, exact_rows, strict=True):
        started = time.perf_counter()
        _, answer = similar_rows(index, int(row), k)
        times.append((time.perf_counter() - started) * 1e3)
        # The k-th best other note: by score, because among notes with equal vectors any is a right answer.
        least = scores[neighbours != row][k - 1]
        shares.append(np.count_nonzero(vectors[answer] @ vectors[row] >= least - _TIE) / k)
    return float(np.mean(shares)), times
