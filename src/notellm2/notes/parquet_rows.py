"""Parquet as rows, a batch at a time, with the types of its columns checked first."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa
import pyarrow.parquet as pq

from notellm2.errors import InputError
from notellm2.notes.rows import Piece, Refuse, SourceFile, is_text, is_time


def read_parquet(source: SourceFile, rows: int, _: Refuse) -> Iterator[Piece]:
    """Read a parquet file; see `tables.ExportTable.pieces`."""
    with pq.ParquetFile(source.path) as file:
        schema = file.schema_arrow
        source.check_header(schema.names)
        wanted = [name for name in schema.names if name in source.columns]
        for name in wanted:
            _check_type(source, name, schema.field(name).type)
        total = file.metadata.num_rows
        for batch in file.iter_batches(batch_size=rows, columns=wanted, use_threads=False):
            positions = range(source.length + 1, source.length + batch.num_rows + 1)
            source.length += batch.num_rows
            columns = {name: _plain(batch.column(name)) for name in wanted}
            yield Piece(positions, columns, source.length / total)


def _plain(array: pa.Array) -> pa.Array:
    """A dictionary or view column as an ordinary one."""
    if pa.types.is_dictionary(array.type):
        array = array.cast(array.type.value_type)
    if pa.types.is_string_view(array.type):
        array = array.cast(pa.large_string())
    return array


def _check_type(source: SourceFile, name: str, kind: pa.DataType) -> None:
    value = kind.value_type if pa.types.is_dictionary(kind) else kind
    accepted = source.columns[name].types
    is_list = pa.types.is_list(value) or pa.types.is_large_list(value)
    fits = (
        pa.types.is_null(value)
        or ("text" in accepted and is_text(value))
        or ("integer" in accepted and pa.types.is_integer(value))
        or ("time" in accepted and is_time(value))
        or ("list" in accepted and is_list and is_text(value.value_type))
    )
    if not fits:
        raise InputError(f"{source.path}: column {name!r} has type {kind}, expected {' or '.join(accepted)}")
