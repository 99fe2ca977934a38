"""Small data sets on disk for the room of pairs, and behaviour as tables."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from notellm2.notes.dataset import INFO, Dataset, DatasetInfo
from notellm2.notes.schema import INTERACTIONS, NOTES

START = datetime(2026, 1, 1, tzinfo=UTC)

Row = tuple[str, str, str, int]
"""user, note, event, seconds after START."""


def behaviour(rows: Sequence[Row]) -> pa.Table:
    columns = list(zip(*rows, strict=True)) if rows else [(), (), (), ()]
    times = [START + timedelta(seconds=s) for s in columns[3]]
    arrays = [pa.array(values, field.type) for values, field in zip([*columns[:3], times], INTERACTIONS, strict=True)]
    return pa.table(arrays, schema=INTERACTIONS)


def note_table(ids: Sequence[str], created: Sequence[int | None] | None = None) -> pa.Table:
    n = len(ids)
    moments = [None if s is None else START + timedelta(seconds=s) for s in (created or [None] * n)]
    values = [ids, [f"title {i}" for i in ids], [[]] * n, [""] * n, [None] * n, [None] * n, moments]
    return pa.table([pa.array(v, field.type) for v, field in zip(values, NOTES, strict=True)], schema=NOTES)


@pytest.fixture
def write_dataset(tmp_path: Path) -> Callable[..., Dataset]:
    """Writes a data set without images; behaviour in several shards and row groups."""

    def write(notes: pa.Table, interactions: pa.Table, shards: int = 2) -> Dataset:
        root = tmp_path / "data"
        for room in ("notes", "interactions"):
            (root / room).mkdir(parents=True)
        pq.write_table(notes, root / "notes" / "part-00000.parquet")
        size = -(-interactions.num_rows // shards) or 1
        for shard in range(shards):
            part = interactions.slice(shard * size, size)
            pq.write_table(part, root / "interactions" / f"part-{shard:05d}.parquet", row_group_size=max(1, size // 2))
        info = DatasetInfo(
            name="test",
            licence="none",
            source="test",
            notes=notes.num_rows,
            notes_with_image=0,
            interactions=interactions.num_rows,
            first_interaction=None,
            last_interaction=None,
        )
        (root / INFO).write_text(info.model_dump_json())
        return Dataset.open(root)

    return write
