"""What the readers of an export's tables share: pieces of rows, columns, one file, and rows that are refused.

Readers judge the file (is it readable, has it the columns, are they of a usable type) and the form of a row (number
of fields, JSON, encoding); the values are judged by whoever reads the pieces. Nothing here holds a whole file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, TypeAlias

import pyarrow as pa

from notellm2.errors import InputError

MAX_LINE = 16 * 1024 * 1024
"""Longest line of a CSV or JSON lines file, bytes; a longer one is a problem, not an exhausted memory."""

Values: TypeAlias = pa.Array | list[Any]


@dataclass(frozen=True)
class Piece:
    """Hold some successive rows of a table.

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
    """A row, or a span of lines in which no row can be recognised, whose form is wrong.

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
    """Return whether an Arrow type holds text (its encoding may still be wrong)."""
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def is_time(kind: pa.DataType) -> bool:
    """Return whether an Arrow type can be read as a point in time: number of seconds, timestamp or date."""
    return bool(
        pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_timestamp(kind) or pa.types.is_date(kind)
    )


class Line(NamedTuple):
    """A line of a text file.

    Attributes:
        data: its bytes with the line break; the beginning of a line that is longer than `MAX_LINE`.
        dropped: the double quotes in the rest of such a line, which is not in `data`; None: nothing was dropped.
    """

    data: bytes
    dropped: int | None = None


def read_line(handle: BinaryIO, begun: bytes = b"") -> Line:
    """Read one line in bounded memory, or the rest of one; without bytes at the end of the file.

    Args:
        handle: of the file.
        begun: what was read of the line, at most `MAX_LINE` bytes; empty: nothing.
    """
    data = begun or handle.readline(MAX_LINE)
    if len(data) < MAX_LINE or data.endswith(b"\n"):
        return Line(data)
    rest, quotes = data, 0
    while len(rest) == MAX_LINE and not rest.endswith(b"\n"):
        rest = handle.readline(MAX_LINE)
        quotes += rest.count(b'"')
    return Line(data, quotes if rest or quotes else None)


def without_mark(data: bytes) -> bytes:
    """Strip the byte order mark from the first line of a file."""
    return data.removeprefix(b"\xef\xbb\xbf")
