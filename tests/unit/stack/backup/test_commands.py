"""`notellm2 stack backup` and `restore` without a .env, as in the container: the environment says what there is."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from notellm2 import cli
from notellm2.errors import InputError
from notellm2.promotion.journal import hold
from notellm2.stack.backup import save as saving
from tests.unit.stack.backup.world import World

Run = Callable[..., Result]


@pytest.fixture
def run(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.chdir(tmp_path)

    def invoke(command: str, *arguments: str, of: World = world) -> Result:
        for name, value in of.variables.items():
            monkeypatch.setenv(name, value)
        return CliRunner().invoke(cli.app, ["stack", command, str(world.archive.root), *arguments])

    return invoke


def test_back_up_list_check_and_restore(world: World, run: Run, monkeypatch: pytest.MonkeyPatch):
    before = world.seen()
    made = run("backup")
    assert made.exit_code == 0, made.output
    (name,) = world.archive.names()
    assert f"backup {name}" in made.stdout
    assert "in use     version 7 with index v7-" in made.stdout
    assert "copying" in made.stderr
    assert world.server.password not in made.output

    listed = run("restore", "--list")
    assert f"{name} " in listed.stdout
    assert "version 7 in use\n1 backup(s)" in listed.stdout
    checked = run("restore", "--check")
    assert checked.exit_code == 0
    assert checked.stdout.endswith("every byte is as it was written\n")

    target = world.wiped()
    done = run("restore", "--json", of=target)
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["name"] == name
    assert json.loads(done.stdout)["present"] == 0
    assert target.seen() == before

    monkeypatch.setattr(saving, "_new_name", lambda archive: "29990101T000000Z")
    again = run("backup", "--keep", "1", "--json", of=target)
    assert json.loads(again.stdout)["removed"] == [name]
    assert [entry["name"] for entry in json.loads(run("restore", "--list", "--json").stdout)] == ["29990101T000000Z"]


def test_what_is_damaged_at_its_source_ends_with_status_1(world: World, run: Run):
    artifact = world.artifact("damaged", b"sound")
    (artifact.path / "deep" / "damaged").write_bytes(b"other")
    made = run("backup")
    assert made.exit_code == 1
    assert f"damaged: store: training/{artifact.key}/deep/damaged: missing, or its bytes" in made.stderr
    assert world.archive.names()
    assert "1 problem(s)" in run("restore", "--list").stdout


def test_what_cannot_be_pruned_is_no_failed_backup(world: World, run: Run, monkeypatch: pytest.MonkeyPatch):
    """Whoever reads the status of a nightly job must not think that the newest backup is missing."""
    assert run("backup").exit_code == 0
    (old,) = world.archive.names()
    (world.archive.root / "backups" / old / "files.jsonl").write_text("")
    monkeypatch.setattr(saving, "_new_name", lambda archive: "29990101T000000Z")
    made = run("backup", "--keep", "2")
    assert made.exit_code == 1
    assert made.stdout.startswith("backup 29990101T000000Z")
    assert f"not removed: {world.archive.root}" in made.stderr
    assert world.archive.names() == [old, "29990101T000000Z"]


def test_a_damaged_blob_that_is_removed_is_copied_anew(world: World, run: Run, monkeypatch: pytest.MonkeyPatch):
    """As docs/guides/back-up-and-restore.md has it."""
    artifact = world.artifact("once", b"sound")
    assert run("backup").exit_code == 0
    [blob] = [path for path in (world.archive.root / "blobs").glob("*/*") if path.read_bytes() == b"sound"]
    blob.write_bytes(b"SOUND")
    for number in (1, 2):
        monkeypatch.setattr(saving, "_new_name", lambda archive, n=number: f"2999010{n}T000000Z")
        assert run("backup").exit_code == 0
        with pytest.raises(InputError, match=f"{blob}.*{artifact.key}") if number == 1 else contextlib.nullcontext():
            world.archive.verify()
        if number == 1:
            blob.unlink()
    assert blob.read_bytes() == b"sound"


def test_a_promotion_that_does_not_end_is_a_refusal(world: World, run: Run, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(saving, "WAIT_S", 0.1)
    with hold(world.scope.published, "a promotion", lease_s=60, wait_s=0):
        made = run("backup")
    assert made.exit_code == 1
    assert "a promotion is under way" in made.stderr
    assert world.archive.names() == []


def test_without_env_file_and_environment_it_says_where_to_run_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PGHOST", raising=False)
    with pytest.raises(InputError, match=r"PGHOST.*there is no \.env"):
        CliRunner().invoke(cli.app, ["stack", "backup", "backups"], catch_exceptions=False)
