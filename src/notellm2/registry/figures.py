"""Every number of a stage's output under its MLflow name (docs/reference/metrics.md)."""

from __future__ import annotations

import json
from typing import Any

from notellm2.artifacts import Artifact
from notellm2.registry import names


def figures_of(artifact: Artifact) -> dict[str, float]:
    """The figures of an evaluation, a comparison or a saliency artifact; what is undefined (null) is absent.

    Raises:
        ValueError: an artifact of another stage.
    """
    if artifact.stage == "evaluation":
        return (
            names.test_metrics(_read(artifact, "metrics.json"))
            | names.figures(names.INTERVAL, _read(artifact, "intervals.json"))
            | names.figures(names.SPACE, _read(artifact, "space.json"))
        )
    if artifact.stage == "comparison":
        return names.figures(names.COMPARISON, _read(artifact, "comparison.json")["slices"])
    if artifact.stage == "saliency":
        layers = _read(artifact, "saliency.json")["layers"]
        return names.figures(names.SALIENCY, {f"layer_{i:02d}": layer for i, layer in enumerate(layers, 1)})
    raise ValueError(f"{artifact.stage}/{artifact.key}: expected an evaluation, a comparison or a saliency artifact")


def _read(artifact: Artifact, name: str) -> Any:
    return json.loads(artifact.file(name).read_text(encoding="utf-8"))
