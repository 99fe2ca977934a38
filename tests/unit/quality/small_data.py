"""A small sound data set that the tests damage in one place each."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from notellm2.notes.dataset import INFO, Dataset
from notellm2.notes.schema import INTERACTIONS, NOTES
from notellm2.recipe import QualityConfig

NOTES_COUNT = 120
USERS_COUNT = 30
INTERACTIONS_COUNT = 1200
START = datetime(2024, 1, 1, tzinfo=UTC)
CONFIG = QualityConfig(min_notes=100, min_interactions=1000, latest="2024-12-31")


@cache
def picture(number: int) -> bytes:
    """A JPEG of 8 x 8 pixels, another one for every number."""
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (number * 2 % 256, number * 7 % 256, number // 100 * 40)).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


@dataclass
class Raw:
    """Rows before they are written; `info` overrides fields of the description in memory."""

    notes: list[dict[str, Any]]
    interactions: list[dict[str, Any]]
    info: dict[str, Any] = field(default_factory=dict)
    quarantine: list[dict[str, Any]] | None = None

    def move(self, old: str, new: str) -> None:
        """Let the interactions of one note be another's."""
        for row in self.interactions:
            if row["note_id"] == old:
                row["note_id"] = new


Damage = Callable[[Raw], None]


def sound() -> Raw:
    """120 notes with text and image and 10 interactions each; 30 users with 40 each; one a minute."""
    notes = [
        {
            "note_id": f"n{i:03}",
            "title": f"Title {i}",
            "topics": ["tea", f"topic {i % 7}"],
            "content": f"What note {i} has to say about the weather.",
            "image": {"bytes": picture(i), "path": f"images/n{i:03}.jpg"},
            "category": None,
            "created_at": START,
        }
        for i in range(NOTES_COUNT)
    ]
    interactions = [
        {
            "user_id": f"u{i % USERS_COUNT:02}",
            "note_id": f"n{i % NOTES_COUNT:03}",
            "event": ("view", "click", "like")[i % 7 % 3],
            "timestamp": START + timedelta(minutes=i + 1),
        }
        for i in range(INTERACTIONS_COUNT)
    ]
    return Raw(notes, interactions)


def write(path: Path, raw: Raw) -> Dataset:
    """Write rows as a data set of two shards each, and open it."""
    for room, rows, schema in (("notes", raw.notes, NOTES), ("interactions", raw.interactions, INTERACTIONS)):
        (path / room).mkdir(parents=True)
        half = len(rows) // 2
        for shard, part in enumerate((rows[:half], rows[half:])):
            pq.write_table(pa.Table.from_pylist(part, schema), path / room / f"part-{shard:05}.parquet")
    info = {
        "name": "small",
        "licence": "CC0-1.0",
        "source": "test",
        "notes": len(raw.notes),
        "notes_with_image": sum(note["image"] is not None for note in raw.notes),
        "interactions": len(raw.interactions),
        "first_interaction": START.isoformat(),
        "last_interaction": (START + timedelta(days=1)).isoformat(),
    }
    (path / INFO).write_text(json.dumps(info))
    if raw.quarantine is not None:
        lines = (json.dumps(record) + "\n" for record in raw.quarantine)
        (path / "quarantine.jsonl").write_text("".join(lines))
    dataset = Dataset.open(path)
    return Dataset(path, dataset.info.model_copy(update=raw.info))
