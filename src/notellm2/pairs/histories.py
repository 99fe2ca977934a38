"""Behaviour as arrays: counted events, and each user's history in CSR form.

What counts, for a user u and a note n:

- *viewed* n: u has a source event on n; *clicked* n: u has a target event on n. One event can be both.
- Rows of a user are ordered by time, rows of equal time by their place in the file. Only the first view and the first
  click of a note count: a repeat is a habit, not a discovery.
- *u viewed A and then clicked B*: A's first view is on an earlier row, in that order, than B's first click. (Rows, not
  timestamps, so that bulk-entered behaviour keeps the order of its file.)
- symmetric: u clicked A and B, in any order; source events are not read.
- the history cap keeps a user's most recent notes (by the later of first view and first click) as material for pairs.
  N_u, viewers and clickers are counted before it: the cap bounds work (a history of h notes costs h^2), it does not
  change what a user did or how popular a note is.

Memory at 10 M rows: 17 bytes a row for the events, 8 for their order, 12 bytes a row at most for the histories.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from notellm2.errors import InputError
from notellm2.pairs import kernel

COLUMNS = ("user_id", "note_id", "event", "timestamp")
_INT32_MAX = np.iinfo(np.int32).max


@dataclass(frozen=True)
class Events:
    """The rows of behaviour that count, in file order.

    Attributes:
        user: int32[R], in order of first appearance.
        note: int32[R], row of the note in the data set.
        kind: uint8[R], bits `kernel.SOURCE` and `kernel.TARGET`.
        time: int64[R], microseconds since 1970.
        n_users: upper bound of `user`.
        n_notes: number of notes of the data set.
        unknown_notes: rows left out because their note is not in the data set.
    """

    user: npt.NDArray[np.int32]
    note: npt.NDArray[np.int32]
    kind: npt.NDArray[np.uint8]
    time: npt.NDArray[np.int64]
    n_users: int
    n_notes: int
    unknown_notes: int = 0

    def where(self, mask: npt.NDArray[np.bool_]) -> Events:
        """The rows under a mask, bool[R]."""
        return Events(self.user[mask], self.note[mask], self.kind[mask], self.time[mask], self.n_users, self.n_notes)


@dataclass(frozen=True)
class Histories:
    """Users' histories: clicks in CSR form, and for each view the clicks that came after it.

    Attributes:
        click_indptr: int64[U + 1]; the clicks of user u are ``click_note[click_indptr[u]:click_indptr[u + 1]]``.
        click_note: int32[C], in the user's order.
        view_indptr: int64[U + 1].
        view_note: int32[V].
        view_start: int32[V]: a view is paired with the clicks of its user from this offset on (symmetric: 0).
        clicked: int32[U]: N_u, number of notes the user clicked, before the cap.
        viewers: int32[N]: users who viewed the note, before the cap (symmetric: who clicked it).
        clickers: int32[N]: users who clicked the note, before the cap.
        capped: number of users whose history was cut.
    """

    click_indptr: npt.NDArray[np.int64]
    click_note: npt.NDArray[np.int32]
    view_indptr: npt.NDArray[np.int64]
    view_note: npt.NDArray[np.int32]
    view_start: npt.NDArray[np.int32]
    clicked: npt.NDArray[np.int32]
    viewers: npt.NDArray[np.int32]
    clickers: npt.NDArray[np.int32]
    capped: int


def behaviour_batches(shards: Iterable[Path]) -> Iterator[pa.Table]:
    """Behaviour of parquet files, a row group at a time, ids and events dictionary-encoded as parquet stores them."""
    for shard in shards:
        with pq.ParquetFile(shard, read_dictionary=["user_id", "note_id", "event"]) as file:
            for group in range(file.num_row_groups):
                yield file.read_row_group(group, columns=list(COLUMNS))


def read_events(
    batches: Iterable[pa.Table], note_ids: pa.Array, source: Iterable[str], target: Iterable[str]
) -> Events:
    """Factorise behaviour against the data set's notes and keep the rows whose event counts.

    Args:
        batches: tables with the columns of `COLUMNS`, in file order.
        note_ids: string[N], in data set order.
        source: events that count as viewing; empty for symmetric mining, which does not read them.
        target: events that count as clicking.

    Raises:
        InputError: no row carries a target event, or none a source event; lists the events found.
    """
    kinds = dict.fromkeys(source, kernel.SOURCE)
    for event in target:
        kinds[event] = kinds.get(event, 0) | kernel.TARGET
    found: dict[str, int] = {}
    users: list[pa.Array] = []
    columns: list[tuple[npt.NDArray[np.int32], npt.NDArray[np.uint8], npt.NDArray[np.int64]]] = []
    unknown = 0
    for batch in batches:
        for chunk in batch.to_batches():
            kind, counts = _kinds(_encoded(chunk["event"]), kinds)
            for name, count in counts.items():
                found[name] = found.get(name, 0) + count
            note = _codes(_encoded(chunk["note_id"]), note_ids)
            unknown += int(np.count_nonzero((kind > 0) & (note < 0)))
            keep = (kind > 0) & (note >= 0)
            users.append(_encoded(chunk["user_id"]).filter(pa.array(keep)))
            columns.append((note[keep], kind[keep], chunk["timestamp"].cast(pa.int64()).to_numpy()[keep]))
    _require_events(found, kinds, kernel.TARGET)
    if any(kind & kernel.SOURCE for kind in kinds.values()):
        _require_events(found, kinds, kernel.SOURCE)
    unified = pa.chunked_array(users).unify_dictionaries()
    return Events(
        user=np.concatenate([chunk.indices.to_numpy().astype(np.int32, copy=False) for chunk in unified.chunks]),
        note=np.concatenate([note for note, _, _ in columns]),
        kind=np.concatenate([kind for _, kind, _ in columns]),
        time=np.concatenate([time for _, _, time in columns]),
        n_users=len(unified.chunk(0).dictionary) if unified.num_chunks else 0,
        n_notes=len(note_ids),
        unknown_notes=unknown,
    )


def build_histories(events: Events, *, cap: int, symmetric: bool) -> Histories:
    """Order each user's rows, keep first views and first clicks, cut to the cap.

    Args:
        events: counted rows.
        cap: most recent notes of a user that count.
        symmetric: pair clicks with clicks in any order.
    """
    rows = len(events.user)
    order, indptr = _ordered(events)
    click_note = np.empty(rows, np.int32)
    view_note = np.empty(rows, np.int32)
    view_start = np.empty(rows, np.int32)
    click_indptr, view_indptr, clicked, viewers, clickers, capped = kernel.compiled(kernel.collect)(
        indptr, order, events.note, events.kind, events.n_notes, cap, symmetric, click_note, view_note, view_start
    )
    views, clicks = int(view_indptr[-1]), int(click_indptr[-1])
    return Histories(
        click_indptr=click_indptr,
        click_note=click_note[:clicks].copy(),
        view_indptr=view_indptr,
        view_note=view_note[:views].copy(),
        view_start=view_start[:views].copy(),
        clicked=clicked,
        viewers=viewers,
        clickers=clickers,
        capped=int(capped),
    )


def _ordered(events: Events) -> tuple[kernel.Index, kernel.Int64]:
    """Rows by user, then time, then place in the file; and where each user's rows begin, int64[U + 1]."""
    rows = len(events.user)
    size: type[np.signedinteger[Any]] = np.int32 if rows <= _INT32_MAX else np.int64
    if (events.time[1:] >= events.time[:-1]).all():
        by_time = np.arange(rows, dtype=size)
    else:
        by_time = np.argsort(events.time, kind="stable").astype(size)
    order = np.empty(rows, size)
    return order, kernel.compiled(kernel.group_by_user)(events.user, by_time, events.n_users, order)


def _encoded(column: pa.Array) -> pa.DictionaryArray:
    return column if isinstance(column, pa.DictionaryArray) else column.dictionary_encode()


def _codes(column: pa.DictionaryArray, values: pa.Array) -> npt.NDArray[np.int32]:
    """Each row's index in `values`, -1 for none; looks up each distinct value once."""
    wanted = column.dictionary.cast(values.type)
    table = pc.fill_null(pc.index_in(wanted, value_set=values), -1).to_numpy(zero_copy_only=False).astype(np.int32)
    codes: npt.NDArray[np.int32] = table[column.indices.to_numpy()]
    return codes


def _kinds(column: pa.DictionaryArray, kinds: dict[str, int]) -> tuple[npt.NDArray[np.uint8], dict[str, int]]:
    """Each row's kind bits, 0 for an event that does not count, and how many rows each event has."""
    names = column.dictionary.to_pylist()
    indices = column.indices.to_numpy()
    counts = np.bincount(indices, minlength=len(names))
    table = np.array([kinds.get(name, 0) for name in names], np.uint8)
    return table[indices], {name: int(count) for name, count in zip(names, counts, strict=True) if count}


def _require_events(found: dict[str, int], kinds: dict[str, int], bit: int) -> None:
    names = [name for name, kind in kinds.items() if kind & bit]
    if any(name in found for name in names):
        return
    role = "target_events" if bit == kernel.TARGET else "source_events"
    listed = ", ".join(f"{name} ({count})" for name, count in sorted(found.items())) or "none"
    raise InputError(
        f"pairs.{role}: no behaviour carries any of the events {', '.join(map(repr, names))}; "
        f"the data set has: {listed}; name some of these in the recipe"
    )
