"""JSON lines as rows: one object a line."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from notellm2.errors import InputError
from notellm2.notes.compressed import open_unpacked
from notellm2.notes.rows import MAX_LINE, Piece, Refusal, Refuse, SourceFile, Values, read_line, without_mark

_MOST_NAMES = 1000
"""Different fields remembered for the report; a file that uses ids as field names has millions."""


def read_jsonl(source: SourceFile, rows: int, refuse: Refuse) -> Iterator[Piece]:
    """Read a JSON lines file; see `tables.ExportTable.pieces`."""
    seen: dict[str, None] = {}
    positions: list[int] = []
    records: list[dict[str, Any]] = []
    with open_unpacked(source.path) as (handle, done):
        while (line := read_line(handle)).data:
            source.length += 1
            data = without_mark(line.data) if source.length == 1 else line.data
            if line.dropped is not None:
                detail = f"a line longer than {MAX_LINE} bytes"
                refuse(Refusal(source.length, source.length, "broken-json", detail))
                continue
            if not data or data.isspace():
                continue
            record = _record(data, source.length, refuse)
            if record is None:
                continue
            if len(seen) < _MOST_NAMES:
                seen.update(dict.fromkeys(record))
            positions.append(source.length)
            records.append(record)
            if len(records) == rows:
                yield Piece(positions, _columns(source, records), done())
                positions, records = [], []
    if not source.length:
        raise InputError(f"{source.path}: empty; expected one JSON object a line")
    if seen:
        source.check_header(list(seen))
    yield Piece(positions, _columns(source, records), 1.0)


def _record(line: bytes, number: int, refuse: Refuse) -> dict[str, Any] | None:
    try:
        value = json.loads(line.decode())
    except UnicodeDecodeError as error:
        refuse(Refusal(number, number, "invalid-utf8", str(error)))
        return None
    except (ValueError, RecursionError) as error:
        refuse(Refusal(number, number, "broken-json", f"{type(error).__name__}: {error}"))
        return None
    if not isinstance(value, dict):
        detail = f"expected a JSON object, found {type(value).__name__}"
        refuse(Refusal(number, number, "wrong-type", detail))
        return None
    return value


def _columns(source: SourceFile, records: Sequence[Mapping[str, Any]]) -> dict[str, Values]:
    present = {name for record in records for name in record.keys() & source.columns.keys()}
    return {
        name: [record.get(name, column.default) for record in records]
        for name, column in source.columns.items()
        if name in present
    }
