"""Small JPEGs of chosen notes' images, for pages: read by row group, so that the other images stay on disk."""

from __future__ import annotations

import io
from collections.abc import Collection

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from PIL import Image

from notellm2.notes.dataset import Dataset
from notellm2.notes.images import ImageProblem, decode_image
from notellm2.recipe import ImageLimits

SIDE_PX = 96
_QUALITY = 70


def thumbnails(dataset: Dataset, note_ids: Collection[str], limits: ImageLimits) -> dict[str, bytes]:
    """Make a JPEG of at most 96 pixels a side for each note; those without a readable image are left out."""
    wanted = pa.array(sorted(note_ids), pa.string())
    made: dict[str, bytes] = {}
    for shard in dataset.shards("notes"):
        with pq.ParquetFile(shard) as file:
            for group in range(file.num_row_groups):
                ids = file.read_row_group(group, columns=["note_id"])["note_id"]
                here = np.flatnonzero(pc.is_in(ids, value_set=wanted).to_numpy())
                if len(here) == 0:
                    continue
                rows = file.read_row_group(group, columns=["note_id", "image"]).take(here)
                for row in rows.to_pylist():
                    small = thumbnail(row["image"]["bytes"], limits) if row["image"] else None
                    if small is not None:
                        made[row["note_id"]] = small
    return made


def thumbnail(image: bytes, limits: ImageLimits) -> bytes | None:
    """Make one image small; None when it cannot be decoded (the import has counted and reported it already)."""
    try:
        decoded = decode_image(image, limits)
    except ImageProblem:
        return None
    decoded.thumbnail((SIDE_PX, SIDE_PX), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    decoded.save(buffer, "JPEG", quality=_QUALITY, optimize=True)
    return buffer.getvalue()
