from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from flows import command
from flows.parameters import RetrainSettings
from notellm2.errors import InputError
from notellm2.workspace import Workspace
from tests.conftest import ROOT
from tests.flows.running import RECIPE

HELP = Path(__file__).with_name("help.txt")


@pytest.fixture
def arguments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A store of its own, and a server that the user names, so that none is started."""
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    return ["--recipe", str(RECIPE), "--store", str(tmp_path / "store")]


def flow_that(monkeypatch: pytest.MonkeyPatch, outcome: BaseException | str) -> list[dict[str, Any]]:
    import flows.retrain

    calls: list[dict[str, Any]] = []

    def flow(settings: RetrainSettings) -> dict[str, str]:
        calls.append(settings.model_dump())
        if isinstance(outcome, BaseException):
            raise outcome
        return {"text": outcome}

    monkeypatch.setattr(flows.retrain, "retrain", flow)
    return calls


def test_help_is_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    assert command.parser().format_help() == HELP.read_text()


def test_help_and_wrong_arguments_do_not_wait_for_prefect() -> None:
    probe = "import sys; from flows import command\ntry: command.main({})\nexcept SystemExit as e: code = e.code\n"
    probe += "else: code = None\nprint(code, 'prefect' in sys.modules, file=sys.stderr)"
    for given, code in ((["--help"], 0), ([], 2), (["--recipe", "x", "--nonsense"], 2)):
        done = subprocess.run(
            [sys.executable, "-c", probe.format(given)],
            capture_output=True,
            text=True,
            timeout=60,
            cwd=ROOT,
            check=True,
        )
        assert done.stderr.splitlines()[-1] == f"{code} False"


def test_done(arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    calls = flow_that(monkeypatch, "all well")
    assert command.main([*arguments, "--data", "posts", "--set", "training.steps=3"]) == 0
    assert capsys.readouterr().out == "all well\n"
    (call,) = calls
    assert call == {"recipe": str(RECIPE), "data": "posts", "store": arguments[3], "overrides": ["training.steps=3"]}


def test_wrong_input_in_a_stage(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    flow_that(monkeypatch, InputError("data/: no data set here"))
    assert command.main(arguments) == 2
    assert capsys.readouterr().err == "error: data/: no data set here\n"


def test_a_failed_stage_is_one_line(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    flow_that(monkeypatch, RuntimeError("the index process\nended with 9"))
    assert command.main(arguments) == 1
    assert capsys.readouterr().err == "failed: RuntimeError: the index process ended with 9\n"


def test_an_interruption(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    flow_that(monkeypatch, KeyboardInterrupt())
    assert command.main(arguments) == 130
    assert "continues where it was" in capsys.readouterr().err


def test_a_wrong_recipe_costs_nothing(arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main([*arguments, "--set", "training.steps=none"]) == 2
    assert "training.steps" in capsys.readouterr().err
    assert command.main(["--recipe", "missing.yaml", *arguments[2:]]) == 2
    assert "missing.yaml: no such file" in capsys.readouterr().err
    assert not (tmp_path / "store").exists()


def test_one_retraining_holds_a_store(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calls = flow_that(monkeypatch, "all well")
    with Workspace.at(tmp_path / "store").exclusive("a retraining"):
        assert command.main(arguments) == 2
    assert "in use by a retraining, process" in capsys.readouterr().err
    assert calls == []
    assert command.main(arguments) == 0
