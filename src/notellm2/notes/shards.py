"""Parquet shards of bounded size whose bytes depend on the rows alone.

No timestamps, no pandas metadata, fixed compression and fixed cuts: the same rows give the same files under the
locked versions, however they were handed over. So a data version's md5 can be reproduced.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pyarrow as pa
import pyarrow.parquet as pq

from notellm2.notes.schema import INTERACTIONS, NOTES

NOTES_PER_GROUP = 1024
NOTE_BYTES_PER_GROUP = 16 * 1024 * 1024
NOTES_PER_SHARD = 20 * NOTES_PER_GROUP
NOTE_BYTES_PER_SHARD = 64 * 1024 * 1024
INTERACTIONS_PER_GROUP = 128 * 1024
INTERACTIONS_PER_SHARD = 16 * INTERACTIONS_PER_GROUP

_LEVEL = 3


class _Shards:
    """Numbered files of one schema, opened as needed."""

    def __init__(self, directory: Path, schema: pa.Schema, plain: tuple[str, ...]):
        directory.mkdir()
        self._directory = directory
        self._schema = schema
        leaves = [column.path for column in pq.ParquetFile(_empty(schema)).schema]
        # Encoded images do not compress: zstd, dictionaries and min/max of them would only cost time and room.
        self._settings: dict[str, Any] = {
            "compression": {leaf: "none" if leaf in plain else "zstd" for leaf in leaves},
            "compression_level": {leaf: _LEVEL for leaf in leaves if leaf not in plain},
            "use_dictionary": [leaf for leaf in leaves if leaf not in plain],
            "write_statistics": [leaf for leaf in leaves if leaf not in plain],
        }
        self._files = 0
        self._writer: pq.ParquetWriter | None = None

    def write_group(self, table: pa.Table) -> None:
        if self._writer is None:
            path = self._directory / f"part-{self._files:05d}.parquet"
            self._writer = pq.ParquetWriter(path, self._schema, version="2.6", **self._settings)
            self._files += 1
        self._writer.write_table(table, row_group_size=table.num_rows)

    def cut(self) -> None:
        """End the file; the next group begins another one."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None


def _empty(schema: pa.Schema) -> pa.BufferReader:
    sink = pa.BufferOutputStream()
    pq.write_table(schema.empty_table(), sink)
    return pa.BufferReader(sink.getvalue())


class NoteShards:
    """Writes ``notes/part-*.parquet``; holds at most one row group (16 MiB of images and text) in memory."""

    def __init__(self, directory: Path):
        self._shards = _Shards(directory, NOTES, plain=("image.bytes",))
        self._rows: list[Mapping[str, Any]] = []
        self._group_bytes = self._shard_bytes = self._shard_rows = 0

    def add(self, row: Mapping[str, Any]) -> None:
        """Append a note: the columns of `NOTES`, created_at as microseconds."""
        self._rows.append(row)
        size = len(row["content"]) + len(row["title"]) + (len(row["image"]["bytes"]) if row["image"] else 0)
        self._group_bytes += size
        self._shard_bytes += size
        self._shard_rows += 1
        if len(self._rows) >= NOTES_PER_GROUP or self._group_bytes >= NOTE_BYTES_PER_GROUP:
            self._flush()
        if self._shard_rows >= NOTES_PER_SHARD or self._shard_bytes >= NOTE_BYTES_PER_SHARD:
            self._flush()
            self._shards.cut()
            self._shard_bytes = self._shard_rows = 0

    def _flush(self) -> None:
        if self._rows:
            self._shards.write_group(pa.Table.from_pylist(self._rows, schema=NOTES))
        self._rows, self._group_bytes = [], 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._flush()
        self._shards.cut()


class InteractionShards:
    """Writes ``interactions/part-*.parquet`` in groups of 131,072 rows, sixteen groups a file."""

    def __init__(self, directory: Path):
        self._shards = _Shards(directory, INTERACTIONS, plain=())
        self._waiting: list[pa.Table] = []
        self._rows = 0
        self._groups = 0

    def add(self, table: pa.Table) -> None:
        """Append rows of the schema `INTERACTIONS`."""
        self._waiting.append(table)
        self._rows += table.num_rows
        while self._rows >= INTERACTIONS_PER_GROUP:
            self._flush(INTERACTIONS_PER_GROUP)

    def _flush(self, rows: int) -> None:
        # One chunk a column: parquet's pages would otherwise end where the pieces that came in did.
        table = pa.concat_tables(self._waiting)
        self._shards.write_group(table.slice(0, rows).combine_chunks())
        rest = table.slice(rows)
        self._waiting, self._rows = ([rest], rest.num_rows) if rest.num_rows else ([], 0)
        self._groups += 1
        if self._groups * INTERACTIONS_PER_GROUP >= INTERACTIONS_PER_SHARD:
            self._shards.cut()
            self._groups = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None and self._rows:
            self._flush(self._rows)
        self._shards.cut()
