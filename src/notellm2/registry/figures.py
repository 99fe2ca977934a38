"""The figures of a stage's output that MLflow shows as metrics: few, so that two runs are compared at a glance.

The names are docs/reference/metrics.md's; all other figures are in the run's files (`notellm2.registry.tables`).
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from typing import Any

from notellm2.artifacts import Artifact
from notellm2.evaluation.metrics import IMAGE_GAIN, RELIANCE, headline_k, recall_ks
from notellm2.registry.names import metric_part

_SLICES = {
    "all": (
        *("both", "text_only", "image_only", "shuffled", "variant_text", "variant_basic"),
        *("linear", "vision", "tfidf", "tfidf_full", "popular"),
    ),
    "short_query": ("both", "text_only", "image_only", "shuffled", "linear", "tfidf"),
    "long_query": ("both", "text_only", "image_only", "shuffled", "linear", "tfidf"),
}
_SPACE = ("never_in_top_100_share", "duplicate_share", "effective_rank")
_CHANGES = ("candidate", "champion", "difference", "low", "high", "p")


def figures_of(artifact: Artifact) -> dict[str, float]:
    """Return the figures of an evaluation, comparison or saliency artifact; what is undefined (null) is absent.

    Raises:
        ValueError: an artifact of another stage.
    """
    if artifact.stage == "evaluation":
        found = {**_evaluation(read_json(artifact, "metrics.json")), **_space(read_json(artifact, "space.json"))}
    elif artifact.stage == "comparison":
        found = dict(_comparison(read_json(artifact, "comparison.json")["slices"]["all"]))
    else:
        raise ValueError(f"{artifact.stage}/{artifact.key}: expected an evaluation or a comparison artifact")
    return {name: float(value) for name, value in found.items() if value is not None and math.isfinite(value)}


def read_json(artifact: Artifact, name: str) -> Any:
    """Read one of an artifact's JSON files."""
    return json.loads(artifact.file(name).read_text(encoding="utf-8"))


def _evaluation(metrics: Mapping[str, Any]) -> dict[str, Any]:
    every, k = metrics["both"]["all"], headline_k(metrics)  # type: ignore[arg-type]
    recall = f"recall@{k}"
    found = {
        f"{metric_part(recall)}/{part}/{row}": metrics[row][part].get(recall)
        for part, rows in _SLICES.items()
        for row in rows
        if part in metrics.get(row, {})
    }
    widest = max((one for one in recall_ks(metrics) if one <= 100), default=k)  # type: ignore[arg-type]
    for name in {f"recall@{widest}": 0, f"ndcg@{k}": 0, "mrr": 0, RELIANCE: 0, IMAGE_GAIN: 0}:
        found[f"test/{metric_part(name)}"] = every.get(name)
    return found | {"test/queries": every.get("n")}


def _space(space: Mapping[str, Any]) -> dict[str, Any]:
    return {f"space/{name}": space["both"].get(name) for name in _SPACE}


def _comparison(every: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name in _CHANGES:
        yield f"comparison/{name}", (every.get("recall@10") or {}).get(name)
    for name in ("wins", "losses"):
        yield f"comparison/{name}", every.get(name)
