"""Publishing: idempotent, one pointer, a bounded history, one publisher at a time."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
from pathlib import Path

import pytest

from notellm2.artifacts import Artifact
from notellm2.errors import InputError
from notellm2.index import publish as module
from notellm2.index.layout import FILES, damage
from notellm2.index.pointer import Publication, read_pointer
from notellm2.index.publish import PublishFailed, publish
from tests.unit.index.examples import DATA_MD5


def put(published: Path, index: Artifact, version: str = "1", **options: float) -> Publication:
    return publish(published, index, model_name="notes", model_version=version, data_md5=DATA_MD5, **options)  # type: ignore[arg-type]


def versions(published: Path) -> set[str]:
    return {path.name for path in (published / "versions").iterdir()}


def tree(root: Path) -> dict[str, tuple[int, int]]:
    return {str(p.relative_to(root)): (p.stat().st_mtime_ns, p.stat().st_ino) for p in root.rglob("*")}


def test_the_pointer_names_model_and_index_and_a_complete_copy(tmp_path: Path, built: list[Artifact]) -> None:
    result = put(tmp_path, built[0], "7")
    assert read_pointer(tmp_path) == result
    assert (result.model_name, result.model_version, result.data_md5) == ("notes", "7", DATA_MD5)
    assert (result.index_key, result.kind, result.count, result.dimension) == (built[0].key, "flat", 120, 16)
    assert result.history == (result.version,)
    assert set(result.files) == set(FILES)
    assert damage(result.directory(tmp_path), result.files) == []
    for name in FILES:
        assert (result.directory(tmp_path) / name).read_bytes() == built[0].file(name).read_bytes()


def test_publishing_what_is_published_touches_nothing(
    tmp_path: Path, built: list[Artifact], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = put(tmp_path, built[0])
    before = tree(tmp_path)
    monkeypatch.setattr(module, "_now", lambda: "2099-01-01T00:00:00+00:00")
    assert put(tmp_path, built[0]) == first
    after = tree(tmp_path)
    assert after.pop(".lock")[1] == before.pop(".lock")[1]
    assert after == before


def test_the_same_index_for_another_model_version_is_another_publication(tmp_path: Path, built: list[Artifact]) -> None:
    first, second = put(tmp_path, built[0], "1"), put(tmp_path, built[0], "2")
    assert first.version != second.version
    assert read_pointer(tmp_path).model_version == "2"
    assert second.history == (second.version, first.version)


def test_going_back_reuses_the_version_that_is_still_there(tmp_path: Path, built: list[Artifact]) -> None:
    first, second = put(tmp_path, built[0], "1"), put(tmp_path, built[1], "2")
    inode = (first.directory(tmp_path) / "index.faiss").stat().st_ino
    again = put(tmp_path, built[0], "1")
    assert again.version == first.version
    assert again.history == (first.version, second.version)
    assert (again.directory(tmp_path) / "index.faiss").stat().st_ino == inode


def test_only_the_last_versions_are_kept(tmp_path: Path, built: list[Artifact]) -> None:
    made = [put(tmp_path, built[i % 3], str(i), keep=3) for i in range(6)]
    assert versions(tmp_path) == {p.version for p in made[-3:]}
    assert read_pointer(tmp_path).history == tuple(p.version for p in reversed(made[-3:]))
    only = put(tmp_path, built[0], "9", keep=1)
    assert versions(tmp_path) == {only.version}


def test_damage_to_the_current_version_is_mended_beside_it(tmp_path: Path, built: list[Artifact]) -> None:
    first = put(tmp_path, built[0])
    (first.directory(tmp_path) / "index.faiss").write_bytes(b"")
    second = put(tmp_path, built[0])
    assert second.version != first.version
    assert damage(second.directory(tmp_path), second.files) == []
    assert put(tmp_path, built[0]) == second


def test_a_damaged_pointer_is_replaced_and_older_versions_stay(tmp_path: Path, built: list[Artifact]) -> None:
    first = put(tmp_path, built[0], "1")
    (tmp_path / "current.json").write_text("{")
    second = put(tmp_path, built[1], "2")
    assert read_pointer(tmp_path).history == (second.version, first.version)


def test_what_killed_publishers_left_is_removed(tmp_path: Path, built: list[Artifact]) -> None:
    result = put(tmp_path, built[0])
    (tmp_path / "versions" / ".v1-x.12345678").mkdir()
    (tmp_path / "versions" / "v0-never-current").mkdir()
    (tmp_path / ".current.json.0123").write_text("{}")
    put(tmp_path, built[0])
    assert versions(tmp_path) == {result.version}
    assert {p.name for p in tmp_path.iterdir()} == {"current.json", "versions", ".lock"}


def test_a_damaged_index_is_refused_and_nothing_changes(tmp_path: Path, built: list[Artifact]) -> None:
    published = tmp_path / "published"
    first = put(published, built[0])
    copy = Artifact("index", built[1].key, shutil.copytree(built[1].path, tmp_path / "copy"))
    content = bytearray(copy.file("ids.bytes.npy").read_bytes())
    content[-1] ^= 1
    copy.file("ids.bytes.npy").write_bytes(content)
    with pytest.raises(InputError, match=r"ids\.bytes\.npy is damaged"):
        put(published, copy, "2")
    copy.file("index.faiss").unlink()
    with pytest.raises(RuntimeError, match=r"index\.faiss"):
        put(published, copy, "2")
    copy.file("meta.json").unlink()
    with pytest.raises(InputError, match="no complete index artifact"):
        put(published, copy, "2")
    assert read_pointer(published) == first
    assert versions(published) == {first.version}


def test_wrong_questions_are_refused(tmp_path: Path, built: list[Artifact]) -> None:
    with pytest.raises(InputError, match=r"built from data 0123.*publish it as data ffff"):
        publish(tmp_path, built[0], model_name="notes", model_version="1", data_md5="ffff.dir")
    with pytest.raises(InputError, match="model version '\\.\\./1'"):
        put(tmp_path, built[0], "../1")
    with pytest.raises(InputError, match="keep 0"):
        put(tmp_path, built[0], keep=0)
    with pytest.raises(InputError, match="stage index"):
        put(tmp_path, Artifact("vectors", "00", tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_the_old_publication(
    tmp_path: Path, built: list[Artifact], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = put(tmp_path, built[0], "1")
    calls = []

    def full(_descriptor: int) -> None:
        calls.append(1)
        if len(calls) == 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(PublishFailed, match=r"No space left on device.*keep the version"):
            put(tmp_path, built[1], "2")
    assert read_pointer(tmp_path) == first
    assert versions(tmp_path) == {first.version}
    assert put(tmp_path, built[1], "2").model_version == "2"


def test_a_second_publisher_waits_and_then_says_who_holds_the_lock(tmp_path: Path, built: list[Artifact]) -> None:
    first = put(tmp_path, built[0], "1")
    with (tmp_path / ".lock").open("a+") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        with pytest.raises(PublishFailed, match=rf"held by publishing, process {os.getpid()}, since 20"):
            put(tmp_path, built[1], "2", lock_timeout_s=0.06)
    assert read_pointer(tmp_path) == first
    assert put(tmp_path, built[1], "2").model_version == "2"


def test_the_versions_own_record_is_enough_to_point_at_it_again(tmp_path: Path, built: list[Artifact]) -> None:
    result = put(tmp_path, built[0])
    record = json.loads((result.directory(tmp_path) / "publication.json").read_text())
    pointer = result.as_json()
    for value in (record, pointer):
        value.pop("published")
        value.pop("history")
    assert record == pointer
