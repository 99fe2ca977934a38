from __future__ import annotations

import json
import os
import signal
import uuid
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from notellm2.artifacts import digest_json
from notellm2.errors import InputError
from notellm2.promotion.journal import hold, read_intent
from notellm2.publication import s3
from notellm2.publication.reader import Published
from notellm2.registry.decisions import Entry, Pair
from notellm2.stack.backup import restore as restoring
from notellm2.stack.backup.databases import DatabaseFailed, Server
from notellm2.stack.backup.manifest import Manifest, write_manifest
from notellm2.stack.backup.restore import restore
from notellm2.stack.backup.save import save
from notellm2.stack.backup.scope import DATABASES
from tests.unit.index.examples import note_ids
from tests.unit.stack.backup.world import OWNER, REVISION, World, sql


@pytest.fixture
def saved(world: World) -> World:
    save(world.scope, world.archive)
    return world


def _rewritten(world: World, change: Callable[[Manifest], Manifest]) -> None:
    """Write the manifest with a change, sealed: as another release would have written it."""
    manifest = world.archive.manifest(world.archive.choose())
    write_manifest(world.archive.root / "backups" / manifest.name, change(manifest))


def test_all_is_as_before(saved: World):
    before = saved.seen()
    target = saved.wiped()
    assert target.files() == {}
    done = restore(target.scope, target.archive)
    assert target.seen() == before
    assert done.present == 0
    assert done.written == len(before[1]) - 1
    assert target.store.problems(next(target.store.artifacts())) == []
    with Published(target.scope.published) as published, Published(saved.scope.published) as former:
        note = note_ids(40)[3]
        assert published.similar(note, k=5) == former.similar(note, k=5)


def test_metadata_of_objects_come_back(saved: World):
    """The published place compares sizes and digests by them."""
    target = saved.wiped()
    restore(target.scope, target.archive)
    bucket = target.variables["S3_BUCKET"]
    head = s3.s3_client().head_object(Bucket=bucket, Key="mlflow/1/run/artifacts/report.html")
    assert head["Metadata"] == {"sha256": "told", "who": "a test"}
    assert head["ContentType"] == "text/html"


def test_what_a_killed_promotion_left_comes_back_without_its_lease(world: World):
    pair = Pair(version="7", publication="v7-x")
    intent = Entry(
        id="1", at="2026-01-01", action="promote", model="m", to=pair, over=pair, bundle="b", compared_with=None,
        mode="manual", by="a test", reason="killed",
    )  # fmt: skip
    with hold(world.scope.published, "a promotion", lease_s=60, wait_s=0) as held:
        held.record(intent)
    save(world.scope, world.archive)
    target = world.wiped()
    restore(target.scope, target.archive)
    assert read_intent(target.scope.published) == intent
    stored = target.scope.published.read("promotion.json")
    assert json.loads(stored.data)["lease"] is None
    with hold(target.scope.published, "the next", lease_s=60, wait_s=0):
        pass


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_a_damaged_backup_is_refused_before_anything_is_touched(saved: World, monkeypatch: pytest.MonkeyPatch):
    """A flipped bit and a missing file, of each kind of file that a backup has."""
    target = saved.wiped()
    for name in ("_check_databases", "_put_files"):
        monkeypatch.setattr(restoring, name, lambda *_: pytest.fail("the target was looked at"))
    for which in ("blobs/*/*", "backups/*/*.dump", "backups/*/files.jsonl", "backups/*/manifest.json"):
        path = sorted(saved.archive.root.glob(which))[0]
        whole = path.read_bytes()
        for damage in (_flip, Path.unlink):
            damage(path)
            lost = which.endswith("manifest.json") and damage is Path.unlink
            with pytest.raises(InputError, match="no complete backup" if lost else path.name):
                restore(target.scope, target.archive)
            path.write_bytes(whole)
    assert target.files() == {}
    assert not target.scope.workspace.root.exists()
    assert saved.archive.verify()


def test_a_target_that_is_not_empty_is_left_alone_unless_told(saved: World):
    sql(saved.scope.server, DATABASES[0], "UPDATE rows SET said = 'changed since'")
    sql(saved.scope.server, DATABASES[0], "CREATE TABLE newer (id int)")
    saved.publish(8)
    extra = saved.artifact("since", b"since")
    before = saved.seen()
    with pytest.raises(InputError, match=r"not empty: database prefect \(3 tables\).*current\.json.*--replace"):
        restore(saved.scope, saved.archive)
    assert saved.seen() == before
    done = restore(saved.scope, saved.archive, replace=True)
    assert saved.rows()[0].startswith("row of 0|")
    tables = "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'"
    assert sql(saved.scope.server, DATABASES[0], tables) == "2"
    assert done.written == 0  # All files were there; those made since stay.
    assert extra.path.is_dir()
    with Published(saved.scope.published) as published:
        assert published.model_version == "7"


@pytest.mark.parametrize("at", ["files", "database", "pointer"])
def test_a_killed_restore_is_run_again(saved: World, at: str):
    before = saved.seen()
    target = saved.wiped()
    child = os.fork()
    if child == 0:
        try:
            _die_at(at)
            restore(target.scope, target.archive)
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.WTERMSIG(status) == signal.SIGKILL
    assert target.scope.published.read("current.json") is None
    if at != "files":
        with pytest.raises(InputError, match=r"not empty.*--replace.*interrupted goes on"):
            restore(target.scope, target.archive)
    done = restore(target.scope, target.archive, replace=True)
    assert target.seen() == before
    assert (done.present > 0) is (at != "files")


def _die_at(at: str) -> None:
    def die(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    load = Server.load
    if at == "files":
        restoring._put_files = die
    elif at == "database":
        # After the first database, before the second.
        calls: list[object] = []
        Server.load = lambda *what: (calls.append(what), die() if len(calls) > 1 else load(*what))
    else:
        restoring._put_pointers = die


def test_pins_of_the_project_are_replaced_only_where_told(world: World):
    """A checkout has them already: the same ones are no reason to refuse, others are."""
    pin = world.archive.root.parent / "data.dvc"
    pin.write_text("outs: one")
    save(world.scope, world.archive)
    target = world.wiped()
    pin.write_text("outs: another")
    with pytest.raises(InputError, match=r"not empty: \S+data\.dvc; "):
        restore(target.scope, target.archive)
    done = restore(target.scope, target.archive, replace=True)
    assert pin.read_text() == "outs: one"
    assert done.present == 0
    again = target.wiped()
    assert restore(again.scope, again.archive).present == 1


def test_a_pointer_is_never_taken_away(world: World):
    objects, pointer = s3.s3_client(), "published/current.json"
    kept = objects.get_object(Bucket=world.variables["S3_BUCKET"], Key=pointer)["Body"].read()
    objects.delete_object(Bucket=world.variables["S3_BUCKET"], Key=pointer)
    save(world.scope, world.archive)
    world.put(pointer, kept)
    before = world.seen()
    with pytest.raises(InputError, match=r"has current\.json, and the backup is of a time before that"):
        restore(world.scope, world.archive, replace=True)
    assert world.seen() == before


def test_a_backup_of_a_newer_release_is_refused(saved: World):
    target = saved.wiped()
    _rewritten(saved, lambda manifest: manifest.model_copy(update={"versions": {"prefect": "99.1"}}))
    with pytest.raises(InputError, match=r"made with prefect 99\.1, here is 3.*with that release or a newer"):
        restore(target.scope, target.archive)
    assert target.files() == {}


def test_a_backup_of_the_format_before_comes_back(saved: World):
    """It names the owner and the schema revisions of each database beside."""
    before = saved.seen()
    path = saved.archive.root / "backups" / saved.archive.choose() / "manifest.json"
    manifest = {**json.loads(path.read_text()), "format": 1}
    for dump in manifest["databases"]:
        dump |= {"owner": OWNER, "schemas": {"alembic_version": REVISION}}
    del manifest["digest"]
    path.write_text(json.dumps({**manifest, "digest": digest_json(manifest)}))
    target = saved.wiped()
    restore(target.scope, target.archive)
    assert target.seen() == before


def test_a_newer_format_and_a_newer_server_are_refused(saved: World):
    target = saved.wiped()
    _rewritten(saved, lambda manifest: manifest.model_copy(update={"versions": {"postgresql": "99.1"}}))
    with pytest.raises(InputError, match=r"is version \d+, the backup is of version 99"):
        restore(target.scope, target.archive)
    _rewritten(saved, lambda manifest: manifest.model_copy(update={"format": 3}))
    with pytest.raises(InputError, match="format 3, this release reads up to 2"):
        restore(target.scope, target.archive)


def test_databases_in_use_are_refused(saved: World):
    target = saved.wiped()
    server = target.scope.server
    refused = "in use by notellm2 backup; nothing was touched: stop everything but PostgreSQL"
    with server.snapshot(DATABASES[1]), pytest.raises(InputError, match=refused):
        restore(target.scope, target.archive)


def test_a_storage_that_is_missing_is_named(saved: World):
    target = saved.wiped()
    storages = {"store": target.scope.storages["store"]}
    with pytest.raises(InputError, match=r"no place for: bucket \(s3://.*S3_BUCKET"):
        restore(replace(target.scope, storages=storages), target.archive)


def test_a_database_that_cannot_be_loaded_is_as_it_was(saved: World, tmp_path: Path):
    """A dump that is cut, and one with a line that PostgreSQL refuses: all in one transaction."""
    server, database = saved.scope.server, DATABASES[0]
    manifest = saved.archive.manifest(saved.archive.choose())
    whole = saved.archive.dump_path(manifest, manifest.databases[0])
    before = saved.rows()
    cut = tmp_path / "cut.dump"
    cut.write_bytes(whole.read_bytes()[:-700])
    with pytest.raises(DatabaseFailed, match="pg_restore cannot read"):
        server.load(database, cut)
    assert saved.rows() == before
    other = f"role_{uuid.uuid4().hex[:8]}"
    sql(server, "postgres", f"CREATE ROLE {other}")
    sql(server, database, f"CREATE TABLE theirs (id int); ALTER TABLE theirs OWNER TO {other}")
    save_path = tmp_path / "role.dump"
    with server.snapshot(database) as snapshot:
        server.dump(database, snapshot, save_path)
    sql(server, database, f"DROP TABLE theirs; DROP ROLE {other}")
    with pytest.raises(DatabaseFailed, match=f'is as it was: .*role "{other}" does not exist'):
        server.load(database, save_path)
    assert saved.rows() == before


def test_a_server_that_does_not_answer_or_refuses_is_named_without_the_password(
    server: Server, monkeypatch: pytest.MonkeyPatch
):
    wrong = replace(server, password="wrong-password")
    with pytest.raises(InputError, match=r"cannot open database 'postgres' as 'postgres'.*authentication failed"):
        wrong.facts("postgres")
    with pytest.raises(InputError, match="authentication failed"), wrong.snapshot("postgres"):
        pass
    with pytest.raises(InputError, match="Connection refused"):
        replace(server, port=9).facts("postgres")
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(InputError, match=r"pg_dump: not found; install .*postgresql-client"):
        replace(server, programs=None).dump("a", "b", Path("c"))
    assert "wrong-password" not in repr(wrong)


def test_backups_are_chosen_by_name_and_pruned(saved: World, monkeypatch: pytest.MonkeyPatch):
    from notellm2.stack.backup import save as saving

    (first,) = saved.archive.names()
    saved.put("mlflow/1/run/artifacts/report.html", b"another report")
    monkeypatch.setattr(saving, "_new_name", lambda archive: "29990101T000000Z")
    second = save(saved.scope, saved.archive).name
    assert saved.archive.choose() == second
    with pytest.raises(InputError, match=f"no backup 'x'; there are: {first}, {second}"):
        saved.archive.choose("x")
    old = saved.archive.files(saved.archive.manifest(first))
    assert saved.archive.prune(2) == []
    assert saved.archive.prune(1) == [first]
    assert saved.archive.names() == [second]
    assert saved.archive.verify().name == second
    gone = [file for file in old if not saved.archive.has(file.sha256, file.size)]
    assert [file.name for file in gone if not file.name.endswith(".json")] == ["mlflow/1/run/artifacts/report.html"]


def test_two_at_once_take_turns(saved: World):
    target = saved.wiped()
    with saved.archive.lock("a backup"):
        assert saved.archive.root.stat().st_mode & 0o077 == 0
        with pytest.raises(InputError, match="in use by a backup"):
            save(saved.scope, saved.archive)
        with pytest.raises(InputError, match="in use by a backup"):
            saved.archive.prune(1)
        with pytest.raises(InputError, match="in use by a backup"):
            restore(target.scope, target.archive)
