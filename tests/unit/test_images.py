"""Images cannot be built here, but what they would hold can be known: what runs in them imports nothing else."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, packages_distributions, requires

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.conftest import ROOT

_ENTER = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ABSENT:
            raise ModuleNotFoundError(f"No module named {name!r}: not in the image", name=name)
sys.meta_path.insert(0, Absent())
"""


def brought_by(*named: str) -> set[str]:
    """Distributions that an installation of these brings, themselves among them."""
    found: set[str] = set()
    todo = [Requirement(name) for name in named]
    seen = set()
    while todo:
        wanted = todo.pop()
        name = canonicalize_name(wanted.name)
        if (name, frozenset(wanted.extras)) in seen:
            continue
        seen.add((name, frozenset(wanted.extras)))
        found.add(name)
        try:
            needs = [Requirement(text) for text in requires(name) or []]
        except PackageNotFoundError:
            continue  # for another system or Python
        todo += [
            n for n in needs if n.marker is None or any(n.marker.evaluate({"extra": e}) for e in {"", *wanted.extras})
        ]
    return found


def run_where_only(distributions: set[str], script: str) -> subprocess.CompletedProcess[str]:
    """Run a script where the modules of every other distribution are missing."""
    absent = {
        module
        for module, names in packages_distributions().items()
        if not {canonicalize_name(name) for name in names} & (distributions | {"notellm2"})
    }
    code = _ENTER.replace("ABSENT", repr(absent)) + script
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)


def test_the_mlflow_image_holds_what_its_services_import() -> None:
    lines = (ROOT / "mlflow" / "requirements.txt").read_text().splitlines()
    held = brought_by(*(line for line in lines if line and not line.startswith("#")))
    assert {"mlflow", "flask-wtf", "boto3", "psycopg2-binary", "uvicorn"} <= held
    assert not {"torch", "prefect", "psutil", "typer", "faiss-cpu"} & held
    modules = "notellm2.stack.health, notellm2.access.app, notellm2.access.__main__, psycopg2, boto3"
    done = run_where_only(held, f"import {modules}")
    assert done.returncode == 0, done.stderr[-3000:]
    planted = run_where_only(held, "import psutil")
    assert "not in the image" in planted.stderr


def test_the_mlflow_image_installs_what_is_pinned() -> None:
    named = [line for line in (ROOT / "mlflow" / "requirements.txt").read_text().splitlines() if line[:1].isalpha()]
    pins = (line.split("==")[0] for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line)
    installed = {canonicalize_name(name) for names in packages_distributions().values() for name in names}
    assert (brought_by(*named) & installed) - {canonicalize_name(name) for name in pins} == set()


def test_the_images_run_as_a_user_without_a_name_of_power() -> None:
    for path in (ROOT / "Dockerfile", ROOT / "mlflow" / "Dockerfile"):
        text = path.read_text()
        users = re.findall(r"^USER (.+)$", text, re.MULTILINE)
        assert users == ["10001:10001"], path
        assert text.index("USER 10001") > text.rindex("FROM "), path
        bases = re.findall(r"^FROM (\S+)", text, re.MULTILINE)
        assert all(re.fullmatch(r"python:3\.\d+\.\d+-slim-\w+", base) for base in bases), bases
        assert "constraints.txt" in text
