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
from notellm2.stack.backup.databases import Server
from notellm2.stack.backup.save import save
from notellm2.stack.backup.scope import DATABASES
from tests.unit.stack.backup.world import World, sql


def test_a_backup_says_what_is_in_it(world: World):
    manifest = save(world.scope, world.archive)
    assert manifest.problems == ()
    assert manifest.champion == "7"
    assert str(manifest.publication).startswith("v7-")
    assert {dump.database for dump in manifest.databases} == set(DATABASES)
    assert manifest.places["published"].files == 2  # The pointer and the journal: nothing was written to the ledger.
    assert manifest.places["bucket"].files > 4
    assert any(line.startswith(".env") for line in manifest.left_out)
    assert set(manifest.versions) == {"notellm2", "mlflow", "prefect", "postgresql"}
    assert world.archive.verify() == manifest


def test_a_second_backup_reads_and_copies_only_what_is_new(world: World, monkeypatch: pytest.MonkeyPatch):
    save(world.scope, world.archive)
    before = {path.name for path in world.archive.root.glob("blobs/*/*")}
    new = world.artifact("more", b"more")
    world.put("mlflow/2/x", b"new object")
    monkeypatch.setattr(saving, "_new_name", lambda archive: "29990101T000000Z")
    read: list[str] = []
    for storage in world.scope.storages.values():
        kept = storage.open
        monkeypatch.setattr(storage, "open", lambda name, kept=kept: (read.append(name), kept(name))[1])
    save(world.scope, world.archive)
    assert sorted(read) == ["mlflow/2/x", f"training/{new.key}/deep/more", f"training/{new.key}/manifest.json"]
    assert len({path.name for path in world.archive.root.glob("blobs/*/*")} - before) == len(read)


def test_nobody_waits_for_the_dump_and_both_databases_are_of_one_moment(world: World, monkeypatch: pytest.MonkeyPatch):
    """While databases are dumped the lease is free, and what is written then is not in the backup."""
    dump = Server.dump
    late: list[str] = []

    def slow(server, database, snapshot, path):
        if not late:
            with hold(world.scope.published, "a promotion", lease_s=60, wait_s=0):
                late.append("free")
            for other in DATABASES:
                sql(server, other, "INSERT INTO rows VALUES (2, 'late')")
        dump(server, database, snapshot, path)

    monkeypatch.setattr(Server, "dump", slow)
    before = world.rows()
    save(world.scope, world.archive)
    assert late == ["free"]
    from notellm2.stack.backup.restore import restore

    target = world.wiped()
    restore(target.scope, target.archive)
    assert target.rows() == before


def test_a_promotion_under_way_is_waited_for(world: World, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(saving, "WAIT_S", 0.2)
    with hold(world.scope.published, "a promotion", lease_s=60, wait_s=0):
        with pytest.raises(LeaseTaken, match="a promotion is under way"):
            save(world.scope, world.archive)
        assert world.archive.names() == []
        ended = threading.Event()
        monkeypatch.setattr(saving, "WAIT_S", 30.0)

        def wait() -> None:
            save(world.scope, world.archive)
            ended.set()

        waiting = threading.Thread(target=wait)
        waiting.start()
        assert not ended.wait(0.3)
    waiting.join(30)
    assert ended.is_set()


def test_a_damaged_artifact_is_named(world: World):
    artifact = world.artifact("damaged", b"sound")
    (artifact.path / "deep" / "damaged").write_bytes(b"other")
    lost = world.artifact("lost", b"sound")
    (lost.path / "deep" / "lost").unlink()
    manifest = save(world.scope, world.archive)
    expected = [f"store: training/{artifact.key}/deep/damaged: ", f"store: training/{lost.key}/deep/lost: "]
    assert len(manifest.problems) == 2
    assert all(any(line.startswith(start) for line in manifest.problems) for start in expected)


def test_an_artifact_that_a_clean_up_removes_meanwhile_is_no_problem(world: World, monkeypatch: pytest.MonkeyPatch):
    artifact = world.artifact("old", b"old")
    store = world.scope.storages["store"]
    kept = store.entries

    def entries():
        found = list(kept())
        shutil.rmtree(artifact.path)
        return iter(found)

    monkeypatch.setattr(store, "entries", entries)
    manifest = save(world.scope, world.archive)
    assert manifest.problems == ()
    assert not any(artifact.key in file.name for file in world.archive.files(manifest))


def test_no_backup_without_the_index_that_the_pointer_names(world: World):
    name = next(entry.name for entry in world.scope.storages["bucket"].entries() if entry.name.endswith("index.faiss"))
    world.put(name, b"another")
    with pytest.raises(InputError, match=r"index\.faiss; no backup was made"):
        save(world.scope, world.archive)
    assert world.archive.names() == []


def test_passwords_are_on_no_command_line(world: World, monkeypatch: pytest.MonkeyPatch):
    commands: list[object] = []
    started = subprocess.Popen

    class Watched(started):  # type: ignore[valid-type,misc]
        def __init__(self, command, **rest):
            commands.append(command)
            super().__init__(command, **rest)

    monkeypatch.setattr(subprocess, "Popen", Watched)
    manifest = save(world.scope, world.archive)
    password = world.scope.server.password
    assert len(commands) == 5  # A session for each snapshot, the version, a dump of each.
    assert password not in json.dumps(commands)
    assert password not in manifest.model_dump_json() + repr(world.scope)


@pytest.mark.parametrize("at", ["dumps", "files", "manifest"])
def test_killed_in_the_middle_leaves_no_half_backup(world: World, at: str, monkeypatch: pytest.MonkeyPatch):
    """Forked, so that the set-up need not be described again; killed as the system does it."""
    child = os.fork()
    if child == 0:
        try:
            _die_at(at)
            save(world.scope, world.archive)
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.WTERMSIG(status) == signal.SIGKILL
    assert world.archive.names() == []
    with pytest.raises(InputError, match="no complete backup"):
        world.archive.verify()
    manifest = save(world.scope, world.archive)
    assert world.archive.verify() == manifest
    assert not list(world.archive.root.glob("*/.[!l]*"))


def _die_at(at: str) -> None:
    def die(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    if at == "dumps":
        Server.dump = die
    elif at == "files":
        saving.write_files = die
    else:
        saving.write_manifest = die
