"""A store remembers where a data version was read, and does not take another version for it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from notellm2.notes.dataset import Dataset
from notellm2.notes.places import KEPT, find_version, remember_place
from notellm2.notes.versions import data_md5
from tests.unit.pairs.conftest import behaviour, note_table, write_dataset

__all__ = ["write_dataset"]


def test_a_version_is_found_where_it_was_read(tmp_path: Path, write_dataset: Callable[..., Dataset]) -> None:
    dataset, root = write_dataset(note_table(["a", "b"]), behaviour([])), tmp_path / "store"
    md5 = data_md5(dataset.path)
    assert find_version(root, md5) is None
    remember_place(root, md5, dataset.path)
    found = find_version(root, md5)
    assert found is not None
    assert found.path == dataset.path
    extra = dataset.path / "notes" / "another.txt"
    extra.write_text("by now it is another version")
    assert find_version(root, md5) is None
    extra.unlink()
    shutil.copytree(dataset.path, root / KEPT / md5)
    shutil.rmtree(dataset.path)
    kept = find_version(root, md5)
    assert kept is not None
    assert kept.path == root / KEPT / md5
