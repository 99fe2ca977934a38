"""Rights and room: what is written where, and whether it can be."""

from __future__ import annotations

import os
import shutil
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest

from notellm2.artifacts import Store
from notellm2.doctor.check import Check
from notellm2.doctor.places import check_disk, check_rights
from notellm2.recipe import Recipe
from notellm2.workspace import PUBLISHED, Workspace
from tests.unit.quality.small_data import sound, write

Usage = namedtuple("Usage", "total used free")


def recipe(data: Path) -> Recipe:
    return Recipe.model_validate({"name": "r", "data": {"dir": data}})


def statuses(checks: list[Check]) -> dict[str, str]:
    return {check.name: check.status for check in checks}


def closed(monkeypatch: pytest.MonkeyPatch, *paths: Path) -> None:
    """Let the system refuse these paths, as it does to who is not root."""
    real = os.access
    monkeypatch.setattr("os.access", lambda path, mode: Path(path) not in paths and real(path, mode))


def test_a_store_that_can_be_made_is_fine_and_nothing_is_made(tmp_path: Path) -> None:
    data = write(tmp_path / "data", sound()).path
    checks = check_rights(recipe(data), Workspace.at(tmp_path / "new" / "store"))
    assert statuses(checks) == {"store": "ok", "published indexes": "ok"}
    assert not (tmp_path / "new").exists()


def test_what_may_not_be_written_or_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = write(tmp_path / "data", sound()).path
    (tmp_path / "store").mkdir()
    shard = data / "notes" / "part-00001.parquet"
    closed(monkeypatch, tmp_path / "store", shard)
    checks = check_rights(recipe(data), Workspace.at(tmp_path / "store"))
    assert statuses(checks) == {"store": "failed", "published indexes": "failed", "rights to the data": "failed"}
    assert f"{tmp_path / 'store'} cannot be written by user {os.geteuid()}" in checks[0].line()
    assert f"{shard} may not be read" in checks[2].line()


def test_a_file_in_the_place_of_a_folder_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "store").write_text("")
    monkeypatch.setenv(PUBLISHED, "s3://bucket/prefix")
    (check,) = check_rights(recipe(write(tmp_path / "data", sound()).path), Workspace.at(tmp_path / "store"))
    assert check.found == f"{tmp_path / 'store'} is a file, not a folder"


def test_an_export_is_imported_somewhere(tmp_path: Path) -> None:
    export = tmp_path / "export"
    export.mkdir()
    (export / "notes.csv").write_text("note_id\n")
    checks = check_rights(recipe(tmp_path / "data"), Workspace.at(tmp_path / "store"), export)
    assert [check.found for check in checks if check.name == "folder of the data"] == [
        f"{tmp_path / 'store' / '_data'} can be made"
    ]


@pytest.mark.parametrize(("free", "status"), [(10**6, "failed"), (600_000_000, "warning"), (10**12, "ok")])
def test_room_is_compared_with_an_estimate_that_says_its_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int, status: str
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10**12, 0, free))
    check = check_disk(recipe(write(tmp_path / "data", sound()).path), Workspace.at(tmp_path / "store"))
    assert check.status == status
    assert "vectors and index 0.00, the rest 0.50" in check.found
    assert ("make room" in check.advice) is (status != "ok")


def test_a_store_that_trained_before_knows_what_it_takes(tmp_path: Path) -> None:
    def write_bytes(into: Path) -> dict[str, Any]:
        (into / "big").write_bytes(b"x" * 30_000_000)
        return {}

    store = Store(tmp_path / "store")
    for stage, key in (("training", 1), ("vectors", 1), ("vectors", 2)):
        store.build(stage, key, {}, {}, write_bytes)
    check = check_disk(recipe(write(tmp_path / "data", sound()).path), Workspace.at(tmp_path / "store"))
    assert "some 0.06 GB are needed (a retraining as before 0.06)" in check.found
