from __future__ import annotations

import csv
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from flows.parameters import AblateSettings
from notellm2.errors import InputError
from notellm2.model.variants import find_variant
from notellm2.recipe import load_recipe
from tests.conftest import PYTHONPATH, Retrained
from tests.flows.running import RECIPE, Place

EARLIER = ("quality", "pairs", "backbones", "vision-features", "texts")


def ablate(place: Place, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT", "MLFLOW"))}
    return subprocess.run(
        [sys.executable, "-m", "notellm2", "ablate", "--recipe", str(RECIPE), *arguments],
        cwd=place.root,
        env={**environment, "PYTHONPATH": PYTHONPATH},
        capture_output=True,
        text=True,
        timeout=500,
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"variants": ["text", "none-such"]}, "variant 'none-such': there is none of that name; expected one of text,"),
        ({"variants": ["text", "text"]}, "variants: Value error, each once"),
        ({"seeds": ["0", "one"]}, "seeds.1: Input should be a valid integer.*, not 'one'"),
        ({"overrides": ["training.lr=-1"]}, "training.lr"),
    ],
)
def test_what_is_wrong_is_said_before_anything_starts(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        AblateSettings.check(recipe=str(RECIPE), **settings)


def test_each_cell_is_the_recipe_with_the_variant_s_changes_and_the_seed() -> None:
    settings = AblateSettings.check(recipe=str(RECIPE), variants=["text", "basic"], seeds=[0, 3])
    cells = settings.cells()
    assert [(variant, seed) for variant, seed, _ in cells] == [("text", 0), ("text", 3), ("basic", 0), ("basic", 3)]
    for variant, seed, recipe in cells:
        changes = (*find_variant(variant).overrides, f"training.seed={seed}")
        assert recipe.model_copy(update={"name": "tiny"}) == load_recipe(RECIPE, changes), "as if written in the file"
        assert recipe.name == f"tiny-{variant}-{seed}"


def test_a_sweep_leaves_nested_runs_and_one_table(retrained: Retrained, tmp_path: Path) -> None:
    """One variant, two seeds, for real; what comes before training is a retraining's, found again."""
    from notellm2.registry.tracking import Tracking

    place = Place(tmp_path)
    shutil.copytree(retrained.place.root / "data", tmp_path / "data")
    for stage in EARLIER:
        shutil.copytree(retrained.place.store.root / stage, place.store.root / stage)
    done = ablate(place, "--variants", "text", "--seeds", "0,1", "--set", "training.steps=2")
    assert done.returncode == 0, done.stderr[-6000:]

    artifacts = list(place.store.artifacts())
    count = {stage: sum(a.stage == stage for a in artifacts) for stage in {a.stage for a in artifacts}}
    assert {stage: count[stage] for stage in EARLIER} == dict.fromkeys(EARLIER, 1)
    assert {stage: count[stage] for stage in ("training", "vectors", "evaluation")} == {
        "training": 2, "vectors": 2, "evaluation": 2,
    }  # fmt: skip
    table = place.artifact("ablation")
    rows = list(csv.DictReader(table.file("table.csv").open()))
    assert [(row["variant"], row["seeds"]) for row in rows] == [("text", "2")]
    assert table.file("table.md").read_text() in done.stdout

    tracking = Tracking.at(place.workspace, None)
    (experiment,) = {tracking.experiment_id()}
    runs = tracking.client.search_runs([experiment])
    (parent,) = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    children = [run for run in runs if run is not parent]
    assert re.fullmatch(r"tiny-ablation · data \w{8} · [\d-]{10} [\d:]{5} · finished", str(parent.info.run_name))
    assert {run.info.run_name for run in children} == {"tiny-text-0", "tiny-text-1"}
    assert {run.data.tags["mlflow.parentRunId"] for run in children} == {parent.info.run_id}
    assert {run.info.status for run in runs} == {"FINISHED"}
    listed = {item.path for item in tracking.client.list_artifacts(parent.info.run_id)}
    assert {"table.md", "table.csv", "plot.png"} <= listed
