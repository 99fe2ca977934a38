from __future__ import annotations

import pyarrow as pa
import pytest

from notellm2.errors import InputError
from notellm2.pairs.events import Events, read_events
from notellm2.pairs.histories import build_histories
from tests.unit.pairs.conftest import Row, behaviour

NOTES = pa.array(["a", "b", "c"])
ROWS: list[Row] = [
    ("u2", "a", "view", 4),
    ("u1", "b", "like", 1),
    ("u2", "gone", "like", 2),
    ("u2", "c", "like", 0),
    ("u1", "a", "share", 0),
]


def events_of(rows: list[Row], source: tuple[str, ...] = ("view",)) -> Events:
    return read_events([behaviour(rows)], NOTES, source=source, target=("like",))


def test_rows_are_factorised_and_filtered() -> None:
    events = events_of(ROWS)
    assert events.user.tolist() == [0, 1, 0]
    assert events.note.tolist() == [0, 1, 2]
    assert events.kind.tolist() == [1, 2, 2]
    assert (events.n_notes, events.n_users) == (3, 2)
    assert events.unknown_notes == 1
    assert (events.time[0] - events.time[2]) == 4_000_000


def test_one_event_may_be_view_and_click() -> None:
    assert events_of([("u", "a", "like", 0)], source=("view", "like")).kind.tolist() == [3]


def test_factorisation_does_not_depend_on_the_batches() -> None:
    table = behaviour(ROWS)
    whole = read_events([table], NOTES, source=("view",), target=("like",))
    parts = read_events([table.slice(0, 2), table.slice(2, 1), table.slice(3)], NOTES, ("view",), ("like",))
    encoded = pa.table({name: table[name].dictionary_encode() for name in ("user_id", "note_id", "event")})
    encoded = encoded.append_column("timestamp", table["timestamp"])
    for other in (parts, read_events([encoded], NOTES, ("view",), ("like",))):
        for name in ("user", "note", "kind", "time"):
            assert getattr(other, name).tolist() == getattr(whole, name).tolist()


def test_arrays_are_lean() -> None:
    events = events_of(ROWS)
    assert events.user.itemsize + events.note.itemsize + events.kind.itemsize + events.time.itemsize == 17
    histories = build_histories(events, cap=10, symmetric=False)
    assert {a.itemsize for a in (histories.click_note, histories.view_note, histories.view_start)} == {4}


def test_histories_say_where_the_clicks_after_a_view_begin() -> None:
    rows: list[Row] = [("u", "c", "like", 9), ("u", "a", "like", 1), ("u", "b", "view", 5)]
    histories = build_histories(events_of(rows), cap=10, symmetric=False)
    assert histories.click_note.tolist() == [0, 2]
    assert histories.view_note.tolist() == [1]
    assert histories.view_start.tolist() == [1]
    assert histories.clicked.tolist() == [2]
    assert histories.viewers.tolist() == [0, 1, 0]
    assert histories.clickers.tolist() == [1, 0, 1]
    assert histories.capped == 0


def test_recency_is_of_the_later_of_view_and_click() -> None:
    # a is viewed first but clicked last, so a cap of two drops b.
    rows: list[Row] = [("u", "a", "view", 0), ("u", "b", "view", 1), ("u", "c", "view", 2), ("u", "a", "like", 3)]
    histories = build_histories(events_of(rows), cap=2, symmetric=False)
    assert histories.view_note.tolist() == [0, 2]
    assert histories.capped == 1


def test_missing_events_are_named_with_those_found() -> None:
    with pytest.raises(InputError, match=r"target_events.*'buy'.*like \(3\), share \(1\), view \(1\)"):
        read_events([behaviour(ROWS)], NOTES, source=("view",), target=("buy",))
    with pytest.raises(InputError, match=r"source_events.*'see'"):
        read_events([behaviour(ROWS)], NOTES, source=("see",), target=("like",))
    with pytest.raises(InputError, match="the data set has: none"):
        read_events([behaviour([])], NOTES, source=("view",), target=("like",))
