"""A recipe that leaves the variant to the flow: tried out on validation pairs, chosen, trained whole, and told."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from tests.conftest import Retrained
from tests.flows.running import Place

EARLIER = ("quality", "pairs", "backbones", "vision-features", "texts", "linear")
VARIANTS = ["text", "basic", "notellm2"]


def test_the_best_of_three_on_validation_pairs_is_trained_and_the_page_says_so(
    retrained: Retrained, tmp_path: Path
) -> None:
    place = Place(tmp_path)
    shutil.copytree(retrained.place.root / "data", tmp_path / "data")
    for stage in EARLIER:
        if (retrained.place.store.root / stage).exists():
            shutil.copytree(retrained.place.store.root / stage, place.store.root / stage)
    shorter = ("--set", "training.steps=4", "--set", "choice.rounds=[0.5, 1]")
    done = place.retrain("--set", f"choice.variants={json.dumps(VARIANTS)}", *shorter)
    assert done.returncode == 0, done.stderr[-6000:]

    artifacts = list(place.store.artifacts())
    rounds = sorted((a for a in artifacts if a.stage == "choice"), key=lambda a: float(a.summary["share"]))
    assert [len(one.summary["variants"]) for one in rounds] == [3, 2]
    assert {one["name"] for one in rounds[0].summary["variants"]} == set(VARIANTS)
    trained = [a for a in artifacts if a.stage == "training"]
    assert sorted(a.manifest["config"]["training"]["steps"] for a in trained) == [2, 2, 2, 4, 4], "not trained again"
    chosen = rounds[1].summary["variants"][0]["name"]
    (vectors,) = [a for a in artifacts if a.stage == "vectors"]
    (of_vectors,) = [a for a in trained if a.key == vectors.manifest["inputs"]["training"]]
    prompts = {"text": "text", "basic": "basic", "notellm2": "micl"}
    assert of_vectors.manifest["config"]["model"]["prompt"] == prompts[chosen]

    page = place.artifact("report").file("report.html").read_text()
    assert f"{chosen} was chosen on {rounds[1].summary['queries']} validation queries" in page
    assert "fewer than choice.few_queries (200): raise pairs.validation_share" in done.stderr
