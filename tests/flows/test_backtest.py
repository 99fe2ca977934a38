"""A backtest for real, on a very small sample: two windows, each with a model of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from notellm2.evaluation.report.report_stage import read_json
from tests.conftest import PYTHONPATH
from tests.flows.running import RECIPE, Place

SMALL = ("training.steps=4", "training.validate_every=4", "pairs.min_support=1", "evaluation.resamples=400")


def backtest(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT", "MLFLOW"))}
    command = [sys.executable, "-m", "notellm2", "backtest", "--recipe", str(RECIPE), *arguments]
    for setting in SMALL:
        command += ["--set", setting]
    return subprocess.run(
        command,
        cwd=root,
        env={**environment, "PYTHONPATH": PYTHONPATH},
        capture_output=True,
        text=True,
        timeout=540,
        check=False,
    )


def test_each_window_is_tested_by_a_fresh_model_and_by_the_first(tmp_path: Path) -> None:
    done = backtest(tmp_path, "--days", "1.5", "--windows", "2")
    assert done.returncode == 0, done.stderr[-6000:]
    place = Place(tmp_path)
    made = place.artifact("backtest")
    rows = read_json(made, "backtest.json")
    assert [row["window"] for row in rows] == [1, 2]
    assert rows[0]["fresh"] == rows[0]["first"]
    assert all(row["queries"] > 0 for row in rows)
    assert made.file("plots/aging.png").exists()
    assert made.file("backtest.md").read_text() in done.stdout
    stages = [artifact.stage for artifact in place.store.artifacts()]
    assert (stages.count("training"), stages.count("backbones"), stages.count("evaluation")) == (2, 1, 3)
    pairs = [artifact for artifact in place.store.artifacts() if artifact.stage == "pairs"]
    assert len({artifact.manifest["config"].get("cut_at") for artifact in pairs}) == 3, "all, and one a window"
