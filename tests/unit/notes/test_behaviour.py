from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from notellm2.notes import behaviour
from notellm2.notes.behaviour import as_micros, read_interactions
from notellm2.notes.fields import FIRST_MICROS, LAST_MICROS
from notellm2.notes.rows import Piece
from notellm2.notes.schema import INTERACTIONS

KNOWN = pa.array(["a", "b", "1"], pa.string())

_IDS = st.one_of(st.none(), st.sampled_from(["a", "b", "", " ", "x", "\ud800", "Ä"]), st.integers(-2, 2), st.just(1.5))
_TIMES = st.one_of(
    st.none(),
    st.integers(-(2**70), 2**70),
    st.integers(0, 2_000_000_000),
    st.floats(),
    st.sampled_from([253_402_300_800.0, 253_402_300_799.0, -62_135_596_800.0, -62_135_596_800.5]),
    st.sampled_from(["", "5", "1.5", "-3", "٣", "2020-01-01", "2020-01-01T00:00:00+02:00", "nan", "9" * 30]),
)


def _row_path_only(columns: Any, rows: int) -> Any:
    nullable = pa.schema([column.with_nullable(True) for column in INTERACTIONS])
    nothing = [pa.nulls(rows, column.type) for column in INTERACTIONS]
    return pa.Table.from_arrays(nothing, schema=nullable), np.zeros(rows, dtype=bool)


def _both(piece: Piece) -> None:
    fast = read_interactions(piece, KNOWN)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(behaviour, "_vectorised", _row_path_only)
        slow = read_interactions(piece, KNOWN)
    assert fast[0].equals(slow[0])
    assert fast[1] == slow[1]
    assert fast[0].num_rows + len(fast[1]) == len(piece.positions)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(_IDS, _IDS, _TIMES, st.sampled_from(["view", "", None])), min_size=1, max_size=8))
def test_untyped_rows_mean_the_same_by_the_piece_and_one_by_one(rows: list[tuple[Any, ...]]) -> None:
    names = ("user_id", "note_id", "timestamp", "event")
    columns = {name: [row[index] for row in rows] for index, name in enumerate(names)}
    _both(Piece(range(1, len(rows) + 1), columns, 1.0))


_KINDS = st.sampled_from(
    [pa.int8(), pa.int64(), pa.uint64(), pa.float32(), pa.float64(), pa.date32(), pa.date64(), pa.null()]
    + [pa.timestamp(unit) for unit in ("s", "ms", "us", "ns")]
)


@settings(max_examples=200, deadline=None)
@given(
    _KINDS, st.lists(st.one_of(st.none(), st.integers(-(2**63), 2**63 - 1), st.integers(-9, 9)), min_size=1, max_size=6)
)
def test_typed_times_mean_the_same_by_the_piece_and_one_by_one(kind: pa.DataType, values: list[int | None]) -> None:
    if pa.types.is_null(kind):
        column = pa.nulls(len(values))
    elif pa.types.is_floating(kind):
        # Through Python: Arrow refuses integers that a float cannot hold exactly.
        floats = [None if value is None else float(value) for value in values]
        column = pa.array(floats, pa.float64()).cast(kind, safe=False)
    else:
        column = pa.array(values, pa.int64()).cast(pa.int32() if pa.types.is_date32(kind) else pa.int64(), safe=False)
        column = column.cast(kind, safe=False)
    ids = pa.array(["a"] * len(values))
    _both(Piece(range(1, len(values) + 1), {"user_id": ids, "note_id": ids, "timestamp": column}, 1.0))


def test_the_bounds_of_time_are_exact() -> None:
    micros, sound = as_micros(
        pa.array([FIRST_MICROS - 1, FIRST_MICROS, LAST_MICROS, LAST_MICROS + 1], pa.timestamp("us"))
    )
    assert sound.tolist() == [False, True, True, False]
    assert micros.tolist() == [0, FIRST_MICROS, LAST_MICROS, 0]
    micros, sound = as_micros(pa.array([-62_135_596_800, 253_402_300_799, 253_402_300_800, None], pa.int64()))
    assert sound.tolist() == [True, True, False, False]
    assert micros.tolist() == [FIRST_MICROS, 253_402_300_799_000_000, 0, 0]


def test_the_bounds_of_time_are_exact_for_floats() -> None:
    seconds = [-62_135_596_801.0, -62_135_596_800.0, 253_402_300_799.0, 253_402_300_800.0, float("nan"), float("-inf")]
    assert as_micros(pa.array(seconds))[1].tolist() == [False, True, True, False, False, False]


def test_problems_come_in_the_order_of_the_rows() -> None:
    columns: dict[str, Any] = {
        "user_id": ["u"] * 4,
        "note_id": ["x", None, "y", "a"],
        "timestamp": [1, 2, 3, "never"],
    }
    table, problems = read_interactions(Piece([10, 20, 30, 40], columns, 1.0), KNOWN)
    assert table.num_rows == 0
    assert [(p.position, p.reason) for p in problems] == [
        (10, "unknown-note"),
        (20, "missing-id"),
        (30, "unknown-note"),
        (40, "bad-timestamp"),
    ]
    assert problems[0].identifier == "user_id u, note_id x"
    assert problems[1].identifier == "user_id u"
