"""`promote`, `rollback` and `history`, as a person at a terminal has them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from notellm2 import cli
from notellm2.artifacts import Artifact, Store
from notellm2.cli import promotion
from notellm2.errors import InputError
from notellm2.promotion.journal import hold
from notellm2.publication.pointer import POINTER
from notellm2.registry import names, versions
from notellm2.registry.decisions import Pair, Verdict
from notellm2.registry.tracking import URI_VARIABLE, Tracking
from notellm2.workspace import Workspace
from tests.unit.registry.world import A, B, World, index_of

Run = Callable[..., Result]


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with versions 1, of bundle A, and 2 and 3, of bundle B, all of which passed a gate without a champion."""
    root = tmp_path_factory.mktemp("template")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv(URI_VARIABLE, raising=False)
        world = world_at(root)
        indexes = {bundle: index_of(Store(root), bundle, seed) for seed, bundle in enumerate((A, B))}
        for bundle in (A, B, B):
            versions.add_artifact(world.tracking, world.register(bundle), indexes[bundle])
    return root


@pytest.fixture
def world(template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    import shutil

    monkeypatch.delenv(URI_VARIABLE, raising=False)
    monkeypatch.chdir(tmp_path)
    shutil.copytree(template, tmp_path / "store")
    return world_at(tmp_path / "store")


@pytest.fixture
def run(world: World) -> Run:
    runner = CliRunner()
    return lambda *arguments: runner.invoke(cli.app, [str(a) for a in arguments])


def world_at(root: Path) -> World:
    workspace = Workspace.at(root)
    return World(Tracking.at(workspace), workspace.published)


def index_key(world: World, version: str) -> Artifact:
    return Store(world.published.parent).get(
        f"index/{versions.get_version(world.tracking, version).artifacts['index']}"
    )


def test_promote_roll_back_and_read_what_happened(run: Run, world: World) -> None:
    promoted = run("promote", 1, "--reason", "the first")
    assert promoted.exit_code == 0, promoted.output
    assert promoted.output.startswith("version 1 is in use with index v1-")
    again = run("promote", 1)
    assert again.output == "version 1 is champion already, its index published\n"
    taken = run("promote", 2, "--expect-champion", 1, "--reason", "reads more", "--json")
    assert taken.exit_code == 0, taken.output
    told = json.loads(taken.output)
    assert (told["action"], told["mode"], told["reason"], told["over"]["version"]) == (
        "promote",
        "manual",
        "reads more",
        "1",
    )
    assert told["compared_with"] is None, "the gate saw no champion, and the ledger says so"
    assert "@" in told["by"]
    assert world.pair().version == "2"
    back = run("rollback", "--yes", "--reason", "clicks fell")
    assert back.exit_code == 0, back.output
    assert "version 1 is in use with index v1-" in back.output
    assert "in the place of version 2" in back.output
    assert world.pair().version == "1"
    there = run("rollback", "--to", 2, "--yes", "--json")
    assert json.loads(there.stdout)["to"]["version"] == "2"
    rows = json.loads(run("history", "--json").output)
    assert [(row["action"], row["to"]["version"]) for row in rows] == [
        ("promote", "1"),
        ("promote", "2"),
        ("rollback", "1"),
        ("rollback", "2"),
    ]
    lines = run("history").output.splitlines()
    assert len(lines) == 5
    assert "clicks fell" in lines[3]
    assert lines[4].startswith("*")
    status = run("status")
    assert "Champion    version 2" in status.output
    assert "Note: version 3 passed" not in status.output, "nothing carries the alias challenger"


def test_a_rollback_says_what_it_will_do_and_asks(run: Run, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    run("promote", 1)
    run("promote", 2, "--expect-champion", 1)
    refreshed = world.promote("2", index_of(Store(world.published.parent), B, seed=7), "2").publication.version
    with pytest.raises(InputError, match="--yes"):
        CliRunner().invoke(cli.app, ["rollback"], catch_exceptions=False)
    monkeypatch.setattr(promotion, "_at_terminal", lambda: True)
    answered_no = CliRunner().invoke(cli.app, ["rollback"], input="n\n")
    assert answered_no.exit_code == 1
    assert f"in use now:   version 2 with index {refreshed}" in answered_no.stderr
    assert "goes back to: version 1 with index v1-" in answered_no.stderr
    assert "nothing was changed" in answered_no.stderr
    assert world.pair().version == "2"
    with pytest.raises(InputError, match="one of them"):
        CliRunner().invoke(cli.app, ["rollback", "--to", "1", "--index"], catch_exceptions=False)
    same_model = CliRunner().invoke(cli.app, ["rollback", "--index"], input="y\n")
    assert "the model stays the same" in same_model.stderr
    assert world.pair().version == "2"
    assert world.pair().publication != refreshed
    assert CliRunner().invoke(cli.app, ["rollback"], input="y\n").exit_code == 0
    assert world.pair().version == "1"


def test_promoting_what_is_in_use_does_not_undo_a_refresh_of_its_index(run: Run, world: World) -> None:
    run("promote", 1)
    refreshed = world.promote("1", index_of(Store(world.published.parent), A, seed=7), "1")
    again = run("promote", 1)
    assert again.exit_code == 0
    assert again.output.startswith("version 1 is champion already, with an index that followed")
    assert world.pair() == Pair(version="1", publication=refreshed.publication.version)


def test_a_champion_that_changed_since_the_gate_is_a_refusal_with_status_1(run: Run, world: World) -> None:
    run("promote", 1)
    before = world.pair()
    for arguments in ((), ("--expect-champion", "none"), ("--expect-champion", "7")):
        refused = run("promote", 2, *arguments)
        assert refused.exit_code == 1
        assert "refused: version 2 was compared with" in refused.stderr
        assert "by now there is champion version 1" in refused.stderr
        assert "--expect-champion 1" in refused.stderr
    assert world.pair() == before


def test_a_promotion_under_way_is_a_refusal_with_status_1(
    run: Run, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    from notellm2.promotion import release

    run("promote", 1)
    run("promote", 2, "--expect-champion", 1)
    monkeypatch.setattr(release, "hold", lambda *a, **k: hold(*a, **{**k, "wait_s": 0}))
    with hold(world.location, "promoting version 3", lease_s=60, wait_s=0):
        for arguments in (("promote", 3), ("rollback", "--yes")):
            refused = run(*arguments)
            assert refused.exit_code == 1
            assert "promoting version 3" in refused.stderr


def test_only_what_passed_the_gate_is_promoted(run: Run, world: World) -> None:
    tracking = world.tracking
    verdict = Verdict(passed=False, rules=(), sentence="version 2 is refused by 1 of 14 rules: visual-reliance: 0")
    versions.record_verdict(tracking, "2", verdict, None)
    tracking.client.delete_model_version_tag(tracking.model_name, "3", names.GATE)
    for version, why in (("2", "visual-reliance: 0"), ("3", "no gate has judged it"), ("9", "version '9'")):
        with pytest.raises(InputError, match=why):
            CliRunner().invoke(cli.app, ["promote", version], catch_exceptions=False)
    assert world.pair() == Pair(version=None, publication=None)


def test_what_a_person_refused_is_not_advised(run: Run, world: World) -> None:
    run("promote", 1)
    versions.move_alias(world.tracking, names.CHALLENGER, "2")
    versions.record_verdict(world.tracking, "2", Verdict(passed=True, rules=(), sentence="passes"), "1")
    assert "Note: version 2 passed the gate and is not in use: notellm2 promote 2" in run("status").output
    refused = run("refuse", 2, "--reason", "worse on short queries")
    assert (refused.exit_code, refused.output) == (0, "version 2 is refused; it stays registered\n")
    status = run("status")
    assert "notellm2 promote 2" not in status.output
    assert "Note: version 2 passed the gate, and was refused by " in status.output
    assert "worse on short queries" in status.output
    assert "worse on short queries" in run("history").output.splitlines()[-1]
    with pytest.raises(InputError, match="notellm2 rollback"):
        CliRunner().invoke(cli.app, ["refuse", "1"], catch_exceptions=False)
    assert run("promote", 2).exit_code == 0, "a person may think better of it"
    assert world.pair().version == "2"


def test_status_ends_with_1_where_the_champion_is_not_what_readers_get(run: Run, world: World) -> None:
    run("promote", 1)
    assert run("status").exit_code == 0
    versions.move_alias(world.tracking, names.CHAMPION, "2")
    strayed = run("status")
    assert strayed.exit_code == 1
    assert "the published index is of model version 1, the champion is 2" in strayed.output
    assert json.loads(run("status", "--json").output)["agree"] is False


def test_an_index_that_is_gone_is_told(run: Run, world: World) -> None:
    import shutil

    shutil.rmtree(index_key(world, "1").path)
    with pytest.raises(InputError, match="expected exactly one match"):
        CliRunner().invoke(cli.app, ["promote", "1"], catch_exceptions=False)


def test_a_full_disk_is_told_with_status_1(run: Run, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    import errno

    import notellm2.artifacts

    run("promote", 1)

    def refuse(path: Path, content: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    with monkeypatch.context() as patch:
        patch.setattr(notellm2.artifacts, "write_atomic", refuse)
        failed = run("promote", 2, "--expect-champion", 1)
    assert failed.exit_code == 1
    assert "No space left" in failed.stderr
    assert world.pair().version == "1"


def test_nothing_registered_is_told_and_makes_no_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(URI_VARIABLE, raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "store").mkdir()
    for arguments in (["promote", "1"], ["rollback"]):
        with pytest.raises(InputError, match="nothing is registered"):
            CliRunner().invoke(cli.app, arguments, catch_exceptions=False)
    assert "nothing has been promoted yet" in CliRunner().invoke(cli.app, ["history"]).output
    assert json.loads(CliRunner().invoke(cli.app, ["history", "--json"]).output) == []
    assert list((tmp_path / "store").iterdir()) == []


def test_the_artifacts_of_versions_a_rollback_reaches_are_kept(run: Run, world: World) -> None:
    run("promote", 1)
    run("promote", 2, "--expect-champion", 1)
    reached = index_key(world, "1")
    newest = index_of(Store(world.published.parent), A, seed=9)
    manifest = json.loads((newest.path / "manifest.json").read_text()) | {"created": "2999-01-01T00:00:00+00:00"}
    (newest.path / "manifest.json").write_text(json.dumps(manifest))
    removed = json.loads(run("artifacts", "gc", "--keep", 1, "--older-than", 0, "--json").output)["removed"]
    assert reached.path.exists()
    assert not any("index/" in path for path in removed)


def test_history_needs_no_mlflow(tmp_path: Path, run: Run) -> None:
    import subprocess
    import sys

    run("promote", 1)
    probe = (
        "import sys; sys.argv = ['notellm2', 'history']\n"
        "from notellm2.cli import main\n"
        "try: main()\n"
        "finally: print(sorted({m.split('.')[0] for m in sys.modules} & {'torch', 'mlflow', 'prefect', 'pandas'}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", probe], capture_output=True, text=True, timeout=60, cwd=tmp_path, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"


def test_a_damaged_pointer_is_written_anew_by_a_rollback(run: Run, world: World) -> None:
    run("promote", 1)
    (world.published / POINTER).write_text("{")
    with pytest.raises(InputError, match="rollback --to"):
        CliRunner().invoke(cli.app, ["promote", "2", "--expect-champion", "1"], catch_exceptions=False)
    assert run("rollback", "--yes").exit_code == 0, "the pair that the ledger says was in use"
    assert world.pair().version == "1"
