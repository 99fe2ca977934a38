from __future__ import annotations

import inspect
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import typer
from typer.core import TyperGroup
from typer.testing import CliRunner, Result

from notellm2 import cli
from notellm2.artifacts import Artifact, Store
from notellm2.index.process import build_index_in_subprocess
from notellm2.publication.opening import open_location
from notellm2.recipe import ImageLimits, IndexConfig, SampleConfig
from notellm2.workspace import Workspace
from tests.conftest import ROOT
from tests.unit.index.examples import clustered, index_artifact, publish

HELP = Path(__file__).parent / "help"
COMMANDS = [
    (),
    ("doctor",),
    ("sample",),
    ("import",),
    ("data",),
    ("data", "pin"),
    ("data", "pull"),
    ("data", "push"),
    ("data", "status"),
    ("artifacts",),
    ("artifacts", "list"),
    ("artifacts", "show"),
    ("artifacts", "verify"),
    ("artifacts", "gc"),
    ("export",),
    ("similar",),
    ("serve",),
    ("status",),
    ("evaluate",),
    ("report",),
    ("promote",),
    ("refuse",),
    ("rollback",),
    ("history",),
    ("stack",),
    ("stack", "secrets"),
    ("stack", "up"),
    ("stack", "restart"),
    ("stack", "down"),
    ("stack", "status"),
    ("stack", "logs"),
    ("lineage",),
    ("stack", "backup"),
    ("stack", "restore"),
]

Run = Callable[..., Result]


def ask(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """The command line as a user has it: a process of its own."""
    command = [sys.executable, "-m", "notellm2", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, cwd=cwd)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.chdir(tmp_path)
    runner = CliRunner()
    return lambda *arguments: runner.invoke(cli.app, [str(a) for a in arguments])


@pytest.fixture
def made(tmp_path: Path) -> Artifact:
    def write(directory: Path) -> dict[str, int]:
        (directory / "train.parquet").write_bytes(b"x" * 2_000_000)
        return {"pairs": 7}

    return Store(tmp_path / "store", {"data_md5": "0a.dir"}).build("pairs", 1, {"top_t": 3}, {"data": "0a.dir"}, write)


@pytest.mark.parametrize("command", COMMANDS, ids=lambda c: "-".join(c) or "notellm2")
def test_help_is_as_it_was(command: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """A change of the command line is a decision: edit the snapshot in tests/unit/help with it."""
    monkeypatch.setenv("COLUMNS", "100")
    result = CliRunner().invoke(cli.app, [*command, "--help"], prog_name="notellm2")
    assert result.exit_code == 0
    assert result.output == (HELP / f"{'-'.join(('notellm2', *command))}.txt").read_text()


def test_options_default_to_what_recipes_default_to() -> None:
    for command, section in ((cli.sample, SampleConfig()), (cli.import_, ImageLimits())):
        options = inspect.signature(command).parameters
        for field, value in section:
            assert options[field].default == value, field


def test_every_command_has_an_example() -> None:
    for command in COMMANDS:
        text = (HELP / f"{'-'.join(('notellm2', *command))}.txt").read_text()
        group = command in ((), ("data",), ("artifacts",), ("stack",))
        assert group or f"Example: notellm2 {' '.join(command)}" in text


def test_list_and_show(run: Run, made: Artifact) -> None:
    listed = run("artifacts", "list")
    assert listed.exit_code == 0
    assert f"pairs/{made.key}" in listed.output
    assert "2.0 MB" in listed.output
    assert "1 artifact(s)" in listed.output
    (row,) = json.loads(run("artifacts", "list", "--json").output)
    assert (row["stage"], row["key"], row["bytes"], row["path"]) == (
        "pairs",
        made.key,
        2_000_000,
        "store/pairs/" + made.key,
    )
    assert json.loads(run("artifacts", "list", "--stage", "index", "--json").output) == []
    shown = json.loads(run("artifacts", "show", f"pairs/{made.key[:5]}", "--json").output)
    assert shown["summary"] == {"pairs": 7}
    assert "data_md5: 0a.dir" in run("artifacts", "show", f"pairs/{made.key[:5]}").output


def test_verify_names_what_is_damaged_and_says_so_in_its_status(run: Run, made: Artifact) -> None:
    assert run("artifacts", "verify").exit_code == 0
    (made.path / "train.parquet").write_bytes(b"y")
    result = run("artifacts", "verify")
    assert result.exit_code == 1
    assert f"pairs/{made.key}: train.parquet: 1 bytes, the manifest says 2000000" in result.output
    told = json.loads(run("artifacts", "verify", f"pairs/{made.key}", "--json").output)
    assert told["checked"] == 1
    assert list(told["damaged"]) == [f"pairs/{made.key}"]


def test_gc_keeps_the_newest_and_what_it_needs(run: Run, tmp_path: Path, made: Artifact) -> None:
    store = Store(tmp_path / "store")
    old = made
    newer = store.build("pairs", 2, {}, {}, lambda d: (d / "x").write_text("x") and {})
    manifest = json.loads((newer.path / "manifest.json").read_text()) | {"created": "2999-01-01T00:00:00+00:00"}
    (newer.path / "manifest.json").write_text(json.dumps(manifest))
    assert run("artifacts", "gc", "--keep", "1").output == "0 folder(s) removed from store\n", "too young"
    planned = run("artifacts", "gc", "--keep", "1", "--older-than", "0", "--dry-run")
    assert "1 folder(s) would be removed" in planned.output
    assert old.path.exists()
    told = json.loads(run("artifacts", "gc", "--keep", "1", "--older-than", "0", "--json").output)
    assert told == {"removed": [f"store/pairs/{old.key}"], "dry_run": False}
    assert [a.key for a in store.artifacts()] == [newer.key]


def test_gc_keeps_what_the_champion_was_made_from(
    run: Run, tmp_path: Path, made: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    from notellm2.promotion import status

    facts = {"version": "1", "run_id": "r", "data_md5": "d", "test_set": "t", "created": "2026-01-01T00:00:00Z"}
    champion = status.VersionFacts.model_validate(
        facts | {"promoted_at": None, "gate": None, "metrics": {}, "artifacts": {"pairs": made.key}}
    )
    found = status.collect_status(Workspace.at(tmp_path / "store")).model_copy(update={"champion": champion})
    monkeypatch.setattr(status, "collect_status", lambda workspace: found)
    store = Store(tmp_path / "store")
    unused = store.build("pairs", 2, {}, {}, lambda d: (d / "x").write_text("x") and {})
    newest = store.build("pairs", 3, {}, {}, lambda d: (d / "x").write_text("x") and {})
    manifest = json.loads((newest.path / "manifest.json").read_text()) | {"created": "2999-01-01T00:00:00+00:00"}
    (newest.path / "manifest.json").write_text(json.dumps(manifest))
    told = json.loads(run("artifacts", "gc", "--keep", "1", "--older-than", "0", "--json").output)
    assert told["removed"] == [f"store/pairs/{unused.key}"]
    assert {a.key for a in store.artifacts()} == {made.key, newest.key}


def test_gc_leaves_a_store_alone_that_a_retraining_holds(made: Artifact, tmp_path: Path) -> None:
    with Workspace.at(tmp_path / "store").exclusive("a retraining"):
        result = ask("artifacts", "gc", "--older-than", "0", cwd=tmp_path)
    assert result.returncode == 2
    assert "in use by a retraining, process" in result.stderr
    assert made.path.exists()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("artifacts", "list"), "store store: no such folder"),
        (("artifacts", "list", "--store", "elsewhere"), "store elsewhere: no such folder"),
        (("similar", "n1"), "nothing is published"),
        (("export", "nowhere", "exported"), "nowhere: not a model bundle"),
        (("sample", "raw", "--notes", "3"), "--notes: Input should be greater than or equal to 50, found 3"),
        (("import", "nowhere", "--into", "data"), "nowhere"),
        (("import", "nowhere", "--into", "data", "--max-pixels", "0"), "expected at least 1"),
        (("data", "pin", "nowhere"), "nowhere: no such folder"),
        (("data", "pull", "nowhere"), "nowhere: never pinned"),
        (("status",), "store store: no such folder"),
        (("promote", "1"), "store store: no such folder"),
        (("rollback",), "store store: no such folder"),
        (("history",), "store store: no such folder"),
    ],
)
def test_wrong_input_is_a_message_and_status_2(tmp_path: Path, arguments: tuple[str, ...], expected: str) -> None:
    result = ask(*arguments, cwd=tmp_path)
    assert result.returncode == 2
    assert result.stderr.startswith("error: ")
    assert expected in result.stderr
    assert "Traceback" not in result.stderr
    assert result.stdout == ""
    assert list(tmp_path.iterdir()) == [], "asking leaves nothing behind"


def test_a_wrong_option_is_status_2_too(tmp_path: Path) -> None:
    assert ask("artifacts", "gc", "--keep", "none", cwd=tmp_path).returncode == 2
    assert ask("nonsense", cwd=tmp_path).returncode == 2


def test_what_cannot_be_evaluated_or_compared_is_said_in_a_sentence(tmp_path: Path) -> None:
    asked = ask("evaluate", "--bundle", "nowhere", "--data", "data", cwd=tmp_path)
    assert asked.returncode == 2
    assert "nowhere: not a model bundle" in asked.stderr
    assert "<store>/training/<key>/bundle" in asked.stderr
    asked = ask("evaluate", "--bundle", "nowhere", "--data", "data", "--set", "training.lr=1", cwd=tmp_path)
    assert "--set: changes a recipe; name it with --recipe" in asked.stderr
    (tmp_path / "pages").mkdir()
    asked = ask("report", "1", "2", "--out", "pages", cwd=tmp_path)
    assert asked.returncode == 2
    assert "pages: a folder" in asked.stderr, "before anything is measured"
    asked = ask("report", "1", "2", cwd=tmp_path)
    assert asked.returncode == 2
    assert "store store: no such folder" in asked.stderr


def test_sample_and_import_make_a_data_set(tmp_path: Path) -> None:
    made = ask("sample", "raw/sample", "--notes", "60", "--users", "80", cwd=tmp_path)
    assert made.returncode == 0, made.stderr
    assert made.stdout == "raw/sample: 60 notes, 80 users; next: notellm2 import raw/sample --into data\n"
    imported = ask("import", "raw/sample", "--into", "data", "--licence", "CC0-1.0", cwd=tmp_path)
    assert imported.returncode == 0, imported.stderr
    info = json.loads((tmp_path / "data" / "dataset.json").read_text())
    assert (info["notes"], info["licence"], info["quarantined"]) == (60, "CC0-1.0", {})
    status = ask("data", "status", "data", "--json", cwd=tmp_path)
    assert status.returncode == 1, "never pinned"
    assert json.loads(status.stdout)["pinned"] is None


DAMAGES = {
    "a database of other bytes": ("status", "rollback"),
    "a pointer that is a folder": ("status", "rollback"),
    "a ledger that is a folder": ("history",),
    "a place that is a file": ("status", "rollback", "history"),
}


@pytest.mark.parametrize(("damage", "command"), [(d, c) for d, commands in DAMAGES.items() for c in commands])
def test_a_damaged_place_is_told_and_not_thrown(
    damage: str, command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "_mlflow").mkdir()
    (tmp_path / "_mlflow" / "mlflow.db").write_bytes(b"garbage" * 999)
    if damage == "a place that is a file":
        (tmp_path / "_published").write_text("x")
    elif damage != "a database of other bytes":
        file = "current.json" if "pointer" in damage else "ledger.jsonl"
        (tmp_path / "_published" / file).mkdir(parents=True)
    monkeypatch.setattr(sys, "argv", ["notellm2", command, "--store", str(tmp_path)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code in (1, 2)
    told = capsys.readouterr().err
    assert told.startswith(("failed: ", "error: "))


def test_a_mistake_of_ours_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["notellm2", "status"])
    monkeypatch.setattr(cli, "app", lambda **_: {}["nothing"])
    with pytest.raises(KeyError):
        cli.main()


def published(store: Path) -> list[str]:
    ids = [f"n{i}" for i in range(20)]

    def write(directory: Path) -> dict[str, int]:
        angles = np.linspace(0, 1, len(ids))
        np.save(directory / "both.npy", np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32))
        (directory / "note_ids.json").write_text(json.dumps(ids))
        return {"bundle": "b0d1e"}

    artifacts = Store(store, {"data_md5": "0a.dir"})
    index = build_index_in_subprocess(
        artifacts, artifacts.build("vectors", 1, {}, {}, write), IndexConfig(min_recall=0)
    )
    publish(Path(Workspace.at(store).published), index, model_version="4", data_md5="0a.dir")
    return ids


def test_similar_answers_from_the_published_index_without_torch(tmp_path: Path) -> None:
    published(tmp_path / "store")
    result = ask("similar", "n7", "-k", "2", "--json", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    told = json.loads(result.stdout)
    assert (told["note_id"], told["model_version"]) == ("n7", "4")
    assert {found["note_id"] for found in told["similar"]} == {"n6", "n8"}
    ask_plain = ask("similar", "n7", "-k", "2", cwd=tmp_path).stdout.split()
    assert ask_plain[1::2] == [found["note_id"] for found in told["similar"]]

    elsewhere = tmp_path / "elsewhere"
    (tmp_path / "store" / "_published").rename(elsewhere)
    assert ask("similar", "n7", cwd=tmp_path).returncode == 2, "nothing is published in the store any more"
    named = ask("similar", "n7", "-k", "2", "--published", str(elsewhere), cwd=tmp_path)
    assert named.stdout.split() == ask_plain
    elsewhere.rename(tmp_path / "store" / "_published")

    unknown = ask("similar", "n99", cwd=tmp_path)
    assert unknown.returncode == 2
    assert "n99" in unknown.stderr

    probe = (
        "import sys; sys.argv = ['notellm2', 'similar', 'n7']\n"
        "from notellm2.cli import main\n"
        "try: main()\n"
        "finally: print(sorted({m.split('.')[0] for m in sys.modules} & {'torch', 'mlflow', 'prefect', 'pandas'}))"
    )
    heavy = subprocess.run(
        [sys.executable, "-c", probe], capture_output=True, text=True, timeout=60, cwd=tmp_path, check=True
    )
    assert heavy.stdout.splitlines()[-1] == "[]"


def test_similar_tells_titles_where_there_are_some(run: Run, tmp_path: Path) -> None:
    index = index_artifact(Store(tmp_path / "made"), clustered(40), titles=[f"Walk {row}" for row in range(40)])
    publish(tmp_path / "published", index)
    asked = ("similar", "n00000", "-k", "2", "--published", tmp_path / "published")
    rows = json.loads(run(*asked, "--json").output)["similar"]
    assert [row["title"] for row in rows] == [f"Walk {int(row['note_id'][1:])}" for row in rows]
    assert run(*asked).output == "".join(f"{row['score']:.4f}  {row['note_id']}  {row['title']}\n" for row in rows)


def test_the_script_and_the_module_are_the_same_command() -> None:
    script = Path(sys.executable).with_name("notellm2")
    if not script.exists():
        pytest.skip("the package is not installed in this environment")
    done = subprocess.run([script, "--help"], capture_output=True, text=True, timeout=60, cwd=ROOT, check=True)
    assert done.stdout == ask("--help").stdout.replace("python -m notellm2", "notellm2")


def test_similar_reads_a_place_on_s3_and_says_what_the_store_said(tmp_path: Path, s3_place: str) -> None:
    ids = published(tmp_path / "store")
    index = next(a for a in Store(tmp_path / "store").artifacts() if a.stage == "index")
    publish(open_location(s3_place), index, model_version="4", data_md5="0a.dir")
    told = ask("similar", "n7", "-k", "2", "--json", "--published", s3_place, cwd=tmp_path)
    assert told.returncode == 0, told.stderr
    assert {found["note_id"] for found in json.loads(told.stdout)["similar"]} == {"n6", "n8"} < set(ids)
    missing = ask("similar", "n7", "--published", "s3://no-such-bucket/x", cwd=tmp_path)
    assert missing.returncode == 2
    assert "s3://no-such-bucket/x: cannot be read" in missing.stderr
    assert "NoSuchBucket" in missing.stderr


@pytest.mark.parametrize(("command", "retries"), [("status", "3"), ("retrain", None)])
def test_a_person_waits_for_a_server_that_is_away_less_long_than_a_flow(
    command: str, retries: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A training must outlive MLflow's restart, which takes longer than anybody waits for `notellm2 status`."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "x")  # so that the test's end restores it
    monkeypatch.delenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES")
    group = typer.main.get_command(cli.app)
    assert isinstance(group, TyperGroup)
    assert group.get_command(typer.Context(group), command) is not None
    assert os.environ.get("MLFLOW_HTTP_REQUEST_MAX_RETRIES") == retries
