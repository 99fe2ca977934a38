"""What a reviewer should know first: the verdict in a sentence, and what in the run deserves suspicion."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from notellm2.evaluation.metrics import Metrics
from notellm2.evaluation.plots import LABELS, headline_k

GATE_BASELINES = ("vision", "tfidf")
_FEW_QUERIES = 200


@dataclass(frozen=True)
class Headline:
    """The top of the page.

    Attributes:
        tone: passed or refused by the gate, or not judged.
        sentence: the verdict.
        cautions: what to look at before believing it, one sentence each.
    """

    tone: Literal["passed", "refused", "open"]
    sentence: str
    cautions: tuple[str, ...]


def headline(
    metrics: Metrics, gate: Mapping[str, Any] | None, training: Mapping[str, Any], quality: Mapping[str, Any]
) -> Headline:
    """Put a run in a sentence.

    Args:
        metrics: the tree of `metrics.py`.
        gate: {"passed": bool, "rules": [{"name", "passed", "detail"}, ...]}, or None when no gate has judged.
        training: the training's summary; `left_chance` is read.
        quality: the quality stage's summary; `warnings` and `critical_failed` are read.
    """
    tone: Literal["passed", "refused", "open"] = "open"
    opening = "Not judged by a gate."
    if gate is not None:
        tone = "passed" if gate["passed"] else "refused"
        failed = [str(rule["detail"]).rstrip(".") for rule in gate["rules"] if not rule["passed"]]
        opening = "Passed the gate." if gate["passed"] else f"Refused: {'; '.join(failed) or 'the gate said no'}."
    return Headline(tone, f"{opening} {_comparison(metrics)}", tuple(_cautions(metrics, training, quality)))


def _comparison(metrics: Metrics) -> str:
    k = headline_k(metrics)
    name = f"recall@{k}"
    both = metrics["both"]["all"][name]
    if both is None:
        return "There were no test queries."
    sentence = f"With text and image the model finds {both:.1%} of targets among its first {k}"
    measured = {model: metrics[model]["all"][name] or 0.0 for model in GATE_BASELINES if model in metrics}
    if not measured:
        return sentence + "."
    best = max(measured, key=lambda model: measured[model])
    value = measured[best]
    if value == 0:
        return f"{sentence}; both baselines find none."
    return f"{sentence}, {both / value:.1f} times what the better baseline finds ({LABELS[best]}, {value:.1%})."


def _cautions(metrics: Metrics, training: Mapping[str, Any], quality: Mapping[str, Any]) -> list[str]:
    found = []
    if training.get("left_chance") is False:
        found.append("Training did not leave chance: its loss stayed near that of embeddings that say nothing.")
    found += _input_cautions(metrics)
    n = metrics["both"]["all"]["n"] or 0
    if n < _FEW_QUERIES:
        worth = f", each worth {100 / n:.1f} points of recall" if n else ""
        found.append(f"Only {n:.0f} test queries{worth}: small differences mean nothing.")
    for key, words in (("critical_failed", "failed a critical check"), ("warnings", "raised a warning")):
        names = [str(name) for name in quality.get(key, [])]
        if names:
            found.append(f"The data {words}: {', '.join(names)}.")
    return found


def _input_cautions(metrics: Metrics) -> list[str]:
    """One sentence for each input that the model does no better with than without, and each simple way that wins."""
    k = headline_k(metrics)
    values = {model: slices["all"][f"recall@{k}"] for model, slices in metrics.items()}
    both = values["both"]
    if both is None:
        return []
    found = []
    for model, absent in (("text_only", "image"), ("image_only", "text")):
        alone = values.get(model)
        if alone is not None and both <= alone:
            found.append(
                f"The {absent} does not help: recall@{k} is {both:.1%} with both inputs and {alone:.1%} without it."
            )
    for model in ("vision", "tfidf", "tfidf_full", "popular"):
        value = values.get(model)
        if value is not None and both <= value:
            found.append(f"The model is no better than “{LABELS[model]}”: recall@{k} {both:.1%} against {value:.1%}.")
    return found
