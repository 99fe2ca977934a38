"""A cut of the run on real films with two real pretrained backbones, when the shared data and models are there."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from notellm2.artifacts import Artifact
from notellm2.errors import InputError
from notellm2.recipe import load_recipe
from tests.conftest import ROOT
from tests.flows.running import Place

NOTES = 240


@pytest.fixture
def films(shared: Path, tmp_path: Path) -> Path:
    """The most rated films and all that is known about them, as a plain export."""
    source = shared / "data" / "movielens-posters"
    behaviour = pq.read_table(source / "interactions.parquet")
    counts = behaviour["note_id"].value_counts().to_pylist()
    chosen = {row["values"] for row in sorted(counts, key=lambda row: (-row["counts"], row["values"]))[:NOTES]}
    export = tmp_path / "films"
    export.mkdir()
    for name in ("notes.parquet", "interactions.parquet"):
        table = pq.read_table(source / name)
        pq.write_table(table.filter(pc.is_in(table["note_id"], pa.array(sorted(chosen)))), export / name)
    (export / "images.tar").symlink_to(source / "images.tar")
    return export


@pytest.mark.shared
def test_real_backbones_run_the_whole_flow_and_learn(films: Path, shared: Path, tmp_path: Path) -> None:
    place = Place(tmp_path)
    quick = {
        "data.dir": "data",
        "backbones.llm": str(shared / "models" / "stories260k"),
        "backbones.vision": str(shared / "models" / "mobilenet-v2"),
        "training.steps": 12,
        "training.pairs_per_batch": 16,
        "training.validate_every": 6,
        "model.start_pairs": 256,
        "pairs.validation_share": 0.2,
        "quality.min_notes": 10,
        "evaluation.ks": "[10, 50]",
    }
    overrides = [part for name, value in quick.items() for part in ("--set", f"{name}={value}")]
    recipe = str(ROOT / "recipes" / "local-pretrained.yaml")
    done = place.retrain("--recipe", recipe, "--data", str(films), *overrides)
    assert done.returncode == 0, done.stderr[-6000:]

    features = place.artifact("vision-features").summary
    assert (features["notes"], features["images"]) == (NOTES, NOTES)
    assert (features["tokens"], features["width"]) == (1 + 7 * 7, 1280), "pooled map, then the grid as patches"
    assert features["failed"] == {}
    trained = place.artifact("training").summary
    assert trained["steps"] == 12
    assert abs(trained["start"]["mean_cosine_after"]) < 0.2 < trained["start"]["mean_cosine_before"]
    figures = _figures(place.artifact("evaluation"))
    assert set(figures) >= {"both", "text_only", "image_only", "vision", "tfidf", "tfidf_full"}
    assert figures["both"]["all"]["recall@50"] > figures["random"]["all"]["recall@50"]


def test_a_backbone_that_is_not_there_is_named() -> None:
    from notellm2.model.backbones.load import backbone_digest

    recipe = load_recipe(ROOT / "recipes" / "local-pretrained.yaml", ("backbones.llm=./no/such/model",))
    with pytest.raises(InputError, match="no/such/model"):
        backbone_digest(str(recipe.backbones.llm))


def _figures(evaluation: Artifact) -> dict[str, dict[str, dict[str, float]]]:
    figures: dict[str, dict[str, dict[str, float]]] = json.loads(evaluation.file("metrics.json").read_text())
    return figures
