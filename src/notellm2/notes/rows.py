"""What the readers of an export's tables share: pieces of rows, columns, one file, and rows that are refused.

Readers judge the file (is it readable, has it the columns, are they of a usable type) and the form of a row (number
of fields, JSON, encoding); the values are judged by whoever reads the pieces. Nothing here holds a whole file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

import pyarrow as pa

from notellm2.errors import InputError

MAX_LINE = 16 * 1024 * 1024
"""Longest line of a CSV or JSON lines file, bytes; a longer one is a problem, not an exhausted memory."""

Values: TypeAlias = pa.Array | list[Any]


@dataclass(frozen=True)
class Piece:
    """Some successive rows.

    Attributes:
        positions: row (parquet, from 1) or first line (text files, from 1) of each row.
        columns: known column to one raw value a row; a column that the file lacks is absent.
        done: share of the file read so far.
    """

    positions: Sequence[int]
    columns: Mapping[str, Values]
    done: float


@dataclass(frozen=True)
class Refusal:
    """A row, or a span of lines in which rows cannot be told apart, whose form is wrong.

    Attributes:
        first: its first row or line.
        last: its last one.
        reason: short name of the problem.
        detail: what is wrong, for a person.
    """

    first: int
    last: int
    reason: str
    detail: str

    @property
    def lines(self) -> int:
        """How many rows or lines are lost."""
        return self.last - self.first + 1


Refuse: TypeAlias = Callable[[Refusal], None]


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
class SourceFile:
    """One file of a table.

    Attributes:
        path: the file.
        columns: the columns that are read.
        constants: columns that the names of its folders hold (``event=click/``), the same for every row.
        ignored: columns that are not read; complete once the file was read to its end.
        length: rows (parquet) or lines (text files) read so far.
        remarks: what a person should know of how it was read.
    """

    path: Path
    columns: Mapping[str, Column]
    constants: Mapping[str, str | None] = field(default_factory=dict)
    ignored: list[str] = field(default_factory=list)
    length: int = 0
    remarks: list[str] = field(default_factory=list)

    def check_header(self, names: Sequence[str]) -> None:
        """Note the ignored columns, and see that the required ones are there, each once.

        Raises:
            InputError: a required column is missing, or a read one is there twice.
        """
        present = {*names, *self.constants}
        missing = [name for name, column in self.columns.items() if column.required and name not in present]
        if missing:
            raise InputError(
                f"{self.path}: no column {' and no column '.join(map(repr, missing))}; "
                f"found {', '.join(map(repr, names[:20])) or 'none'}"
            )
        twice = sorted({name for name in self.columns if names.count(name) > 1})
        if twice:
            raise InputError(f"{self.path}: column {', '.join(map(repr, twice))} is there more than once; keep one")
        self.ignored = [name for name in dict.fromkeys([*names, *self.constants]) if name not in self.columns]


def is_text(kind: pa.DataType) -> bool:
    """Whether an Arrow type holds text (its encoding may still be wrong)."""
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def is_time(kind: pa.DataType) -> bool:
    """Whether an Arrow type can be read as a point in time: number of seconds, timestamp or date."""
    return bool(
        pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_timestamp(kind) or pa.types.is_date(kind)
    )


@dataclass(frozen=True)
class Line:
    """A line of a text file.

    Attributes:
        data: its bytes with the line break; the beginning of a line that is longer than `MAX_LINE`.
        dropped: the bytes of such a line that are not in `data`.
        quotes: number of double quotes in all of it.
    """

    data: bytes
    dropped: int
    quotes: int


def lines_of(handle: BinaryIO) -> Iterator[Line]:
    """Read lines in bounded memory, without the byte order mark at the beginning."""
    first = True
    while data := handle.readline(MAX_LINE):
        rest, dropped, quotes = data, 0, data.count(b'"')
        while len(rest) == MAX_LINE and not rest.endswith(b"\n"):
            rest = handle.readline(MAX_LINE)
            dropped += len(rest)
            quotes += rest.count(b'"')
        yield Line(data.removeprefix(b"\xef\xbb\xbf") if first else data, dropped, quotes)
        first = False
