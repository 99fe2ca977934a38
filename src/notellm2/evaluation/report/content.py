"""Hold all that the page shows, as plain data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from notellm2.evaluation.metrics import Intervals, Metrics


@dataclass(frozen=True)
class Opponent:
    """The champion that the model is compared with, measured on the same test.

    Attributes:
        name: what people call it: "version 3".
        metrics: the tree of `metrics.py`.
        space: its space.json.
        comparison: comparison.json, the model being the candidate.
        recipe: the recipe it was made by; None: not known any more.
        data: facts of the data it was trained on, as of `ReportInput.data`; None: not known any more.
    """

    name: str
    metrics: Metrics
    space: Mapping[str, Any]
    comparison: Mapping[str, Any]
    recipe: Mapping[str, Any] | None = None
    data: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class ReportInput:
    """One run, as the page shows it.

    Attributes:
        recipe: the recipe in full; `name` is the title.
        data: facts of the data version, with `md5` and `name`.
        metrics: the tree of `metrics.py`.
        intervals: the same tree, {"low", "high"} at its leaves.
        space: space.json of the evaluation.
        protocol: protocol.json of the evaluation.
        examples: `examples.describe`.
        thumbnails: note_id to JPEG.
        training: summary of the training.
        history: rows of its metrics.jsonl.
        quality: summary of the quality stage.
        pairs: summary of the pairs stage.
        champion: what it is compared with, if there is one.
        gate: {"passed", "rules": [{"name", "passed", "detail", "required"}]}, or None.
        expectations: rows of the quality stage's result.json.
        data_docs: where the Data Docs are, as text.
        saliency: saliency.json, if it was measured.
        choice: summary of the stage "choice", if there was a choice of variants.
        provenance: where the run came from (git commit, ...).
    """

    recipe: Mapping[str, Any]
    data: Mapping[str, Any]
    metrics: Metrics
    intervals: Intervals
    space: Mapping[str, Any]
    protocol: Mapping[str, Any]
    examples: Sequence[Mapping[str, Any]]
    thumbnails: Mapping[str, bytes]
    training: Mapping[str, Any]
    history: Sequence[Mapping[str, Any]]
    quality: Mapping[str, Any]
    pairs: Mapping[str, Any]
    champion: Opponent | None = None
    gate: Mapping[str, Any] | None = None
    expectations: Sequence[Mapping[str, Any]] = ()
    data_docs: str | None = None
    saliency: Mapping[str, Any] | None = None
    choice: Mapping[str, Any] | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)

    @property
    def labels(self) -> Mapping[str, str]:
        """The words for each slice."""
        labels: Mapping[str, str] = self.protocol["slices"]
        return labels
