"""Raw interaction rows to typed ones, a whole piece at a time.

The meaning of every value is that of `fields`; the vectorised path only decides which rows are beyond doubt, and leaves
the others to the row path, which names the problem. Measured: 391,685 rows of
parquet in 0.16 s of CPU against 1.0 s row by row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from notellm2.notes.fields import FIRST_MICROS, LAST_MICROS, FieldProblem, Micros, identifier, required_moment, text
from notellm2.notes.rows import Column, Piece, Values, is_text
from notellm2.notes.schema import INTERACTIONS

DEFAULT_EVENT = "click"
COLUMNS = {
    "user_id": Column(("text", "integer"), required=True),
    "note_id": Column(("text", "integer"), required=True),
    "timestamp": Column(("text", "time"), required=True),
    "event": Column(("text",), default=DEFAULT_EVENT),
}

_PER_SECOND = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}
_DAY = 86_400


@dataclass(frozen=True)
class RowProblem:
    """A row that cannot be used.

    Attributes:
        position: its row or line.
        identifier: user and note where they could be read.
    """

    position: int
    reason: str
    identifier: str | None
    detail: str


def read_interactions(piece: Piece, note_ids: pa.Array) -> tuple[pa.Table, list[RowProblem]]:
    """Read the usable rows of a piece, in order, and what is wrong with the others.

    Args:
        piece: raw rows with the columns of `COLUMNS`; without ``event`` each row is a click.
        note_ids: ids of the notes; a row that names another is a problem.

    Returns:
        A table of the schema `INTERACTIONS`, and the problems in order.
    """
    rows = len(piece.positions)
    columns: dict[str, Values | None] = {name: piece.columns.get(name) for name in COLUMNS}
    if "event" not in piece.columns:
        columns["event"] = [DEFAULT_EVENT] * rows
    table, sound = _vectorised(columns, rows)
    problems: list[RowProblem] = []
    if not sound.all():
        table, problems = _row_by_row(columns, piece.positions, table, sound)
    return _drop_unknown(table, piece.positions, problems, note_ids)


def _vectorised(columns: dict[str, Values | None], rows: int) -> tuple[pa.Table, npt.NDArray[np.bool_]]:
    """Typed columns with nulls where a value is doubtful, and the mask of the rows without any."""
    sound = np.ones(rows, dtype=bool)
    arrays = []
    for column in INTERACTIONS:
        values = columns[column.name]
        array = _instants(values, rows) if column.name == "timestamp" else _texts(values, rows)
        arrays.append(array)
        sound &= np.asarray(pc.is_valid(array).to_numpy(zero_copy_only=False), dtype=bool)
    nullable = pa.schema([column.with_nullable(True) for column in INTERACTIONS])
    return pa.Table.from_arrays(arrays, schema=nullable), sound


def _texts(values: Values | None, rows: int) -> pa.Array:
    """Strings; null where the row path must look."""
    if isinstance(values, pa.Array) and pa.types.is_integer(values.type):
        return values.cast(pa.string())
    try:
        if isinstance(values, pa.Array) and is_text(values.type):
            # By way of binary: Arrow checks UTF-8 only when it casts from bytes.
            array = values.cast(pa.large_binary()).cast(pa.string())
        elif isinstance(values, list) and all(type(value) is str for value in values):
            array = pa.array(values, pa.string())
        else:
            return pa.nulls(rows, pa.string())
    except (pa.ArrowInvalid, UnicodeEncodeError):
        return pa.nulls(rows, pa.string())
    blank = pc.fill_null(pc.equal(pc.utf8_trim_whitespace(array), ""), False)
    return pc.if_else(blank, pa.scalar(None, pa.string()), array)


def _instants(values: Values | None, rows: int) -> pa.Array:
    """Times as the schema's type; null where the row path must look."""
    kind = INTERACTIONS.field("timestamp").type
    if isinstance(values, list) and all(type(value) is str and value.isdecimal() for value in values):
        if all(len(value) < 16 and value.isascii() for value in values):
            values = pa.array([int(value) for value in values], pa.int64())
    elif isinstance(values, list) and all(type(value) is int and abs(value) < 2**62 for value in values):
        values = pa.array(values, pa.int64())
    if not isinstance(values, pa.Array) or is_text(values.type) or pa.types.is_null(values.type):
        return pa.nulls(rows, kind)
    micros, sound = as_micros(values)
    return pa.array(micros, pa.int64(), mask=~sound).cast(kind)


def as_micros(array: pa.Array) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """Convert numbers (Unix seconds), timestamps or dates to microseconds since 1970 (UTC), and mark the usable ones.

    Null, not finite or outside the years 1 to 9999 is not usable, and 0.
    """
    kind = array.type
    valid = np.asarray(pc.is_valid(array).to_numpy(zero_copy_only=False), dtype=bool)
    if pa.types.is_floating(kind):
        seconds = pc.fill_null(array.cast(pa.float64()), 0.0).to_numpy(zero_copy_only=False)
        with np.errstate(invalid="ignore", over="ignore"):
            scaled = np.round(seconds * 1e6)
            # The last microsecond itself has no float: the nearest one is already the year 10000.
            sound = valid & np.isfinite(scaled) & (scaled >= FIRST_MICROS) & (scaled < LAST_MICROS + 1)
        return np.where(sound, scaled, 0).astype(np.int64), sound
    if pa.types.is_uint64(kind):
        array = pc.if_else(pc.less(array, pa.scalar(2**62, pa.uint64())), array, pa.scalar(2**62, pa.uint64()))
    per_second, seconds_each = 1, 1
    if pa.types.is_timestamp(kind):
        per_second = _PER_SECOND[kind.unit]
    elif pa.types.is_date32(kind):
        seconds_each, array = _DAY, array.cast(pa.int32())
    elif pa.types.is_date64(kind):
        per_second = 1_000
    ticks = pc.fill_null(array.cast(pa.int64()), 0).to_numpy(zero_copy_only=False)
    if per_second > 1_000_000:
        micros = ticks // (per_second // 1_000_000)
        return np.where(valid, micros, 0), valid
    factor = seconds_each * (1_000_000 // per_second)
    sound = valid & (ticks >= -(-FIRST_MICROS // factor)) & (ticks <= LAST_MICROS // factor)
    return np.where(sound, ticks, 0) * factor, sound


def raw_instants(array: pa.Array) -> list[Any]:
    """Return a typed time column as raw values for `fields.moment`: `Micros`, None for null."""
    micros, sound = as_micros(array)
    out_of_range = Micros(LAST_MICROS + 1)
    valid = pc.is_valid(array).to_pylist()
    return [
        (Micros(value) if usable else out_of_range) if there else None
        for value, usable, there in zip(micros.tolist(), sound.tolist(), valid, strict=True)
    ]


def raw_values(values: Values, rows: Sequence[int] | None = None) -> list[Any]:
    """Return a column as Python values for `fields`, text as bytes (its encoding is not checked yet)."""
    if isinstance(values, list):
        return values if rows is None else [values[row] for row in rows]
    array = values if rows is None else values.take(pa.array(rows, pa.int64()))
    kind = array.type
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        return raw_instants(array)
    if is_text(kind):
        array = array.cast(pa.large_binary())
    elif pa.types.is_list(kind) or pa.types.is_large_list(kind):
        array = array.cast(pa.large_list(pa.large_binary()))
    return list(array.to_pylist())


def _row_by_row(
    columns: dict[str, Values | None],
    positions: Sequence[int],
    table: pa.Table,
    sound: npt.NDArray[np.bool_],
) -> tuple[pa.Table, list[RowProblem]]:
    """Settle the doubtful rows; the result keeps one row for each, with null ids where the row is a problem."""
    doubtful = np.flatnonzero(~sound).tolist()
    nothing: list[Any] = [None] * len(doubtful)
    raw = {}
    for name in COLUMNS:
        values = columns[name]
        raw[name] = nothing if values is None else raw_values(values, doubtful)
    settled: dict[str, list[Any]] = {name: [] for name in INTERACTIONS.names}
    problems = []
    for index, row in enumerate(doubtful):
        values_of_row = {name: raw[name][index] for name in COLUMNS}
        try:
            fields: dict[str, Any] = _typed(values_of_row)
        except FieldProblem as problem:
            problems.append(RowProblem(positions[row], problem.reason, _who(values_of_row), problem.detail))
            fields = dict.fromkeys(INTERACTIONS.names)
        for name, value in fields.items():
            settled[name].append(value)
    where = pa.array(~sound)
    merged = [
        pc.replace_with_mask(table.column(name).combine_chunks(), where, _typed_array(settled[name], name))
        for name in INTERACTIONS.names
    ]
    return pa.Table.from_arrays(merged, schema=table.schema), problems


def _typed_array(values: list[Any], name: str) -> pa.Array:
    kind = INTERACTIONS.field(name).type
    return pa.array(values, pa.int64()).cast(kind) if name == "timestamp" else pa.array(values, kind)


def _typed(row: dict[str, Any]) -> dict[str, Any]:
    event = text(row["event"], "event")
    typed = {
        "user_id": identifier(row["user_id"], "user_id"),
        "note_id": identifier(row["note_id"], "note_id"),
        "event": event,
        "timestamp": required_moment(row["timestamp"], "timestamp"),
    }
    if not event.strip():
        raise FieldProblem("wrong-type", "event: no value; expected a name such as click")
    return typed


def _who(row: dict[str, Any]) -> str | None:
    parts = []
    for name in ("user_id", "note_id"):
        try:
            parts.append(f"{name} {identifier(row[name], name)}")
        except FieldProblem:
            continue  # this one is part of what is wrong with the row
    return ", ".join(parts) or None


def _drop_unknown(
    table: pa.Table, positions: Sequence[int], problems: list[RowProblem], note_ids: pa.Array
) -> tuple[pa.Table, list[RowProblem]]:
    ids = table.column("note_id")
    kept = pc.is_in(ids, value_set=note_ids)
    strangers = pc.and_(pc.is_valid(ids), pc.invert(kept))
    all_problems = list(problems)
    for row in np.flatnonzero(strangers.to_numpy()).tolist():
        user, note = table.column("user_id")[row].as_py(), ids[row].as_py()
        all_problems.append(
            RowProblem(
                positions[row], "unknown-note", f"user_id {user}, note_id {note}", f"note_id: no note {note!r} was kept"
            )
        )
    all_problems.sort(key=lambda problem: problem.position)
    return table.filter(pc.and_(pc.is_valid(ids), kept)).cast(INTERACTIONS), all_problems
