"""Promises the repository itself makes: its layout, its recipes, its pins, and what importing it costs."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from notellm2.recipe import load_recipe
from tests.conftest import PYTHONPATH, ROOT

RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))
HEAVY = ("torch", "transformers", "mlflow", "great_expectations", "dvc", "faiss", "numba", "sklearn", "pandas")


def modules_after(code: str) -> set[str]:
    probe = f"import sys\n{code}\nprint(*sorted(m for m in sys.modules if '.' not in m))"
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True, timeout=60)
    return set(done.stdout.split())


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.name)
def test_every_recipe_is_valid_and_named_after_its_file(path: Path) -> None:
    assert load_recipe(path).name == path.stem


def test_there_are_recipes() -> None:
    assert "sample.yaml" in [path.name for path in RECIPES]


def test_the_folder_mlflow_does_not_shadow_the_library() -> None:
    assert not (ROOT / "mlflow" / "__init__.py").exists()
    assert not list((ROOT / "mlflow").rglob("*.py")), "a namespace package would shadow it too"


def test_constraints_pin_every_direct_dependency_to_a_version_it_allows() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pins = dict(
        line.split("==")
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if line and not line.startswith("#")
    )
    pinned = {canonicalize_name(name): version for name, version in pins.items()}
    extras = [requirement for group in project["optional-dependencies"].values() for requirement in group]
    for requirement in project["dependencies"] + extras:
        wanted = Requirement(requirement)
        version = pinned.get(canonicalize_name(wanted.name))
        assert version is not None, f"{requirement} is not pinned"
        assert wanted.specifier.contains(version), f"{requirement}: constraints.txt has {version}"
    assert [name for name, version in pins.items() if "+" in version] == [], "a build that one index alone serves"


def test_importing_the_library_and_the_command_line_is_light() -> None:
    loaded = modules_after("import notellm2, notellm2.cli, notellm2.recipe, notellm2.artifacts, notellm2.workspace")
    assert loaded.isdisjoint({*HEAVY, "prefect", "numpy", "pyarrow"})


def test_importing_the_flow_is_light_and_leaves_nothing_behind(tmp_path: Path) -> None:
    probe = "import os, flows.retrain, sys; print(*[m for m in sys.modules if '.' not in m]); print(*os.environ)"
    environment = {"HOME": str(tmp_path), "PREFECT_HOME": str(tmp_path / "prefect"), "PATH": "/usr/bin:/bin"}
    done = subprocess.run(
        [sys.executable, "-c", probe],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
        cwd=ROOT,
        env={**environment, "PYTHONPATH": PYTHONPATH, "PYTHONDONTWRITEBYTECODE": "1"},
    )
    modules, variables = done.stdout.splitlines()
    assert set(modules.split()).isdisjoint(HEAVY)
    assert {v for v in variables.split() if v.startswith(("MLFLOW", "DVC", "GX"))} == set()
    assert not (ROOT / "mlruns").exists()


@pytest.mark.parametrize("folder", ["src", "flows"])
def test_no_file_outgrows_a_reader(folder: str) -> None:
    long = {str(p): n for p in (ROOT / folder).rglob("*.py") if (n := len(p.read_text().splitlines())) > 400}
    assert long == {}


def functions(folder: str) -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    for path in sorted((ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield f"{path.relative_to(ROOT)}:{node.lineno} {node.name}", node


def commands(folder: str) -> set[str]:
    """Names of typer's commands: under `@….command(…)`, or called as in `app.command(…)(name)`."""
    calls = [n for p in (ROOT / folder).rglob("*.py") for n in ast.walk(ast.parse(p.read_text()))]
    names = {
        argument.id if isinstance(argument, ast.Name) else argument.attr
        for node in calls
        if isinstance(node, ast.Call) and is_command(node.func)
        for argument in node.args
        if isinstance(argument, ast.Name | ast.Attribute)
    }
    return names | {node.name for _, node in functions(folder) if any(map(is_command, node.decorator_list))}


def is_command(node: ast.expr) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "command"


@pytest.mark.parametrize("folder", ["src", "flows"])
def test_no_function_outgrows_a_screen(folder: str) -> None:
    """At most 60 lines, the docstring among them: whoever reads the function scrolls past it too."""
    long = {name: n for name, node in functions(folder) if (n := (node.end_lineno or 0) - node.lineno + 1) > 60}
    assert long == {}


@pytest.mark.parametrize("folder", ["src", "flows"])
def test_no_function_takes_more_than_six_arguments(folder: str) -> None:
    """Beside `self` and `cls`; what a command takes are a person's options, which is another matter."""
    many = {}
    excepted = commands(folder)
    for name, node in functions(folder):
        taken = [a.arg for a in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
        command = "/cli" in name and node.name in excepted
        if not command and len(taken) - (taken[:1] in (["self"], ["cls"])) > 6:
            many[name] = taken
    assert many == {}


def docstrings(folder: str) -> Iterator[tuple[str, bool, str]]:
    """Name, whether it is a function, and first line of the docstring of every module and all that is public in it."""

    def of(node: ast.AST, name: str) -> Iterator[tuple[str, bool, str]]:
        for part in ast.iter_child_nodes(node):
            if isinstance(part, ast.FunctionDef | ast.ClassDef | ast.AsyncFunctionDef) and part.name[0] != "_":
                called = not isinstance(part, ast.ClassDef) and not any(
                    "property" in ast.unparse(decorator) for decorator in part.decorator_list
                )
                yield f"{name} {part.name}", called, (ast.get_docstring(part) or "").partition("\n")[0]
                if isinstance(part, ast.ClassDef):
                    yield from of(part, f"{name} {part.name}")

    for path in sorted((ROOT / folder).rglob("*.py")):
        name, module = str(path.relative_to(ROOT)), ast.parse(path.read_text())
        yield name, False, (ast.get_docstring(module) or "").partition("\n")[0]
        yield from of(module, name)


@pytest.mark.parametrize("folder", ["src", "flows"])
def test_the_first_line_of_a_docstring_is_a_sentence_that_stands_alone(folder: str) -> None:
    """It ends where the line ends and is no mere word; that of a function begins with a verb: what it does."""
    no_verb = {"The", "A", "An", "All", "Each", "Every", "What", "Whether", "Which", "Where", "Who", "Why", "How", "As"}
    wrong = []
    for name, called, line in docstrings(folder):
        words = line.split() or [""]
        stands = line.endswith((".", "?")) and (len(words) > 2 or words[0] == "See")
        if not stands or (called and (words[0] in no_verb or not re.fullmatch(r"[A-Z][a-z]+[,:]?", words[0]))):
            wrong.append(f"{name}: {line}")
    assert wrong == []


def test_no_committed_text_names_one_machine() -> None:
    listed = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    named = re.compile(r"(?<!\w)/(home|work|Users)/[a-z]")  # a volume of the stack is called home
    found = [
        name
        for name in listed.stdout.splitlines()
        if Path(name).suffix in {".py", ".md", ".yaml", ".yml", ".toml", ".txt", ".cfg", ""}
        and (ROOT / name).is_file()
        and Path(name) != Path(__file__).relative_to(ROOT)
        and named.search((ROOT / name).read_text(errors="ignore"))
    ]
    assert found == []
