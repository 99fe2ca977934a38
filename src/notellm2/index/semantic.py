"""Make semantic ids: each note as a few codes, coarse to fine, for generative recommenders.

Residual k-means (FAISS ResidualQuantizer, a beam of one): the first code is the nearest of `codes` centres, each
further one the nearest centre of what the codes before it left over. Notes that are alike share the beginning of their
ids. Notes may share a whole id; `suffix` then counts them, so that codes and suffix name one note (the form of TIGER,
Rajput et al. 2023, section 3.1, with k-means for its learnt quantiser).

    semantic_ids.parquet          note_id string, codes list<int32> (levels), suffix int32
    semantic_codebooks.npy        float32[levels, codes, d]: the sum of a note's centres approximates its vector
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import numpy.typing as npt

from notellm2.errors import InputError
from notellm2.index.layout import SEMANTIC_CODEBOOKS, SEMANTIC_IDS

SEED = 1234
_POINTS_PER_CODE = 128


def write_semantic_ids(
    directory: Path, vectors: npt.NDArray[np.float32], ids: Sequence[str], *, levels: int, codes: int
) -> dict[str, Any]:
    """Write the semantic ids and their codebooks.

    Args:
        directory: where.
        vectors: float32[N, d].
        ids: their notes.
        levels: codes of an id.
        codes: size of each codebook, a power of two.

    Returns:
        levels, codes, the number of different ids (without suffix), the most notes that share one, and the share of the
        vectors' energy that the codes leave over (0: they say everything).

    Raises:
        InputError: `codes` is no power of two, or there are fewer notes than codes.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    bits = codes.bit_length() - 1
    if codes != 1 << bits:
        raise InputError(f"index.semantic_codes {codes}: expected a power of two")
    if len(vectors) < codes:
        raise InputError(
            f"index.semantic_codes {codes}: more codes than the {len(vectors)} notes; lower it, or set "
            "index.semantic_levels to 0"
        )
    codes_of_notes, books = quantise(vectors, levels=levels, bits=bits)
    suffix = _suffixes(codes_of_notes)
    table = pa.table(
        {
            "note_id": pa.array(ids, pa.string()),
            "codes": pa.FixedSizeListArray.from_arrays(pa.array(codes_of_notes.ravel(), pa.int32()), levels).cast(
                pa.list_(pa.int32())
            ),
            "suffix": pa.array(suffix, pa.int32()),
        }
    )
    pq.write_table(table, directory / SEMANTIC_IDS)
    np.save(directory / SEMANTIC_CODEBOOKS, books, allow_pickle=False)
    left = vectors - sum(books[level][codes_of_notes[:, level]] for level in range(levels))
    return {
        "levels": levels,
        "codes": codes,
        "different": int((suffix == 0).sum()),
        "largest_group": int(suffix.max()) + 1,
        "left_over": round(float(np.square(left).sum() / np.square(vectors).sum()), 4),
    }


def quantise(
    vectors: npt.NDArray[np.float32], *, levels: int, bits: int
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]]:
    """Quantise vectors by residual k-means.

    Args:
        vectors: float32[N, d].
        levels: codes of a vector.
        bits: of a code.

    Returns:
        codes int32[N, levels], codebooks float32[levels, 2**bits, d].
    """
    count, dimension = vectors.shape
    quantiser: Any = faiss.ResidualQuantizer(dimension, levels, bits)
    quantiser.max_beam_size = 1
    quantiser.cp.seed = SEED
    quantiser.cp.min_points_per_centroid = 1
    size = 1 << bits
    chosen = np.random.default_rng(SEED).choice(count, min(count, size * _POINTS_PER_CODE), replace=False)
    quantiser.train(np.ascontiguousarray(vectors[np.sort(chosen)]))
    packed = quantiser.compute_codes(np.ascontiguousarray(vectors))
    # FAISS packs the codes of a vector one after the other, lowest bit first.
    flat = np.unpackbits(packed, axis=1, bitorder="little")[:, : levels * bits].reshape(count, levels, bits)
    codes = (flat.astype(np.int32) << np.arange(bits, dtype=np.int32)).sum(axis=2, dtype=np.int32)
    books = faiss.vector_to_array(quantiser.codebooks).reshape(levels, size, dimension)
    return codes, books.astype(np.float32)


def _suffixes(codes: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
    """int32[N]: how many earlier notes have the same codes."""
    _, group = np.unique(codes, axis=0, return_inverse=True)
    group = group.ravel()
    order = np.argsort(group, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(group[order]) != 0])
    sizes = np.diff(np.r_[starts, len(order)])
    suffix = np.empty(len(order), np.int32)
    suffix[order] = np.arange(len(order)) - np.repeat(starts, sizes)
    return suffix
