"""Behaviour as arrays: the rows of users and notes whose event counts.

A *source* event counts as viewing a note, a *target* event as clicking it; one event can be both. Memory at 10 M rows:
17 bytes a row.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from notellm2.errors import InputError

SOURCE, TARGET = 1, 2
"""Bits of an event's kind: counts as viewing, counts as clicking."""

COLUMNS = ("user_id", "note_id", "event", "timestamp")


@dataclass(frozen=True)
class Events:
    """The rows of behaviour that count, in file order.

    Attributes:
        user: int32[R], in order of first appearance.
        note: int32[R], row of the note in the data set.
        kind: uint8[R], bits `SOURCE` and `TARGET`.
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
        """Return the rows under a mask, bool[R]."""
        return Events(self.user[mask], self.note[mask], self.kind[mask], self.time[mask], self.n_users, self.n_notes)


def behaviour_batches(shards: Iterable[Path]) -> Iterator[pa.Table]:
    """Read behaviour of parquet files, a row group at a time; ids and events stay dictionary-encoded."""
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
        InputError: no row carries a target event, or none a source event; lists the events there are.
    """
    kinds = dict.fromkeys(source, SOURCE)
    for event in target:
        kinds[event] = kinds.get(event, 0) | TARGET
    seen: dict[str, int] = {}
    users: list[pa.Array] = []
    columns: list[tuple[npt.NDArray[np.int32], npt.NDArray[np.uint8], npt.NDArray[np.int64]]] = []
    unknown = 0
    for batch in batches:
        for chunk in batch.to_batches():
            kind, counts = _kinds(_encoded(chunk["event"]), kinds)
            for name, count in counts.items():
                seen[name] = seen.get(name, 0) + count
            note = _codes(_encoded(chunk["note_id"]), note_ids)
            unknown += int(np.count_nonzero((kind > 0) & (note < 0)))
            keep = (kind > 0) & (note >= 0)
            users.append(_encoded(chunk["user_id"]).filter(pa.array(keep)))
            columns.append((note[keep], kind[keep], chunk["timestamp"].cast(pa.int64()).to_numpy()[keep]))
    _require_events(seen, kinds, TARGET)
    if any(kind & SOURCE for kind in kinds.values()):
        _require_events(seen, kinds, SOURCE)
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


def _require_events(seen: dict[str, int], kinds: dict[str, int], bit: int) -> None:
    names = [name for name, kind in kinds.items() if kind & bit]
    if any(name in seen for name in names):
        return
    role = "target_events" if bit == TARGET else "source_events"
    listed = ", ".join(f"{name} ({count})" for name, count in sorted(seen.items())) or "none"
    raise InputError(
        f"pairs.{role}: no behaviour carries any of the events {', '.join(map(repr, names))}; "
        f"the data set has: {listed}; name some of these in the recipe"
    )
