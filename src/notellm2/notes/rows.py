"""The two tables of a plain export, read in bounded pieces: parquet, CSV or JSON lines, each row with its place.

Readers judge the file (is it readable, has it the columns, are they of a usable type) and the form of a row (number
of fields, JSON, encoding); the values are judged by whoever reads the pieces. Nothing here holds a whole file.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

import pyarrow as pa
import pyarrow.parquet as pq

from notellm2.errors import InputError

KINDS = ("parquet", "csv", "jsonl")
_MAX_LINE = 16 * 1024 * 1024
"""Longest line of a CSV or JSON lines file, bytes; a longer one is a problem, not an exhausted memory."""

Values: TypeAlias = pa.Array | list[Any]
Refuse: TypeAlias = Callable[[int, str, str], None]
"""Called with position, reason and detail for a row whose form is wrong."""


@dataclass(frozen=True)
class Piece:
    """Some successive rows.

    Attributes:
        positions: row (parquet, from 1) or line (text files, from 1) of each row.
        columns: known column to one raw value a row; a column that the file lacks is absent.
        done: share of the file read so far.
    """

    positions: Sequence[int]
    columns: Mapping[str, Values]
    done: float


@dataclass(frozen=True)
class Column:
    """What a column may hold.

    Attributes:
        required: the file must have it.
        types: names of the types accepted of a typed file: text, integer, time, list.
        default: value of a JSON line that lacks the field.
    """

    types: tuple[str, ...]
    required: bool = False
    default: str | None = None


@dataclass
class ExportTable:
    """One table of an export.

    Attributes:
        path: its file.
        kind: parquet, csv or jsonl.
        columns: the columns that are read.
        ignored: columns that are not read; of JSON lines complete once `pieces` is exhausted.
    """

    path: Path
    kind: str
    columns: Mapping[str, Column]
    ignored: list[str] = field(default_factory=list)

    def place(self, position: int) -> str:
        """A row's place, for a person: ``notes.csv line 7``."""
        return f"{self.path.name} {'row' if self.kind == 'parquet' else 'line'} {position}"

    def pieces(self, rows: int, refuse: Refuse) -> Iterator[Piece]:
        """The rows in file order, at most `rows` at a time.

        Raises:
            InputError: the file as a whole cannot be used: unreadable, a column missing or of the wrong type.
        """
        reader = {"parquet": _parquet, "csv": _csv, "jsonl": _jsonl}[self.kind]
        with _readable(self.path):
            yield from reader(self, rows, refuse)

    def check_header(self, names: Sequence[str]) -> None:
        """Note the ignored columns, and see that the required ones are there, each once.

        Raises:
            InputError: a required column is missing, or a read one is there twice.
        """
        missing = [name for name, column in self.columns.items() if column.required and name not in names]
        if missing:
            raise InputError(
                f"{self.path}: no column {' and no column '.join(map(repr, missing))}; "
                f"found {', '.join(map(repr, names[:20])) or 'none'}"
            )
        twice = sorted({name for name in self.columns if names.count(name) > 1})
        if twice:
            raise InputError(f"{self.path}: column {', '.join(map(repr, twice))} is there more than once; keep one")
        self.ignored = [name for name in names if name not in self.columns]


def find_table(export: Path, name: str, columns: Mapping[str, Column]) -> ExportTable:
    """The file of a table in an export.

    Raises:
        InputError: there is none, or there are several.
    """
    kinds = [kind for kind in KINDS if (export / f"{name}.{kind}").is_file()]
    if len(kinds) != 1:
        there = ", ".join(f"{name}.{kind}" for kind in kinds) or "none of them"
        raise InputError(
            f"{export}: expected exactly one of {name}.parquet, {name}.csv and {name}.jsonl, found {there}"
        )
    return ExportTable(export / f"{name}.{kinds[0]}", kinds[0], columns)


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{path}: cannot be read: {error}; export it again") from error


def _parquet(table: ExportTable, rows: int, _: Refuse) -> Iterator[Piece]:
    with pq.ParquetFile(table.path) as file:
        schema = file.schema_arrow
        table.check_header(schema.names)
        wanted = [name for name in schema.names if name in table.columns]
        for name in wanted:
            _check_type(table, name, schema.field(name).type)
        total, read = file.metadata.num_rows, 0
        for batch in file.iter_batches(batch_size=rows, columns=wanted, use_threads=False):
            positions = range(read + 1, read + batch.num_rows + 1)
            read += batch.num_rows
            columns = {name: _plain(batch.column(name)) for name in wanted}
            yield Piece(positions, columns, read / total)


def _plain(array: pa.Array) -> pa.Array:
    """A dictionary or view column as an ordinary one."""
    if pa.types.is_dictionary(array.type):
        array = array.cast(array.type.value_type)
    if pa.types.is_string_view(array.type):
        array = array.cast(pa.large_string())
    return array


def _check_type(table: ExportTable, name: str, kind: pa.DataType) -> None:
    value = kind.value_type if pa.types.is_dictionary(kind) else kind
    accepted = table.columns[name].types
    is_list = pa.types.is_list(value) or pa.types.is_large_list(value)
    fits = (
        pa.types.is_null(value)
        or ("text" in accepted and is_text(value))
        or ("integer" in accepted and pa.types.is_integer(value))
        or ("time" in accepted and is_time(value))
        or ("list" in accepted and is_list and is_text(value.value_type))
    )
    if not fits:
        raise InputError(f"{table.path}: column {name!r} has type {kind}, expected {' or '.join(accepted)}")


def is_text(kind: pa.DataType) -> bool:
    """Whether an Arrow type holds text (its encoding may still be wrong)."""
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def is_time(kind: pa.DataType) -> bool:
    """Whether an Arrow type can be read as a point in time: number of seconds, timestamp or date."""
    return bool(
        pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_timestamp(kind) or pa.types.is_date(kind)
    )


def _csv(table: ExportTable, rows: int, refuse: Refuse) -> Iterator[Piece]:
    size = table.path.stat().st_size or 1
    with table.path.open("rb") as handle:
        reader = csv.reader(_decoded(handle), strict=True)
        try:
            header = [name.strip() for name in next(reader)]
        except StopIteration:
            raise InputError(f"{table.path}: empty; expected a header line with column names") from None
        except csv.Error as error:
            raise InputError(f"{table.path}: the header line is no CSV: {error}") from None
        table.check_header(header)
        kept = [(index, name) for index, name in enumerate(header) if name in table.columns]
        positions: list[int] = []
        columns: dict[str, list[Any]] = {name: [] for _, name in kept}
        while True:
            line = reader.line_num + 1
            try:
                row = next(reader)
            except StopIteration:
                break
            except csv.Error as error:
                refuse(line, "broken-csv", f"{error} (up to line {reader.line_num}); is a quote left open?")
                continue
            if not row:
                continue  # a blank line, as many tools leave at the end
            if len(row) != len(header):
                refuse(line, "wrong-field-count", f"{len(row)} fields, the header has {len(header)}")
                continue
            positions.append(line)
            for index, name in kept:
                columns[name].append(row[index])
            if len(positions) == rows:
                yield Piece(positions, columns, handle.tell() / size)
                positions, columns = [], {name: [] for _, name in kept}
        yield Piece(positions, columns, 1.0)


def _decoded(handle: BinaryIO) -> Iterator[str]:
    """Lines as text; bytes that are no UTF-8 become lone surrogates, which the fields' checks refuse row by row."""
    for line in _lines(handle):
        yield line.decode(errors="surrogateescape")


def _lines(handle: BinaryIO) -> Iterator[bytes]:
    first = True
    while line := handle.readline(_MAX_LINE):
        rest = line
        while len(rest) == _MAX_LINE and not rest.endswith(b"\n"):
            rest = handle.readline(_MAX_LINE)  # dropped: what is left is refused as a broken row with the right number
        yield line.removeprefix(b"\xef\xbb\xbf") if first else line
        first = False


def _jsonl(table: ExportTable, rows: int, refuse: Refuse) -> Iterator[Piece]:
    size = table.path.stat().st_size
    if not size:
        raise InputError(f"{table.path}: empty; expected one JSON object a line")
    seen: dict[str, None] = {}
    positions: list[int] = []
    records: list[dict[str, Any]] = []
    with table.path.open("rb") as handle:
        for number, line in enumerate(_lines(handle), 1):
            if line.isspace():
                continue
            record = _record(line, number, refuse)
            if record is None:
                continue
            if len(seen) < 1000:
                seen.update(dict.fromkeys(record))
            positions.append(number)
            records.append(record)
            if len(records) == rows:
                yield Piece(positions, _columns(table, records), handle.tell() / size)
                positions, records = [], []
    if seen:
        table.check_header(list(seen))
    yield Piece(positions, _columns(table, records), 1.0)


def _record(line: bytes, number: int, refuse: Refuse) -> dict[str, Any] | None:
    try:
        value = json.loads(line.decode())
    except UnicodeDecodeError as error:
        refuse(number, "invalid-utf8", str(error))
        return None
    except (ValueError, RecursionError) as error:
        refuse(number, "broken-json", f"{type(error).__name__}: {error}")
        return None
    if not isinstance(value, dict):
        refuse(number, "wrong-type", f"expected a JSON object, found {type(value).__name__}")
        return None
    return value


def _columns(table: ExportTable, records: Sequence[Mapping[str, Any]]) -> dict[str, Values]:
    present = {name for record in records for name in record.keys() & table.columns.keys()}
    return {
        name: [record.get(name, column.default) for record in records]
        for name, column in table.columns.items()
        if name in present
    }
