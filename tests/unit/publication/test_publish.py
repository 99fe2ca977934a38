"""Publishing: versions are whole and stored once, the pointer moves only from where it was seen, old ones go."""

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
from notellm2.index.layout import FILES, damage
from notellm2.publication import location as location_module
from notellm2.publication import publish as module
from notellm2.publication.location import Location
from notellm2.publication.pointer import NothingPublished, Publication, PublicationDamaged, read_pointer
from notellm2.publication.publish import PointerMoved, PublishFailed, point, prepare, retain, versions
from tests.unit.index.examples import BUNDLE, DATA_MD5, publish


def put(published: Path, index: Artifact, version: str = "1", keep: int = 5) -> Publication:
    return publish(published, index, model_version=version, keep=keep)


def stored(published: Path | Location, index: Artifact, version: str = "1") -> Publication:
    return prepare(published, index, model_name="notes", model_version=version, data_md5=DATA_MD5)


def names(published: Path) -> set[str]:
    return {path.name for path in (published / "versions").iterdir()}


def tree(root: Path) -> dict[str, tuple[int, int]]:
    return {str(p.relative_to(root)): (p.stat().st_mtime_ns, p.stat().st_ino) for p in root.rglob("*") if p.is_file()}


def test_a_prepared_version_is_complete_and_not_yet_published(place: Location, built: list[Artifact]) -> None:
    result = stored(place, built[0], "7")
    assert (result.model_name, result.model_version, result.data_md5) == ("notes", "7", DATA_MD5)
    assert (result.index_key, result.kind, result.count, result.dimension) == (built[0].key, "flat", 120, 16)
    assert result.bundle == BUNDLE
    assert set(result.files) == set(FILES)
    copy = place.fetch(result.folder, result.files)
    assert damage(copy, result.files) == []
    for name in FILES:
        assert (copy / name).read_bytes() == built[0].file(name).read_bytes()
    assert versions(place) == {result.version: result}
    with pytest.raises(NothingPublished):
        read_pointer(place)


def test_the_pointer_moves_from_where_it_was_seen_and_back(place: Location, built: list[Artifact]) -> None:
    one, two = stored(place, built[0], "1"), stored(place, built[1], "2")
    assert one.version != two.version
    with pytest.raises(PointerMoved, match=f"from v9 to {one.version}, but by now it is nothing"):
        point(place, one, expected="v9")
    first = point(place, one, expected=None)
    assert read_pointer(place) == first
    assert (first.version, first.files) == (one.version, one.files)
    for wrong in (None, "v9"):
        with pytest.raises(PointerMoved, match=f"by now it is {one.version}"):
            point(place, two, expected=wrong)
    assert read_pointer(place) == first
    assert point(place, two, expected=one.version) == read_pointer(place)
    assert point(place, versions(place)[one.version], expected=two.version).version == one.version
    assert read_pointer(place).model_version == "1"


def test_pointing_at_what_is_current_changes_nothing(place: Location, built: list[Artifact]) -> None:
    first = point(place, stored(place, built[0]), expected=None)
    tag = place.read("current.json")
    assert point(place, stored(place, built[0]), expected="whatever") == first
    assert place.read("current.json") == tag


def test_a_pointer_that_moves_between_look_and_write_is_not_overwritten(
    place: Location, built: list[Artifact], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two, three = (stored(place, built[i], str(i)) for i in range(3))
    point(place, one, expected=None)

    def overtaken(self: Location, *arguments: object) -> list[str]:
        monkeypatch.undo()
        point(place, two, expected=one.version)
        return []

    monkeypatch.setattr(type(place), "problems", overtaken)
    with pytest.raises(PointerMoved, match="nothing was changed"):
        point(place, three, expected=one.version)
    assert read_pointer(place).version == two.version


def test_a_version_that_is_not_whole_is_never_pointed_at(tmp_path: Path, built: list[Artifact]) -> None:
    first = put(tmp_path, built[0], "1")
    broken = stored(tmp_path, built[1], "2")
    (tmp_path / broken.folder / "ids.order.npy").unlink()
    with pytest.raises(PublicationDamaged, match=r"ids\.order\.npy: missing"):
        point(tmp_path, broken, expected=first.version)
    assert read_pointer(tmp_path) == first


def test_storing_what_is_stored_touches_nothing(tmp_path: Path, built: list[Artifact]) -> None:
    first = stored(tmp_path, built[0])
    before = tree(tmp_path)
    os.utime(tmp_path / first.folder, (0, 0))
    assert stored(tmp_path, built[0]) == first
    assert tree(tmp_path) == before
    assert retain(tmp_path, ()) == [], "it is young again: whoever stored it is about to point at it"


def test_publishing_what_is_published_touches_nothing(
    tmp_path: Path, built: list[Artifact], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = put(tmp_path, built[0])
    before = tree(tmp_path)
    monkeypatch.setattr(module, "_now", lambda: "2099-01-01T00:00:00+00:00")
    assert put(tmp_path, built[0]) == first
    assert tree(tmp_path) == before


def test_retention_keeps_what_is_named_what_is_current_and_what_is_young(
    place: Location, built: list[Artifact]
) -> None:
    made = [stored(place, built[i % 3], str(i)) for i in range(5)]
    point(place, made[0], expected=None)
    assert retain(place, ()) == []
    removed = retain(place, {made[3].version, "v0-long-gone"}, older_than_s=0)
    assert sorted(removed) == sorted(made[i].version for i in (1, 2, 4))
    assert set(versions(place)) == {made[0].version, made[3].version}
    assert retain(place, (), older_than_s=0) == [made[3].version]
    assert read_pointer(place).version == made[0].version


def test_retention_removes_nothing_while_the_pointer_cannot_be_read(tmp_path: Path, built: list[Artifact]) -> None:
    first = put(tmp_path, built[0], "1")
    (tmp_path / "current.json").write_text("{")
    assert retain(tmp_path, (), older_than_s=0) == []
    second = put(tmp_path, built[1], "2")
    assert read_pointer(tmp_path) == second
    assert set(versions(tmp_path)) == {first.version, second.version}


def test_damage_to_a_version_is_mended_beside_it(tmp_path: Path, built: list[Artifact]) -> None:
    first = put(tmp_path, built[0])
    (tmp_path / first.folder / "index.faiss").write_bytes(b"")
    second = put(tmp_path, built[0])
    assert second.version != first.version
    assert damage(tmp_path / second.folder, second.files) == []
    assert put(tmp_path, built[0]) == second


def test_what_killed_publishers_left_is_removed(tmp_path: Path, built: list[Artifact]) -> None:
    result = put(tmp_path, built[0])
    (tmp_path / "versions" / ".v1-x.12345678").mkdir()
    (tmp_path / ".current.json.0123").write_text("{}")
    assert retain(tmp_path, ()) == []
    assert len(names(tmp_path)) == 2, "it may be a publisher at work"
    retain(tmp_path, (), older_than_s=0)
    assert names(tmp_path) == {result.version}
    put(tmp_path, built[1], "2")
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
    assert names(published) == {first.version}


def test_wrong_questions_are_refused(tmp_path: Path, built: list[Artifact]) -> None:
    with pytest.raises(InputError, match=r"built from data 0123.*publish it as data ffff"):
        prepare(tmp_path, built[0], model_name="notes", model_version="1", data_md5="ffff.dir")
    with pytest.raises(InputError, match=f"vectors of bundle {BUNDLE}, model notes version 1 is bundle beef"):
        prepare(tmp_path, built[0], model_name="notes", model_version="1", data_md5=DATA_MD5, bundle="beef")
    with pytest.raises(InputError, match="model version '\\.\\./1'"):
        stored(tmp_path, built[0], "../1")
    with pytest.raises(InputError, match="stage index"):
        stored(tmp_path, Artifact("vectors", "00", tmp_path))
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
    assert names(tmp_path) == {first.version}
    assert put(tmp_path, built[1], "2").model_version == "2"


def test_a_lock_that_stays_is_a_refusal_that_says_who_holds_it(
    tmp_path: Path, built: list[Artifact], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = put(tmp_path, built[0], "1")
    monkeypatch.setattr(location_module, "LOCK_TIMEOUT_S", 0.06)
    with (tmp_path / ".lock").open("a+") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        with pytest.raises(PublishFailed, match=rf"held by replacing current.json, process {os.getpid()}, since 20"):
            put(tmp_path, built[1], "2")
    assert read_pointer(tmp_path) == first
    assert put(tmp_path, built[1], "2").model_version == "2"


def test_the_versions_own_record_is_enough_to_point_at_it_again(tmp_path: Path, built: list[Artifact]) -> None:
    result = put(tmp_path, built[0])
    record = json.loads((tmp_path / result.folder / "publication.json").read_text())
    pointer = result.as_json()
    for value in (record, pointer):
        value.pop("published")
    assert record == pointer
