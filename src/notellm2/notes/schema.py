"""What a note, an interaction and a pair are, as Arrow schemas, and the text of a note as models read it."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa

SCHEMA_VERSION = 1

IMAGE = pa.struct([pa.field("bytes", pa.binary()), pa.field("path", pa.string())])
"""The Hugging Face `datasets` Image convention; null for a note without image."""

NOTES = pa.schema(
    [
        pa.field("note_id", pa.string(), nullable=False),
        pa.field("title", pa.string(), nullable=False),
        pa.field("topics", pa.list_(pa.string()), nullable=False),
        pa.field("content", pa.string(), nullable=False),
        pa.field("image", IMAGE),
        pa.field("category", pa.string()),
        pa.field("created_at", pa.timestamp("us", tz="UTC")),
    ]
)

INTERACTIONS = pa.schema(
    [
        pa.field("user_id", pa.string(), nullable=False),
        pa.field("note_id", pa.string(), nullable=False),
        pa.field("event", pa.string(), nullable=False),
        pa.field("timestamp", pa.timestamp("us", tz="UTC"), nullable=False),
    ]
)

PAIRS = pa.schema(
    [
        pa.field("query_id", pa.string(), nullable=False),
        pa.field("target_id", pa.string(), nullable=False),
        pa.field("score", pa.float32(), nullable=False),
        pa.field("support", pa.int32(), nullable=False),
    ]
)


@dataclass(frozen=True)
class Note:
    """One note in memory. `image` is the encoded file (JPEG, PNG, ...) or None."""

    note_id: str
    title: str = ""
    topics: tuple[str, ...] = ()
    content: str = ""
    image: bytes | None = None
