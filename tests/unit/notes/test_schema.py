from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from notellm2.notes.schema import IMAGE, INTERACTIONS, NOTES, PAIRS, Note


@pytest.mark.parametrize("schema", [NOTES, INTERACTIONS, PAIRS], ids=["notes", "interactions", "pairs"])
def test_a_schema_survives_parquet(schema: pa.Schema, tmp_path: Path) -> None:
    pq.write_table(schema.empty_table(), tmp_path / "empty.parquet")
    assert pq.read_schema(tmp_path / "empty.parquet").equals(schema)


def test_what_must_be_there_is_not_nullable() -> None:
    assert [column.name for column in NOTES if column.nullable] == ["image", "category", "created_at"]
    assert not any(column.nullable for column in [*INTERACTIONS, *PAIRS])


def test_times_are_utc_microseconds() -> None:
    assert NOTES.field("created_at").type == INTERACTIONS.field("timestamp").type == pa.timestamp("us", tz="UTC")


def test_images_follow_the_hugging_face_convention() -> None:
    assert [(field.name, field.type) for field in IMAGE] == [("bytes", pa.binary()), ("path", pa.string())]


def test_a_note_needs_only_an_id() -> None:
    assert Note("a") == Note("a", "", (), "", None)
