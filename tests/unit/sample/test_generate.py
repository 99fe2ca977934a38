"""The sample: the same bytes every time, and the shape that the rest of the project counts on."""

from __future__ import annotations

import hashlib
import io
import os
import subprocess
import sys
from collections import Counter, defaultdict
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from notellm2.errors import InputError
from notellm2.recipe import SampleConfig
from notellm2.sample.behaviour import WEEK_START
from notellm2.sample.generate import behave, interactions_table, invent_notes, write_sample

SMALL = SampleConfig(notes=60, users=60)


def digest(folder: Path) -> str:
    """One sum over names and bytes of all files."""
    total = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        total.update(str(path.relative_to(folder)).encode())
        if path.is_file():
            total.update(path.read_bytes())
    return total.hexdigest()


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sample") / "small"
    write_sample(folder, SMALL)
    return folder


@pytest.fixture(scope="module")
def interactions() -> pa.Table:
    config = SampleConfig(notes=1000, users=800)
    notes = invent_notes(config)
    return interactions_table(behave(notes, config), notes)


def test_the_same_configuration_gives_the_same_bytes(small: Path, tmp_path: Path) -> None:
    write_sample(tmp_path / "again", SMALL)
    assert digest(tmp_path / "again") == digest(small)


def test_bytes_depend_neither_on_hash_seed_nor_on_threads_nor_on_the_time_zone(small: Path, tmp_path: Path) -> None:
    code = (
        "import sys, pathlib; from notellm2.sample.generate import write_sample;"
        "from notellm2.recipe import SampleConfig;"
        "write_sample(pathlib.Path(sys.argv[1]), SampleConfig(notes=60, users=60))"
    )
    other = {**os.environ, "PYTHONHASHSEED": "12345", "OMP_NUM_THREADS": "2", "TZ": "Asia/Tokyo"}
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "other")], check=True, env=other)
    assert digest(tmp_path / "other") == digest(small)


def test_another_seed_gives_other_notes_pictures_and_events(small: Path, tmp_path: Path) -> None:
    write_sample(tmp_path / "eight", SMALL.model_copy(update={"seed": 8}))
    for name in ("notes.parquet", "interactions.parquet"):
        assert (tmp_path / "eight" / name).read_bytes() != (small / name).read_bytes()
    pictures = [{p.name: p.read_bytes() for p in (d / "images").iterdir()} for d in (small, tmp_path / "eight")]
    assert all(pictures[0][name] != pictures[1][name] for name in pictures[0].keys() & pictures[1].keys())


def test_layout_and_sizes(small: Path) -> None:
    notes, events = (pq.read_table(small / f"{name}.parquet") for name in ("notes", "interactions"))
    assert notes.column_names == ["note_id", "title", "topics", "content", "image_path", "category", "created_at"]
    assert events.column_names == ["user_id", "note_id", "timestamp", "event"]
    assert events.schema.field("timestamp").type == pa.timestamp("us", tz="UTC")
    ids = notes["note_id"].to_pylist()
    assert len(ids) == len(set(ids)) == 60
    assert set(events["note_id"].to_pylist()) <= set(ids)
    assert 50 <= len(set(events["user_id"].to_pylist())) <= 60
    assert sorted(p.name for p in small.iterdir()) == ["images", "interactions.parquet", "notes.parquet"]
    assert not [p for p in small.parent.iterdir() if p.name.startswith(".")]


def test_every_named_picture_decodes_and_no_other_is_there(small: Path) -> None:
    named = [path for path in pq.read_table(small / "notes.parquet")["image_path"].to_pylist() if path]
    assert sorted(named) == sorted(f"images/{p.name}" for p in (small / "images").iterdir())
    for path in named:
        with Image.open(io.BytesIO((small / path).read_bytes())) as picture:
            picture.load()
            assert (picture.format, picture.mode, picture.size) == ("JPEG", "RGB", (112, 112))


def test_a_folder_with_something_in_it_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(InputError, match=r"not empty; name a new directory"):
        write_sample(tmp_path, SMALL)
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]


def test_nothing_is_left_of_a_sample_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(pq, "write_table", full)
    with pytest.raises(OSError, match="no space"):
        write_sample(tmp_path / "new", SMALL)
    assert list(tmp_path.iterdir()) == []


def test_a_third_is_nearly_without_text_and_a_few_are_without_image() -> None:
    notes = invent_notes(SampleConfig())
    assert len(notes) == 2000
    silent = [note for note in notes if note.subject < 0]
    assert 0.28 < len(silent) / len(notes) < 0.38
    assert all(not note.text.content and len(note.text.title) < 12 for note in silent)
    assert all(note.motif >= 0 for note in silent)
    assert 0.02 < sum(note.motif < 0 for note in notes) / len(notes) < 0.07
    written = [note for note in notes if note.subject >= 0]
    lengths = [len(note.text.title + "".join(note.text.topics) + note.text.content) for note in written]
    assert min(lengths) > 60
    assert sum(length > 80 for length in lengths) / len(written) > 0.95
    assert min(Counter(note.subject for note in written).values()) > 100
    assert min(Counter(note.motif for note in silent).values()) > 30


def test_no_event_before_its_note_and_none_outside_the_week() -> None:
    notes = invent_notes(SMALL)
    events = behave(notes, SMALL)
    assert all(event.at > notes[event.note].created for event in events)
    assert any(note.created > 0 for note in notes)
    assert any(note.created < 0 for note in notes)
    assert all(0 <= event.at < 7 * 86_400_000_000 for event in events)


def test_views_then_clicks_then_likes_in_order_of_time(interactions: pa.Table) -> None:
    rows = interactions.to_pylist()
    times = [row["timestamp"] for row in rows]
    assert times == sorted(times)
    assert WEEK_START == datetime(2025, 3, 3, tzinfo=UTC) <= times[0]
    assert times[-1] < WEEK_START + timedelta(days=7)
    done: dict[tuple[str, str], list[str]] = defaultdict(list)
    for row in rows:
        done[row["user_id"], row["note_id"]].append(row["event"])
    assert {tuple(events) for events in done.values()} == {("view",), ("view", "click"), ("view", "click", "like")}
    counts = Counter(row["event"] for row in rows)
    assert counts["view"] > 3 * counts["click"] > 6 * counts["like"] > 0


def test_popularity_and_activity_are_skewed(interactions: pa.Table) -> None:
    for column in ("note_id", "user_id"):
        counts = sorted(Counter(interactions[column].to_pylist()).values(), reverse=True)
        top_tenth = sum(counts[: len(counts) // 10])
        assert 0.18 < top_tenth / sum(counts) < 0.6, column
    assert interactions.num_rows / 800 > 30
