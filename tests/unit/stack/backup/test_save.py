from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import threading

import pytest

from notellm2.errors import InputError
from notellm2.promotion.journal import LeaseTaken, hold
from notellm2.stack.backup import save as saving
from notellm2.stack.backup.restore import verify
from notellm2.stack.backup.save import save
from tests.unit.stack.backup.world import OWNER, World, sql


def test_a_backup_says_what_is_in_it(world: World):
    manifest = save(world.installation, world.archive)
    assert manifest.problems == ()
    assert manifest.champion == "7"
    assert str(manifest.publication).startswith("v7-")
    assert {dump.owner for dump in manifest.databases} == {OWNER}
    assert manifest.places["published"].files == 2  # The pointer and the journal: nothing was written to the ledger.
    assert manifest.places["bucket"].files > 4
    assert any(line.startswith(".env") for line in manifest.left_out)
    assert set(manifest.versions) == {"notellm2", "mlflow", "prefect", "postgresql"}
    assert verify(world.archive) == manifest


def test_a_second_backup_reads_and_copies_only_what_is_new(world: World, monkeypatch: pytest.MonkeyPatch):
    save(world.installation, world.archive)
    before = {path.name for path in world.archive.root.glob("blobs/*/*")}
    new = world.artifact("more", b"more")
    world.put("mlflow/2/x", b"new object")
    monkeypatch.setattr(saving, "_new_name", lambda archive: "29990101T000000Z")
    read: list[str] = []
    for place in world.installation.places.values():
        kept = place.open
        monkeypatch.setattr(place, "open", lambda name, kept=kept: (read.append(name), kept(name))[1])
    save(world.installation, world.archive)
    assert sorted(read) == ["mlflow/2/x", f"training/{new.key}/deep/more", f"training/{new.key}/manifest.json"]
    assert len({path.name for path in world.archive.root.glob("blobs/*/*")} - before) == len(read)


def test_nobody_waits_for_the_dump_and_both_databases_are_of_one_moment(world: World, monkeypatch: pytest.MonkeyPatch):
    """While databases are dumped the lease is free, and what is written then is not in the backup."""
    dump = saving.databases.dump
    late: list[str] = []

    def slow(server, database, moment, path):
        if not late:
            with hold(world.installation.published, "a promotion", lease_s=60, wait_s=0):
                late.append("free")
            for other in world.installation.databases:
                sql(server, other, "INSERT INTO rows VALUES (2, 'late')")
        dump(server, database, moment, path)

    monkeypatch.setattr(saving.databases, "dump", slow)
    before = world.rows()
    save(world.installation, world.archive)
    assert late == ["free"]
    from notellm2.stack.backup.restore import restore

    target = world.wiped()
    restore(target.installation, target.archive)
    assert target.rows() == before


def test_a_promotion_under_way_is_waited_for(world: World, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(saving, "WAIT_S", 0.2)
    with hold(world.installation.published, "a promotion", lease_s=60, wait_s=0):
        with pytest.raises(LeaseTaken, match="a promotion is under way"):
            save(world.installation, world.archive)
        assert world.archive.names() == []
        ended = threading.Event()
        monkeypatch.setattr(saving, "WAIT_S", 30.0)

        def wait() -> None:
            save(world.installation, world.archive)
            ended.set()

        waiting = threading.Thread(target=wait)
        waiting.start()
        assert not ended.wait(0.3)
    waiting.join(30)
    assert ended.is_set()


def test_a_damaged_artifact_is_left_out_whole_and_told(world: World):
    artifact = world.artifact("damaged", b"sound")
    (artifact.path / "deep" / "damaged").write_bytes(b"other")
    lost = world.artifact("lost", b"sound")
    (lost.path / "deep" / "lost").unlink()
    manifest = save(world.installation, world.archive)
    assert [line.split(" ")[1].split("/")[1].rstrip(":") for line in manifest.problems] == sorted(
        [artifact.key, lost.key]
    )
    assert any("missing" in line for line in manifest.problems)
    saved = {file.name for file in world.archive.files(manifest)}
    assert not any(key in name for name in saved for key in (artifact.key, lost.key))


def test_an_artifact_that_a_clean_up_removes_meanwhile_is_no_problem(world: World, monkeypatch: pytest.MonkeyPatch):
    artifact = world.artifact("old", b"old")
    store = world.installation.places["store"]
    kept = store.listed

    def listed():
        found = list(kept())
        shutil.rmtree(artifact.path)
        return iter(found)

    monkeypatch.setattr(store, "listed", listed)
    manifest = save(world.installation, world.archive)
    assert manifest.problems == ()
    assert not any(artifact.key in file.name for file in world.archive.files(manifest))


def test_no_backup_without_the_index_that_the_pointer_names(world: World):
    name = next(
        entry.name for entry in world.installation.places["bucket"].listed() if entry.name.endswith("index.faiss")
    )
    world.put(name, b"another")
    with pytest.raises(InputError, match=r"index\.faiss; no backup was made"):
        save(world.installation, world.archive)
    assert world.archive.names() == []


def test_a_disk_that_is_too_small_is_told_before_anything_is_copied(world: World, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(saving.shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 9, 1))
    with pytest.raises(InputError, match="are free; make room"):
        save(world.installation, world.archive)
    assert not list(world.archive.root.glob("blobs/*/*"))


def test_passwords_are_on_no_command_line(world: World, monkeypatch: pytest.MonkeyPatch):
    commands: list[object] = []
    started = subprocess.Popen

    class Watched(started):  # type: ignore[valid-type,misc]
        def __init__(self, command, **rest):
            commands.append(command)
            super().__init__(command, **rest)

    monkeypatch.setattr(subprocess, "Popen", Watched)
    manifest = save(world.installation, world.archive)
    password = world.installation.server.password
    assert len(commands) == 2
    assert password not in json.dumps(commands)
    assert password not in manifest.model_dump_json() + repr(world.installation)


@pytest.mark.parametrize("at", ["dumps", "files", "manifest"])
def test_killed_in_the_middle_leaves_no_half_backup(world: World, at: str, monkeypatch: pytest.MonkeyPatch):
    """Forked, so that the set-up need not be described again; killed as the system does it."""
    child = os.fork()
    if child == 0:
        try:
            _die_at(at)
            save(world.installation, world.archive)
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.WTERMSIG(status) == signal.SIGKILL
    assert world.archive.names() == []
    with pytest.raises(InputError, match="no complete backup"):
        verify(world.archive)
    manifest = save(world.installation, world.archive)
    assert verify(world.archive) == manifest
    assert not list(world.archive.root.glob("*/.[!l]*"))


def _die_at(at: str) -> None:
    def die(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    if at == "dumps":
        saving.databases.dump = die
    elif at == "files":
        saving.write_files = die
    else:
        saving.write_manifest = die
