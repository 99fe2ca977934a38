"""The flows' commands as a person has them: flags, messages, exit statuses, and what they cost to import."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest

from flows import cli, parameters
from flows.handoffs import Outcome
from flows.parameters import AblateSettings, CleanupSettings, RetrainSettings
from notellm2 import cli as command_line
from notellm2.cli import plugins
from notellm2.errors import InputError
from notellm2.workspace import Workspace
from tests.conftest import ROOT
from tests.flows.running import RECIPE

COMMANDS = ["retrain", "ingest", "refresh-index", "backtest", "ablate", "cleanup", "deploy", "follow"]
HELP = Path(__file__).parent / "help"
HEAVY = {"torch", "mlflow", "prefect", "numpy", "pyarrow", "transformers", "faiss"}

Command = Callable[..., int]


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> Command:
    """The command line in this process; returns its exit status."""

    def run(*arguments: str) -> int:
        monkeypatch.setattr(sys, "argv", ["notellm2", *arguments])
        with pytest.raises(SystemExit) as ended:
            command_line.main()
        return int(ended.value.code or 0)

    return run


@pytest.fixture
def arguments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A store of its own, and a server that the user names, so that none is started."""
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    return ["retrain", "--recipe", str(RECIPE), "--store", str(tmp_path / "store")]


def flow_that(monkeypatch: pytest.MonkeyPatch, outcome: BaseException | str) -> list[dict[str, Any]]:
    import flows.retrain

    calls: list[dict[str, Any]] = []

    def flow(settings: RetrainSettings) -> Outcome:
        calls.append(settings.model_dump())
        if isinstance(outcome, BaseException):
            raise outcome
        return Outcome(text=outcome)

    monkeypatch.setattr(flows.retrain, "retrain", flow)
    return calls


@pytest.mark.parametrize("name", COMMANDS)
def test_help_is_as_it_was(
    name: str, command: Command, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    assert command(name, "--help") == 0
    shown = capsys.readouterr().out
    assert f"notellm2 {name}" in shown.partition("Example: ")[2], "an example to copy"
    assert shown == (HELP / f"{name}.txt").read_text()


def test_every_setting_is_a_flag_with_its_description_and_default(command: Command) -> None:
    for kind in (RetrainSettings, AblateSettings, CleanupSettings):
        for name, field in kind.model_fields.items():
            option = cli._option(name, field)
            assert option.name == name
            (info,) = option.annotation.__metadata__
            assert str(field.description)[1:] in info.help


@pytest.mark.parametrize(
    ("given", "code"),
    [(["--help"], 0), (["retrain", "--help"], 0), (["retrain"], 2), (["retrain", "--recipe", "x", "--nonsense"], 2)],
)
def test_help_and_wrong_arguments_import_nothing_heavy(given: list[str], code: int) -> None:
    probe = "import sys\nfrom notellm2.cli import main\ntry: main()\nexcept SystemExit as e: code = e.code\n"
    probe += "print(code, *(m for m in sys.modules if '.' not in m), file=sys.stderr)"
    done = subprocess.run(
        [sys.executable, "-c", probe, *given], capture_output=True, text=True, timeout=60, cwd=ROOT, check=True
    )
    status, *modules = done.stderr.splitlines()[-1].split()
    assert status == str(code)
    assert HEAVY.isdisjoint(modules)


def test_done(
    command: Command, arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calls = flow_that(monkeypatch, "all well")
    assert command(*arguments, "--data", "posts", "--set", "training.steps=3", "--set", "training.seed=1") == 0
    assert capsys.readouterr().out == "all well\n"
    (call,) = calls
    overrides = ["training.steps=3", "training.seed=1"]
    assert call == {"recipe": str(RECIPE), "data": "posts", "store": arguments[4], "overrides": overrides}


def test_the_recipe_is_read_once(
    command: Command, arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from prefect import flow

    import flows.retrain
    from notellm2.recipe import load_recipe

    calls: list[Path] = []
    monkeypatch.setattr(parameters, "load_recipe", lambda path, *a: (calls.append(path), load_recipe(path, *a))[1])

    @flow(persist_result=False)
    def checked(settings: RetrainSettings) -> Outcome:
        return Outcome(text=settings.loaded_recipe.name)

    # What Prefect does with a flow's parameters before it calls it.
    monkeypatch.setattr(
        flows.retrain, "retrain", lambda settings: checked.fn(**checked.validate_parameters({"settings": settings}))
    )
    assert command(*arguments) == 0
    assert capsys.readouterr().out == "tiny\n"
    assert calls == [RECIPE]


def test_wrong_input_in_a_stage(
    command: Command, arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    flow_that(monkeypatch, InputError("data/: no data set here"))
    assert command(*arguments) == 2
    assert capsys.readouterr().err == "error: data/: no data set here\n"


def test_a_failed_stage_is_one_line(
    command: Command, arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    flow_that(monkeypatch, RuntimeError("the index process\nended with 9"))
    assert command(*arguments) == 1
    assert capsys.readouterr().err == "failed: RuntimeError: the index process ended with 9\n"


def test_an_interruption(
    command: Command, arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    flow_that(monkeypatch, KeyboardInterrupt())
    assert command(*arguments) == 130
    assert "continues where it was" in capsys.readouterr().err


def test_a_wrong_recipe_costs_nothing(
    command: Command, arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(*arguments, "--set", "training.steps=none") == 2
    assert "training.steps" in capsys.readouterr().err
    assert command("retrain", "--recipe", "missing.yaml", *arguments[3:]) == 2
    assert capsys.readouterr().err.startswith("error: recipe missing.yaml: no such file")
    assert not (tmp_path / "store").exists()


def test_one_retraining_holds_a_store(
    command: Command,
    arguments: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    calls = flow_that(monkeypatch, "all well")
    with Workspace.at(tmp_path / "store").exclusive("a retraining"):
        assert command(*arguments) == 2
    assert "in use by a retraining, process" in capsys.readouterr().err
    assert calls == []
    assert command(*arguments) == 0


def test_lists_are_separated_by_commas() -> None:
    fields = AblateSettings.model_fields
    assert cli._plain("text, basic", fields["variants"]) == ["text", "basic"]
    assert AblateSettings.check(recipe=str(RECIPE), seeds=cli._plain("2, 5", fields["seeds"])).seeds == [2, 5]


@pytest.mark.parametrize("module", ["retrain", "ingest", "refresh_index", "backtest", "ablate", "cleanup", "deploy"])
def test_the_module_of_before_is_an_alias_that_says_so(module: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", f"flows.{module}", "--help"], capture_output=True, text=True, cwd=ROOT, check=True
    )
    name = module.replace("_", "-")
    assert done.stderr == f"python -m flows.{module} will go with the next release: use `notellm2 {name}`\n"
    assert f"notellm2 {name}" in done.stdout


def test_a_shell_completes_the_commands_of_flows() -> None:
    environment = {**os.environ, "_NOTELLM2_COMPLETE": "complete_bash", "COMP_WORDS": "notellm2 re", "COMP_CWORD": "1"}
    probe = "import sys; sys.argv[0] = 'notellm2'; from notellm2.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, env=environment, check=False)
    assert {"retrain", "refresh-index", "report"} <= set(done.stdout.split())


def test_a_command_that_cannot_be_loaded_leaves_the_others(
    command: Command, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = EntryPoint("retrain", "flows.gone:retrain", plugins.GROUP)
    monkeypatch.setattr(plugins, "entry_points", lambda group: [broken, broken])
    assert command("--help") == 0
    assert "(cannot be loaded)" in capsys.readouterr().out
    assert command("retrain") == 2
    assert "'retrain' (flows.gone:retrain) cannot be loaded" in capsys.readouterr().err


def test_an_installation_older_than_the_code_is_named(
    command: Command, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(plugins, "entry_points", lambda group: [])
    assert command("retrain", "--help") == 2
    assert "pip install -e ." in capsys.readouterr().err


def test_each_command_has_a_docstring_that_a_stranger_understands() -> None:
    for name in COMMANDS:
        text = inspect.getdoc(getattr(cli, name.replace("-", "_")))
        assert text is not None
        assert text.splitlines()[0].endswith(".")
