"""CSV as records, each with the lines it spans; a broken record keeps every line that may belong to it.

A stray quote makes what follows one long field, and no reader can tell rows from the text of that field. So a broken
record ends where its quotes are balanced again and the next quote begins a field, at the end of the file at the
latest. All its lines are set aside as one span: a line that may be the middle of a text is never taken for a row.

Quotes within quotes are doubled (RFC 4180). Spark and MySQL write ``\\"`` instead. A file that holds ``\\"`` is read
once in each way to see which one leaves fewer lines broken (it costs two passes, and only such files).
"""

from __future__ import annotations

import csv
import itertools
import re
from collections import deque
from collections.abc import Iterator
from typing import Any, BinaryIO, NamedTuple

from notellm2.errors import InputError
from notellm2.notes.compressed import open_unpacked
from notellm2.notes.rows import MAX_LINE, Piece, Refusal, Refuse, SourceFile, read_line, without_mark

BACKSLASH = 'quotes within quotes are written \\", and were read so'
"""Remark on a file whose quotes are escaped by backslashes."""

_ESCAPED = re.compile(r'\\(["\\]|(?=\r?\n))')
_CLOSING = re.compile(r'[^"]*"(,|\r?\n|\Z)')
"""A line whose first quote ends a field rather than begins one."""
_CHUNK = 1024 * 1024


class _Record(NamedTuple):
    """One record: its lines and its fields, or what is wrong with its form."""

    first: int
    last: int
    fields: list[str]
    problem: Refusal | None = None


def read_csv(source: SourceFile, rows: int, refuse: Refuse) -> Iterator[Piece]:
    """Read a CSV file; see `tables.ExportTable.pieces`."""
    escaped = _has_escaped_quotes(source) and _reads_better_escaped(source)
    if escaped:
        source.remarks.append(BACKSLASH)
    with open_unpacked(source.path) as (handle, done):
        records = _records(handle, escaped)
        header = _header(source, records)
        kept = [(index, name) for index, name in enumerate(header) if name in source.columns]
        positions: list[int] = []
        columns: dict[str, list[Any]] = {name: [] for _, name in kept}
        for record in records:
            source.length = record.last
            if record.problem is not None:
                refuse(record.problem)
                continue
            if not record.fields:
                continue  # a blank line, as many tools leave at the end
            positions.append(record.first)
            for index, name in kept:
                columns[name].append(record.fields[index])
            if len(positions) == rows:
                yield Piece(positions, columns, done())
                positions, columns = [], {name: [] for _, name in kept}
        yield Piece(positions, columns, 1.0)


def _header(source: SourceFile, records: Iterator[_Record]) -> list[str]:
    record = next(records, None)
    if record is None:
        raise InputError(f"{source.path}: empty; expected a header line with column names")
    if record.problem is not None:
        raise InputError(f"{source.path}: the header line is no CSV: {record.problem.detail}")
    header = [name.strip() for name in record.fields]
    source.check_header(header)
    source.length = record.last
    return header


class _Text(NamedTuple):
    """A line as the parser gets it; `dropped` as `Line` has it."""

    text: str
    dropped: int | None

    @property
    def quotes(self) -> int:
        return self.text.count('"') + (self.dropped or 0)


class _Lines:
    """Lines as text for the CSV parser, counted since the current record began.

    Bytes that are no UTF-8 become lone surrogates, which the fields' checks refuse row by row.
    """

    def __init__(self, handle: BinaryIO, escaped: bool) -> None:
        self._handle = handle
        self._readline = handle.readline
        self._escaped = escaped
        self._ahead: deque[_Text] = deque()
        self._read: list[str] = []
        self._dropped = 0
        self._begun = b""
        self.number = 0
        self.begin()

    def begin(self) -> None:
        """Start a record with the next line."""
        self.first = self.number + 1
        self._read.clear()
        self._dropped = 0

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        if self.number and not self._ahead:  # the usual case, without a call a line
            data = self._readline(MAX_LINE)
            if data.endswith(b"\n"):
                text = data.decode(errors="surrogateescape")
                if self._escaped:
                    text = _ESCAPED.sub(_unescaped, text)
                self.number += 1
                self._read.append(text)
                return text
            self._begun = data
        line = self._advance()
        if line is None:
            raise StopIteration
        if line.dropped is not None:
            raise csv.Error(f"a line longer than {MAX_LINE} bytes")
        return line.text

    def _advance(self) -> _Text | None:
        line = self._ahead.popleft() if self._ahead else self._next_text()
        if line is not None:
            self.number += 1
            self._read.append(line.text)
            self._dropped += line.dropped or 0
        return line

    def _next_text(self) -> _Text | None:
        data, dropped = read_line(self._handle, self._begun)
        self._begun = b""
        if not data:
            return None
        if self.number == 0 and not self._ahead:
            data = without_mark(data)
        text = data.decode(errors="surrogateescape")
        return _Text(_ESCAPED.sub(_unescaped, text) if self._escaped else text, dropped)

    @property
    def quotes(self) -> int:
        """Double quotes since `begin`."""
        return sum(text.count('"') for text in self._read) + self._dropped

    def skip_broken(self) -> None:
        """Read on to where the broken record must have ended: its quotes are balanced, and none of a text follows."""
        quotes = self.quotes
        while True:
            while quotes % 2:
                line = self._advance()
                if line is None:
                    return
                quotes += line.quotes
                self._read.clear()  # the rest of a file may follow
            rest = self._lines_of_open_text()
            if not rest:
                return
            quotes += 1  # the quote that open_unpacked this text was lost in the broken record
            for _ in range(rest):
                line = self._advance()
                quotes += line.quotes if line else 0

    def _lines_of_open_text(self) -> int:
        """How many lines on a text ends that is still open, by the next quote in reach; 0: no text is open."""
        length = 0
        for count in itertools.count():
            if count == len(self._ahead):
                read = self._next_text()
                if read is None:
                    return 0
                self._ahead.append(read)
            line = self._ahead[count]
            if line.quotes:
                return count + 1 if _CLOSING.match(line.text) else 0
            length += len(line.text)
            if length > csv.field_size_limit():
                return 0
        raise AssertionError("unreachable")


def _unescaped(match: re.Match[str]) -> str:
    return '""' if match[1] == '"' else match[1]


def _records(handle: BinaryIO, escaped: bool) -> Iterator[_Record]:
    """Every record of a file, the header first; those of another width than the header's have a problem."""
    lines = _Lines(handle, escaped)
    reader = csv.reader(lines, strict=True)
    width: int | None = None
    while True:
        lines.begin()
        fields: list[str] = []
        reason, problem = "broken-csv", None
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            problem = str(error)
        width = len(fields) if width is None else width
        if problem is None and fields and len(fields) != width:
            reason, problem = "wrong-field-count", f"{len(fields)} fields, the header has {width}"
        if problem is None:
            yield _Record(lines.first, lines.number, fields)
            continue
        if lines.quotes:
            lines.skip_broken()
        if lines.number > lines.first:
            problem += "; is a quote left open?"
        yield _Record(lines.first, lines.number, [], Refusal(lines.first, lines.number, reason, problem))


def _has_escaped_quotes(source: SourceFile) -> bool:
    with open_unpacked(source.path) as (handle, _):
        last = b""
        while chunk := handle.read(_CHUNK):
            if b'\\"' in last + chunk:
                return True
            last = chunk[-1:]
    return False


def _reads_better_escaped(source: SourceFile) -> bool:
    return _broken_lines(source, escaped=True) < _broken_lines(source, escaped=False)


def _broken_lines(source: SourceFile, *, escaped: bool) -> int:
    """How many lines of the file cannot be read in one of the two ways."""
    with open_unpacked(source.path) as (handle, _):
        return sum(record.problem.lines for record in _records(handle, escaped) if record.problem)
