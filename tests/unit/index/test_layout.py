"""Ids beside the index: any text, found by row and by id; and files that are not what they must be."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from notellm2.index.layout import IDS, IDS_BYTES, IDS_OFFSETS, FileEntry, IndexInvalid, NoteIds, damage

IDENTIFIERS = st.text(st.characters(codec="utf-8"), min_size=1, max_size=8)


@settings(max_examples=60, deadline=None)
@given(st.lists(IDENTIFIERS, min_size=1, max_size=30, unique=True))
def test_ids_of_any_characters_come_back_by_row_and_by_id(
    tmp_path_factory: pytest.TempPathFactory, ids: list[str]
) -> None:
    directory = tmp_path_factory.mktemp("ids")
    NoteIds.of(ids).save(directory)
    opened = NoteIds.open(directory)
    assert list(opened) == ids
    assert [opened.row(note_id) for note_id in ids] == list(range(len(ids)))
    assert opened.row("".join(ids) + "x") is None


def test_separators_of_other_formats_are_ordinary_characters() -> None:
    ids = ["a\nb", "a", "b\0", "b", '"', ",", "注", "a\nb\n"]
    opened = NoteIds.of(ids)
    assert [opened.row(note_id) for note_id in ids] == list(range(len(ids)))


def test_an_unknown_id_is_answered_with_those_around_it() -> None:
    opened = NoteIds.of([f"n{row:03d}" for row in range(100)])
    assert opened.row("n0425") is None
    assert opened.near("n0425") == ["n042", "n043", "n044"]
    assert opened.near("a") == ["n000", "n001", "n002"]
    assert opened.near("z") == ["n097", "n098", "n099"]
    assert NoteIds.of(["only"]).near("x") == ["only"]
    assert opened.row("\ud800") is None
    assert len(opened.near("\ud800")) == 3


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (["a", "b", "a"], r"'a' occurs twice \(rows 0 and 2\)"),
        (["a", ""], r"row 1: expected a non-empty string, got ''"),
        (["a", 7], r"row 1: expected a non-empty string, got 7"),
        (["\ud800"], r"row 0: '\\ud800' is not valid Unicode"),
    ],
)
def test_ids_that_cannot_be_told_apart_or_stored_are_refused(ids: list[str], message: str) -> None:
    with pytest.raises(IndexInvalid, match=message):
        NoteIds.of(ids)


def test_rows_outside_are_errors_not_other_notes() -> None:
    opened = NoteIds.of(["a", "b"])
    for row in (-1, 2):
        with pytest.raises(IndexError):
            opened[row]


def test_ids_files_of_two_indexes_do_not_open_together(tmp_path: Path) -> None:
    NoteIds.of(["a", "b"]).save(tmp_path)
    np.save(tmp_path / IDS_OFFSETS, np.array([0, 1, 2, 3]))
    with pytest.raises(ValueError, match="do not belong together"):
        NoteIds.open(tmp_path)
    np.save(tmp_path / IDS_BYTES, np.array([1.0]))
    with pytest.raises(ValueError, match="float64"):
        NoteIds.open(tmp_path)


def test_damage_names_each_file(tmp_path: Path) -> None:
    NoteIds.of(["a", "b"]).save(tmp_path)
    files = {name: FileEntry.of(tmp_path / name) for name in IDS}
    assert damage(tmp_path, files) == []
    one, two, three = (tmp_path / name for name in IDS)
    one.unlink()
    two.write_bytes(two.read_bytes()[:-1])
    content = bytearray(three.read_bytes())
    content[-1] ^= 1
    three.write_bytes(content)
    missing, short, flipped = damage(tmp_path, files)
    assert missing == f"{one}: missing"
    assert str(two) in short
    assert "bytes, expected" in short
    assert str(three) in flipped
    assert "sha256" in flipped
