"""The blocks of the tutorials that are marked with `<!-- runs -->` run, in their order, as a reader runs them.

The reader's folder has the tiny recipe under the sample's name and a store in which the same run was made before, so
that only what the words of the tutorials add costs time.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT, Retrained
from tests.docs.pages import blocks
from tests.flows.running import RECIPE
from tests.installed import metadata_folder

TUTORIALS = ROOT / "docs" / "tutorials"
PYTHON_PATH = os.pathsep.join(map(str, (metadata_folder(), ROOT / "src", ROOT)))
SMALLER = {"notellm2 sample raw/sample": "notellm2 sample raw/sample --notes 150 --users 200"}
"""What a test need not wait for: the sample as the tiny recipe has it."""


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the recipe, and `notellm2` on the path."""
    folder = tmp_path_factory.mktemp("reader")
    (folder / "recipes").mkdir()
    sample = (
        RECIPE.read_text()
        .replace("name: tiny", "name: sample")
        .replace("  sample: {notes: 150, users: 200, seed: 7}\n", "")
    )
    (folder / "recipes" / "sample.yaml").write_text(sample)
    (folder / "bin").mkdir()
    for name, module in {"notellm2": "-m notellm2", "python": ""}.items():
        program = folder / "bin" / name
        program.write_text(f'#!/bin/sh\nexec "{sys.executable}" {module} "$@"\n')
        program.chmod(0o755)
    return folder


def run(folder: Path, code: str) -> str:
    for whole, smaller in SMALLER.items():
        code = code.replace(whole, smaller)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT", "MLFLOW", "NOTELLM2"))}
    log = folder / "log.txt"
    with log.open("w+") as output:  # a file: a server that outlives the block would keep a pipe open
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", code],
            cwd=folder,
            env={**kept, "PATH": f"{folder / 'bin'}:{os.environ['PATH']}", "PYTHONPATH": PYTHON_PATH},
            stdout=output,
            stderr=subprocess.STDOUT,
            timeout=540,
            check=False,
        )
    said = log.read_text()
    assert done.returncode == 0, f"{code}\n{said[-4000:]}"
    return said


def marked(page: str) -> list[str]:
    return [block.code for block in blocks(TUTORIALS / page) if block.runs]


def test_the_first_retraining(reader: Path, retrained: Retrained) -> None:
    sample, look, import_, first, second, ask = marked("first-retrain.md")
    run(reader, sample)
    assert "interactions" in run(reader, look)
    assert "150 notes" in run(reader, import_)
    shutil.copytree(retrained.place.workspace.root, reader / "store", symlinks=True)
    assert "promoted" in run(reader, first)
    again = run(reader, second)
    assert "reused" in again
    answer = run(reader, ask)
    assert "n00042" in answer
    assert "champion" in answer


def test_your_own_data(reader: Path) -> None:
    write, import_, look, recipe = marked("your-own-data.md")
    run(reader, write)
    assert "unknown-note: 1: interactions.csv line 5" in run(reader, import_)
    assert "no note 'a9' was kept" in run(reader, look)
    run(reader, recipe)
    assert (reader / "recipes" / "mine.yaml").read_text().startswith("# The whole flow")


def test_every_marked_block_belongs_to_a_test() -> None:
    assert {page.name for page in TUTORIALS.glob("*.md") if marked(page.name)} == {
        "first-retrain.md",
        "your-own-data.md",
    }
