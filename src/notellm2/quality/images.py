"""One pass over the images: size, kind by header, digest, and whether a bounded sample of them decodes.

Only these facts leave this module, never the bytes: Great Expectations echoes failing values into its documents.
Memory is bounded by a batch of images, time by reading every image once: about 0.5 GB/s on one core, plus the
decoding of the sample.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import pyarrow as pa
import pyarrow.parquet as pq

from notellm2.notes.dataset import Dataset
from notellm2.recipe import ImageLimits

FACTS = pa.schema(
    [
        pa.field("note_id", pa.string()),
        pa.field("has_image", pa.bool_(), nullable=False),
        pa.field("image_bytes", pa.int64()),
        pa.field("image_kind", pa.string()),
        pa.field("image_hash", pa.int64()),
        pa.field("image_ok", pa.bool_()),
        pa.field("problem", pa.string()),
    ]
)
"""One row a note, in file order. `image_kind`: null if the header is unknown; `image_hash`: first 8 bytes of BLAKE2b;
`image_ok`: whether the image decodes, null where it was not tried; `problem`: why it does not."""

ROWS = 64
"""Notes read at once; with the largest images allowed (8 MB) half a gigabyte, with usual ones a few megabytes."""

_Facts = tuple[bool, int | None, str | None, int | None, bool | None, str | None]

_HEADERS = (
    (b"\xff\xd8\xff", "jpeg"),
    (b"\x89PNG\r\n\x1a\n", "png"),
    (b"GIF87a", "gif"),
    (b"GIF89a", "gif"),
    (b"BM", "bmp"),
)


def image_kind(data: bytes) -> str | None:
    """Return the kind that an encoded image's first bytes claim, or None."""
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "webp"
    return next((kind for header, kind in _HEADERS if data.startswith(header)), None)


def image_facts(dataset: Dataset, sample: int, limits: ImageLimits) -> pa.Table:
    """Collect what is known of every note's image, with the schema `FACTS`.

    Args:
        dataset: the data set; its `info.notes_with_image` spreads the sample evenly.
        sample: number of images to decode.
        limits: bounds of the decoding.
    """
    return pa.Table.from_batches(_batches(dataset, sample, limits), FACTS)


def _batches(dataset: Dataset, sample: int, limits: ImageLimits) -> Iterator[pa.RecordBatch]:
    expected = max(dataset.info.notes_with_image, 1)
    seen = 0
    for shard in dataset.shards("notes"):
        # Buffered, without read-ahead: otherwise a whole row group of images lies in memory at once.
        with pq.ParquetFile(shard, buffer_size=1 << 20, pre_buffer=False) as file:
            for batch in file.iter_batches(batch_size=ROWS, columns=["note_id", "image"]):
                images = batch.column("image")
                bodies = images.field("bytes")
                facts: list[_Facts] = []
                for row, present in enumerate(images.is_valid().to_pylist()):
                    if present:
                        tried = (seen + 1) * sample // expected > seen * sample // expected
                        seen += 1
                        facts.append(_facts(bodies[row].as_py() or b"", limits if tried else None))
                    else:
                        facts.append((False, None, None, None, None, None))
                columns = zip(*facts, strict=True) if facts else ([] for _ in FACTS.names[1:])
                arrays = [pa.array(column, field.type) for column, field in zip(columns, list(FACTS)[1:], strict=True)]
                yield pa.record_batch([batch.column("note_id"), *arrays], schema=FACTS)


def _facts(data: bytes, limits: ImageLimits | None) -> _Facts:
    """The values of `FACTS` after the id; decodes if there are limits and there is something to decode."""
    if not data:
        return True, 0, None, None, None, None
    digest = int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little", signed=True)
    ok, problem = (None, None) if limits is None else _decode(data, limits)
    return True, len(data), image_kind(data), digest, ok, problem


def _decode(data: bytes, limits: ImageLimits) -> tuple[bool, str | None]:
    from notellm2.notes.images import ImageProblem, decode_image

    try:
        decode_image(data, limits)
    except ImageProblem as problem:
        return False, str(problem)
    return True, None
