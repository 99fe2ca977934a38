"""Names of figures in MLflow, stage by stage."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from notellm2.artifacts import Artifact, Store
from notellm2.registry.figures import figures_of


def artifact(root: Path, stage: str, **files: Any) -> Artifact:
    def write(into: Path) -> None:
        for name, value in files.items():
            (into / f"{name}.json").write_text(json.dumps(value))

    return Store(root / "store").build(stage, 1, {}, {}, write)


def test_a_comparison_and_a_saliency_have_documented_names(tmp_path: Path) -> None:
    change = {"candidate": 0.3, "champion": 0.2, "difference": 0.1, "low": 0.0, "high": 0.2, "p": 0.05}
    slices = {"all": {"n": 3, "wins": 2, "recall@10": change}, "new_target": {"n": 0, "recall@10": None}}
    compared = artifact(tmp_path, "comparison", comparison={"candidate": "k", "resamples": 9, "slices": slices})
    found = figures_of(compared)
    assert found["comparison.all.recall_at_10.difference"] == 0.1
    assert found["comparison.all.wins"] == 2
    assert found["comparison.new_target.n"] == 0
    assert len(found) == 9
    listened = artifact(tmp_path, "saliency", saliency={"pairs": 4, "layers": [{"text": 0.7}, {"text": 0.2}]})
    assert figures_of(listened) == {"saliency.layer_01.text": 0.7, "saliency.layer_02.text": 0.2}


def test_another_stage_has_no_figures(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected an evaluation"):
        figures_of(artifact(tmp_path, "pairs", pairs={}))
