"""What the documentation names is there: commands with their options, files, recipe fields, make targets, variables."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from docs._site.commands import commands
from docs._site.recipe_fields import field_names
from notellm2.recipe import Recipe
from tests.conftest import ROOT
from tests.docs.pages import PRESENT, code_lines, name

COMMANDS: dict[str, Any] = dict(commands())
FIELDS = set(field_names())
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
MADE_BY_A_TUTORIAL = {"recipes/mine.yaml", "recipes/bigger.yaml"}
_PATH = re.compile(r"(?<![\w/.<-])(?:src/notellm2|flows|tests|recipes|deploy|docs|benchmarks|mlflow)/[\w./*-]+")
_COMMAND = re.compile(r"(?<![\w./:-])notellm2((?: [a-z][a-z-]*)+)([^#|;&>]*)")
_FIELD = re.compile(rf"(?<![\w./-])(?:{'|'.join(Recipe.model_fields)})\.[a-z_][a-z0-9_.]*(?![\w(])")
_FILES = (
    ".yaml",
    ".json",
    ".parquet",
    ".jsonl",
    ".py",
    ".html",
    ".md",
    ".dvc",
    ".onnx",
    ".faiss",
    ".npy",
    ".csv",
    ".png",
)

pages = pytest.mark.parametrize("page", PRESENT, ids=name)


@pages
def test_commands_exist_and_take_these_options(page: Path) -> None:
    wrong = []
    for line in code_lines(page):
        for words, rest in _COMMAND.findall(line):
            command = _longest(words.split())
            if command is None:
                wrong.append(f"notellm2{words}")
                continue
            known = {o for p in COMMANDS[command].params for o in (*p.opts, *p.secondary_opts)} | {"--help"}
            wrong += [f"{command} {o}" for o in re.findall(r"(?<!\S)--[a-z][a-z-]*", rest) if o not in known]
    assert wrong == []


def _longest(words: list[str]) -> str | None:
    """The command that some words begin with: `notellm2 data pin` of `data pin data`."""
    for count in (2, 1):
        command = " ".join(["notellm2", *words[:count]])
        if command in COMMANDS and len(words) >= count:
            return command
    return None


@pages
def test_files_and_folders_exist(page: Path) -> None:
    named = {path.rstrip("./") for line in code_lines(page) for path in _PATH.findall(line)}
    assert [path for path in sorted(named - MADE_BY_A_TUTORIAL) if not list(ROOT.glob(path))] == []


@pages
def test_recipe_fields_exist(page: Path) -> None:
    named = {field.rstrip(".") for line in code_lines(page) for field in _FIELD.findall(line)}
    assert {field for field in named if not field.endswith(_FILES)} - FIELDS == set()


@pages
def test_make_targets_exist(page: Path) -> None:
    assert {t for line in code_lines(page) for t in re.findall(r"(?<!\S)make ([a-z][a-z-]*)", line)} - TARGETS == set()


@pages
def test_variables_are_read_somewhere(page: Path) -> None:
    named = {v for line in code_lines(page) for v in re.findall(r"\bNOTELLM2_[A-Z0-9_]*[A-Z0-9](?![A-Z0-9_])", line)}
    read = subprocess.run(
        ["git", "grep", "-hoE", "NOTELLM2_[A-Z0-9_]+", "--", "src", "flows", "docker-compose.yml", "Dockerfile"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if read.returncode:
        pytest.skip("not a git checkout")
    assert {v.removesuffix("_FILE") for v in named} - set(read.stdout.split()) == set()


def test_the_table_of_metrics_is_complete() -> None:
    import numpy as np

    from notellm2.evaluation.metrics import image_gains, per_query
    from notellm2.evaluation.ranks import Ranks

    ranks = Ranks.by_chance(np.full(1, 100))
    rows = dict.fromkeys(("both", "text_only", "variant_text"), ranks)
    metrics = {name.replace("@10", "@K") for name in (*per_query(ranks, (10,)), *image_gains(rows))}
    documented = (ROOT / "docs/reference/metrics.md").read_text()
    assert {metric for metric in metrics if f"| `{metric}` |" not in documented} == set()


def test_the_tables_of_gate_rules_and_events_are_complete() -> None:
    gate = (ROOT / "src/notellm2/promotion/gate.py").read_text()
    rules = set(re.findall(r'yield "([a-z-]+)"', gate))
    documented = (ROOT / "docs/reference/gate.md").read_text()
    assert rules, "the gate's rules are named otherwise now"
    assert {rule for rule in rules if f"`{rule}`" not in documented} == set()
    from flows.runtime.events import Event

    events = (ROOT / "docs/reference/events.md").read_text()
    assert {
        n.value for n in Event if n.value not in events and f"`.{n.value.rsplit('.', 1)[1]}`" not in events
    } == set()
