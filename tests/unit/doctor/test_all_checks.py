"""The command, and what a retraining begins with."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from notellm2 import cli
from notellm2.doctor import machine
from notellm2.doctor.all_checks import require_ready
from notellm2.errors import InputError
from notellm2.recipe import load_recipe
from notellm2.workspace import Workspace
from tests.unit.quality.small_data import sound, write


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("MLFLOW_TRACKING_URI", "PREFECT_API_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(machine, "_PROBE", 'print(\'{"torch": "2.0", "threads": 1, "cuda": []}\')')
    write(tmp_path / "data", sound())
    (tmp_path / "recipe.yaml").write_text("name: recipe\n")
    return tmp_path


def test_the_command_says_a_line_a_check_and_ends_with_0(place: Path) -> None:
    done = CliRunner().invoke(cli.app, ["doctor", "--recipe", "recipe.yaml"])
    assert done.exit_code == 0, done.output
    lines = done.output.splitlines()
    assert {line.split()[0] for line in lines} <= {"ok", "warning"}
    assert [line.split()[1].rstrip(":") for line in lines][:4] == ["packages", "clock", "data", "expectations"]
    assert sorted(path.name for path in place.iterdir()) == ["data", "recipe.yaml"], "nothing was made"


def test_a_failure_is_status_1_and_json_says_all(place: Path) -> None:
    arguments = ["doctor", "--recipe", "recipe.yaml", "--set", "backbones.llm=./gone", "--json"]
    done = CliRunner().invoke(cli.app, arguments)
    assert done.exit_code == 1
    (failed,) = [check for check in json.loads(done.output) if check["status"] == "failed"]
    assert failed == {
        "name": "backbones.llm",
        "status": "failed",
        "found": "./gone: no such folder",
        "advice": "name a Hugging Face model folder or a hub name",
    }


def test_the_machine_alone_needs_no_recipe(place: Path) -> None:
    done = CliRunner().invoke(cli.app, ["doctor", "--store", "elsewhere"])
    assert done.exit_code == 0, done.output
    assert "elsewhere can be made" in done.output
    assert "expectations" not in done.output


def test_a_retraining_is_refused_with_every_failure_and_its_advice(place: Path) -> None:
    recipe = load_recipe(place / "recipe.yaml", ("backbones.llm=./gone", "backbones.vision=./away"))
    with pytest.raises(InputError) as caught:
        require_ready(recipe, Workspace.at(place / "store"))
    first, *lines = str(caught.value).splitlines()
    assert "notellm2 doctor" in first
    assert [line.split(":")[0].split()[-1] for line in lines] == ["backbones.llm", "backbones.vision"]


def test_a_full_disk_is_a_warning_there_since_finished_stages_need_no_room(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = load_recipe(place / "recipe.yaml")
    assert require_ready(recipe, Workspace.at(place / "store")) == []
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 1000})())
    (line,) = require_ready(recipe, Workspace.at(place / "store"))
    assert line.startswith("failed   disk: ")
    # What the data checks refuse is theirs to refuse: they write Data Docs.
    strict = load_recipe(place / "recipe.yaml", ("quality.min_notes=100000",))
    assert len(require_ready(strict, Workspace.at(place / "store"))) == 1
