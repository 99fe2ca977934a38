"""Open an index file and search it, by vector or by row. Shared by validation and by readers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import faiss
import numpy as np
import numpy.typing as npt

Rows = npt.NDArray[np.int64]
Scores = npt.NDArray[np.float32]


def open_index(path: Path) -> Any:
    """Open a FAISS index memory-mapped: processes share its pages, and opening reads next to nothing.

    Raises:
        RuntimeError: FAISS cannot read the file.
    """
    index: Any = faiss.read_index(str(path), _mapping(path))
    if isinstance(index, faiss.IndexIVF):
        # FAISS would start 32 threads a query to touch pages ahead: 1.9 ms instead of 0.14 at 30,000 notes.
        downcast: Any = faiss.downcast_InvertedLists
        downcast(index.invlists).prefetch_nthread = 0
    return index


def search_rows(index: Any, queries: npt.NDArray[np.float32], k: int) -> tuple[Scores, Rows]:
    """Search the `k` best rows for each query.

    Args:
        index: from `open_index`.
        queries: float32[n, d].
        k: at most the number of notes.

    Returns:
        scores float32[n, k] falling, rows int64[n, k]; -1 where a graph index reached fewer than `k` notes.
    """
    scores, rows = index.search(queries, k)
    if isinstance(index, faiss.IndexIVF) and (rows < 0).any():
        # The probed lists held fewer than k notes: look into all of them.
        everywhere: Any = faiss.SearchParametersIVF
        scores, rows = index.search(queries, k, params=everywhere(nprobe=index.nlist))
    return scores, rows


def similar_rows(index: Any, row: int, k: int) -> tuple[Scores, Rows]:
    """Search the `k` rows most similar to a row of the index, itself left out.

    Args:
        index: from `open_index`.
        row: of the note asked for.
        k: fewer than the number of notes.

    Returns:
        scores float32[<= k] falling, rows int64[<= k].
    """
    scores, rows = search_rows(index, index.reconstruct(row)[None], k + 1)
    # By row and not by position: of notes with equal vectors any may come first.
    others = (rows[0] >= 0) & (rows[0] != row)
    return scores[0][others][:k], rows[0][others][:k]


def _mapping(path: Path) -> int:
    # Inverted lists are mapped by one flag, flat codes and graphs by another, and both at once fail: the file's
    # first four bytes tell which it is ("Iw..": inverted lists).
    with path.open("rb") as handle:
        inverted = handle.read(2) == b"Iw"
    return int(faiss.IO_FLAG_MMAP if inverted else faiss.IO_FLAG_MMAP_IFC)
