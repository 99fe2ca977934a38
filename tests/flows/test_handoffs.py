"""A type checker finds what would be a wrong figure in production: two stages' outputs in the wrong order."""

from __future__ import annotations

import ast
import itertools
from pathlib import Path

from mypy import api

from flows import handoffs
from tests.conftest import ROOT

TASKS = sorted((ROOT / "flows" / "tasks").glob("*.py"))


def signatures() -> dict[str, dict[str, str]]:
    """Of every task: parameter and type, of those that are hand-offs."""
    kinds = {name for name, one in vars(handoffs).items() if isinstance(one, type)}
    tasks = {}
    for module, function in [(path.stem, node) for path in TASKS for node in ast.parse(path.read_text()).body]:
        if not isinstance(function, ast.FunctionDef):
            continue
        if any(isinstance(one, ast.Call) and ast.unparse(one.func) == "stage" for one in function.decorator_list):
            types = {one.arg: ast.unparse(one.annotation) for one in function.args.args if one.annotation is not None}
            tasks[f"{module}_{function.name}"] = {name: kind for name, kind in types.items() if kind in kinds}
    return tasks


def test_any_two_swapped_arguments_of_any_task_are_refused(tmp_path: Path) -> None:
    """Each task as a plain function of its signature, called with each pair of its hand-offs swapped."""
    lines, wrong = ["from flows.handoffs import *"], 0
    for task, types in signatures().items():
        parameters = ", ".join(f"{name}: {kind}" for name, kind in types.items())
        lines += [f"def {task}({parameters}) -> None: ...", f"def call_{task}({parameters}) -> None:"]
        lines.append(f"    {task}({', '.join(types)})")
        for one, other in itertools.combinations(types, 2):
            swap = {one: other, other: one}
            lines.append(f"    {task}({', '.join(swap.get(name, name) for name in types)})  # swapped")
            wrong += 2
    assert wrong > 60, "there is something to swap"
    planted = tmp_path / "planted.py"
    planted.write_text("\n".join(lines) + "\n")
    settings = tmp_path / "mypy.ini"
    # What hand-offs are made of is not followed further: their names make them differ.
    settings.write_text(
        f"[mypy]\nstrict = true\nmypy_path = {ROOT}:{ROOT / 'src'}\nexplicit_package_bases = true\n"
        "plugins = pydantic.mypy\n[mypy-notellm2.*]\nfollow_imports = skip\n"
    )
    options = ["--config-file", str(settings), "--cache-dir", str(tmp_path / "cache"), "--follow-imports=silent"]
    output, errors, status = api.run([*options, str(planted)])
    assert (errors, status) == ("", 1)
    problems = [line for line in output.splitlines() if "error:" in line]
    assert all("incompatible type" in line for line in problems), output
    assert {int(line.split(":")[1]) for line in problems} == {
        number for number, line in enumerate(planted.read_text().splitlines(), 1) if line.endswith("# swapped")
    }
    assert len(problems) == wrong


def test_a_task_keeps_its_signature() -> None:
    """So that what holds of the plain function holds of the task: `mypy` over flows/ then checks each call."""
    source = (ROOT / "flows" / "tasks" / "stage.py").read_text()
    assert "Callable[[Callable[Concatenate[Job, P], H]], Task[Concatenate[Job, P], H]]" in source


def test_no_two_stages_share_a_type() -> None:
    """A hand-off is frozen and takes no field that it does not name."""
    kinds = [one for one in vars(handoffs).values() if isinstance(one, type) and issubclass(one, handoffs.HandOff)]
    assert len(kinds) > 20
    for kind in kinds:
        assert kind.model_config["frozen"] is True
        assert kind.model_config["extra"] == "forbid"
