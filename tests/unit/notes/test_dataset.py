from __future__ import annotations

import json
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from notellm2.errors import InputError
from notellm2.notes.dataset import INFO, Dataset
from notellm2.notes.import_export import import_export
from notellm2.notes.schema import INTERACTIONS, NOTES, Note
from notellm2.recipe import ImageLimits
from tests.unit.notes import exports


@pytest.fixture
def data(tmp_path: Path) -> Path:
    export = exports.write_export(tmp_path / "export", [*exports.NOTES, {"note_id": "plain"}])
    import_export(export, tmp_path / "data", limits=ImageLimits(), name="test", licence="CC0-1.0", progress=False)
    return tmp_path / "data"


def test_it_says_what_it_holds(data: Path) -> None:
    info = Dataset.open(data).info
    assert (info.name, info.licence, info.notes, info.notes_with_image) == ("test", "CC0-1.0", 7, 6)
    assert (info.first_interaction, info.last_interaction) == ("2023-11-14T22:13:20+00:00", "2023-11-14T22:13:39+00:00")
    assert info.source == "plain export: notes.jsonl, interactions.jsonl, images"


def test_columns_come_in_file_order_with_the_schemas_types(data: Path) -> None:
    dataset = Dataset.open(data)
    assert dataset.notes(NOTES.names).schema.equals(NOTES)
    assert dataset.interactions().schema.equals(INTERACTIONS)
    assert dataset.notes(["note_id"]).column(0).to_pylist() == [*(note["note_id"] for note in exports.NOTES), "plain"]


@pytest.mark.parametrize("rows", [1, 3, 100])
def test_batches_give_every_note_once_whatever_their_size(data: Path, rows: int) -> None:
    batches = list(Dataset.open(data).batches(rows))
    assert max(map(len, batches)) <= rows
    notes = [note for batch in batches for note in batch]
    assert [note.note_id for note in notes] == [*(note["note_id"] for note in exports.NOTES), "plain"]
    assert notes[1] == Note(
        "n1",
        "Title 1",
        ("one", "topic 1"),
        exports.NOTES[1]["content"],
        exports.images_of(exports.NOTES)["images/n1.png"],
    )
    assert notes[-1] == Note("plain")


def test_what_is_no_data_set_is_said_with_what_to_do(data: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="notellm2 import EXPORT --into"):
        Dataset.open(tmp_path / "nowhere")
    with pytest.raises(InputError, match="a file; expected the folder"):
        Dataset.open(data / INFO)
    for text in ("", "{}", "[1]", '{"name": 1}'):
        (data / INFO).write_text(text)
        with pytest.raises(InputError, match="not a data set's description"):
            Dataset.open(data)


def test_another_schema_version_is_refused(data: Path) -> None:
    info = json.loads((data / INFO).read_text()) | {"schema_version": 99}
    (data / INFO).write_text(json.dumps(info))
    with pytest.raises(InputError, match="schema version 99, expected 1"):
        Dataset.open(data)


def test_a_damaged_shard_is_named(data: Path) -> None:
    shard = data / "notes" / "part-00000.parquet"
    shard.write_bytes(shard.read_bytes()[:-20])
    with pytest.raises(InputError, match=r"part-00000\.parquet: cannot be read"):
        Dataset.open(data)


def test_foreign_columns_are_refused(data: Path) -> None:
    pq.write_table(pa.table({"user_id": ["u"] * 20}), data / "interactions" / "part-00000.parquet")
    with pytest.raises(InputError, match="expected the columns"):
        Dataset.open(data)


def test_a_lost_or_doubled_shard_is_noticed(data: Path) -> None:
    shard = data / "interactions" / "part-00000.parquet"
    shutil.copy(shard, data / "interactions" / "part-00001.parquet")
    with pytest.raises(InputError, match=r"interactions: 40 rows, dataset\.json says 20"):
        Dataset.open(data)
    (data / "interactions" / "part-00001.parquet").unlink()
    shard.unlink()
    with pytest.raises(InputError, match=r"no part-\*\.parquet"):
        Dataset.open(data)
