"""Write the top of the page: the verdict in a sentence, and what in the run deserves suspicion.

A model can get worse where the overall figure does not show it: in a slice, or by ceasing to look at its images while
text carries the recall. Such regressions are part of the sentence.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from notellm2.evaluation.choice_stage import choice_sentence
from notellm2.evaluation.metrics import IMAGE_GAIN, IMAGE_GAIN_OVER_TEXT, RELIANCE, Metrics, headline_k
from notellm2.evaluation.report.content import ReportInput
from notellm2.evaluation.report.plots import LABELS
from notellm2.evaluation.report.words import points

GATE_BASELINES = ("vision", "tfidf", "linear")
WATCHED = (
    "short_query",
    "long_query",
    "short_target",
    "long_target",
    "target_with_image",
    "target_without_image",
    "new_target",
    "old_target",
)
"""Slices whose losses are called out. Few, as each is one more chance for a false alarm."""
_WITHOUT_IMAGES = {
    IMAGE_GAIN: "the same model without them",
    IMAGE_GAIN_OVER_TEXT: "the variant trained on text alone",
}
_FEW_QUERIES = 200
_FEW_IN_SLICE = 20
_ALPHA = 0.05
_BLIND = 0.25


@dataclass(frozen=True)
class Headline:
    """The top of the page.

    Attributes:
        tone: passed or refused by the gate, or not judged.
        sentence: the verdict.
        images: what the images add, in a sentence; None where it was not measured.
        choice: which variant was chosen and by what margin, in a sentence; None where there was no choice.
        cautions: what to look at before believing it, one sentence each.
    """

    tone: Literal["passed", "refused", "open"]
    sentence: str
    images: str | None
    choice: str | None
    cautions: tuple[str, ...]


def headline(content: ReportInput) -> Headline:
    """Sum a run up: the verdict in a sentence, and what deserves suspicion."""
    tone: Literal["passed", "refused", "open"] = "open"
    opening = "Not judged by a gate"
    if content.gate is not None:
        tone = "passed" if content.gate["passed"] else "refused"
        failed = [
            str(rule["detail"]).rstrip(".")
            for rule in content.gate["rules"]
            if not rule["passed"] and rule.get("required", True)
        ]
        opening = "Passed the gate" if tone == "passed" else f"Refused ({'; '.join(failed) or 'the gate said no'})"
    champion = content.champion
    if champion is None:
        outcome = _against_baselines(content.metrics)
    else:
        outcome = _against_champion(champion.comparison, champion.name, content.labels)
    choice = None if content.choice is None else f"{choice_sentence(content.choice)}."
    return Headline(tone, f"{opening}: {outcome}", _image_sentence(content), choice, tuple(_cautions(content)))


def regressions(comparison: Mapping[str, Any], labels: Mapping[str, str]) -> list[str]:
    """Name what is surely worse than the champion beside the overall recall, as parts of a sentence, gravest first.

    A slice counts when its p is below 0.05 divided by the number of slices looked at (Bonferroni).
    """
    parts = comparison["slices"]
    losses = []
    reliance = parts["all"][RELIANCE]
    # A champion that did not use its images leaves nothing to lose.
    if reliance is not None and reliance["champion"] > 0 > reliance["difference"] and reliance["p"] <= _ALPHA:
        before, now = 100 * reliance["champion"], 100 * reliance["candidate"]
        words = "hardly looks at its images any more" if now <= _BLIND * before else "looks at its images less"
        losses.append(f"it {words} (shuffling them costs {now:.1f} points of recall@10, the champion {before:.1f})")
    watched = [name for name in WATCHED if parts.get(name, {}).get("n", 0) >= _FEW_IN_SLICE]
    worse = []
    for name in watched:
        change = parts[name]["recall@10"]
        if change["difference"] < 0 and change["p"] <= _ALPHA / len(watched):
            worse.append((change["difference"], f"{labels.get(name, name)} ({100 * change['difference']:+.1f} points)"))
    if worse:
        losses.append(f"it is worse on {', '.join(words for _, words in sorted(worse))}")
    return losses


def _against_champion(comparison: Mapping[str, Any], champion: str, labels: Mapping[str, str]) -> str:
    every = comparison["slices"]["all"]["recall@10"]
    if every is None:
        return "there were no test queries."
    ours, change = every["candidate"], 100 * every["difference"]
    spread = f"95 % interval {100 * every['low']:+.1f} to {100 * every['high']:+.1f}"
    if every["low"] > 0:
        words = f"{change:.1f} points more than {champion} ({spread})"
    elif every["high"] < 0:
        words = f"{-change:.1f} points fewer than {champion} ({spread})"
    else:
        words = f"no clear difference from {champion} ({change:+.1f} points, {spread})"
    worse = regressions(comparison, labels)
    but = f", but {'; '.join(worse)}" if worse else ""
    return f"the model finds {ours:.1%} of targets among its first 10, {words}{but}."


def _against_baselines(metrics: Metrics) -> str:
    k = headline_k(metrics)
    name = f"recall@{k}"
    both = metrics["both"]["all"][name]
    if both is None:
        return "there were no test queries."
    sentence = f"with text and image the model finds {both:.1%} of targets among its first {k}"
    measured = {model: metrics[model]["all"][name] or 0.0 for model in GATE_BASELINES if model in metrics}
    if not measured:
        return sentence + "."
    best = max(measured, key=lambda model: measured[model])
    value = measured[best]
    if value == 0:
        return f"{sentence}; no baseline finds any."
    return f"{sentence}, {both / value:.1f} times what the best baseline finds ({LABELS[best]}, {value:.1%})."


def _cautions(content: ReportInput) -> list[str]:
    metrics, quality = content.metrics, content.quality
    cautions = []
    if content.training.get("left_chance") is False:
        cautions.append("Training did not leave chance: its loss stayed near that of embeddings that say nothing.")
    cautions += _input_cautions(metrics)
    cautions += _image_cautions(content)
    reliance = content.intervals.get("both", {}).get("all", {}).get(RELIANCE)
    if reliance is not None and reliance["low"] <= 0:
        cautions.append(
            f"It may not look at its images: shuffling them between notes costs {100 * reliance['low']:+.1f} to "
            f"{100 * reliance['high']:+.1f} points of recall@10 (95 % interval)."
        )
    n = metrics["both"]["all"]["n"] or 0
    if n < _FEW_QUERIES:
        worth = f", each worth {100 / n:.1f} points of recall" if n else ""
        cautions.append(f"Only {n:.0f} test queries{worth}: small differences mean nothing.")
    for key, words in (("critical_failed", "failed a critical check"), ("warnings", "raised a warning")):
        names = [str(name) for name in quality.get(key, [])]
        if names:
            cautions.append(f"The data {words}: {', '.join(names)}.")
    return cautions


def _image_sentence(content: ReportInput) -> str | None:
    """What the images add over each model without them, with intervals."""
    parts = [
        f"{points(gain)} points of recall@10 over {words} (95 % interval {points(low)} to {points(high)})"
        for gain, low, high, words in _image_gains(content)
    ]
    return f"Images add {', and '.join(parts)}." if parts else None


def _image_cautions(content: ReportInput) -> list[str]:
    cautions = []
    for gain, low, high, words in _image_gains(content):
        if high < 0:
            cautions.append(
                f"Images cost {points(-gain).removeprefix('+')} points of recall@10: {words} finds more. Use the text "
                "variant, or mend the image path."
            )
        elif low <= 0:
            cautions.append(
                f"Images may add nothing over {words}: {points(low)} to {points(high)} points of recall@10 (95 % "
                "interval)."
            )
    return cautions


def _image_gains(content: ReportInput) -> Iterator[tuple[float, float, float, str]]:
    """Gain, its interval, and what it is over, of each model without images that was measured."""
    figures = content.metrics["both"]["all"]
    intervals = content.intervals.get("both", {}).get("all", {})
    for name, words in _WITHOUT_IMAGES.items():
        gain = figures.get(name)
        if gain is not None and name in intervals:
            yield gain, intervals[name]["low"], intervals[name]["high"], words


def _input_cautions(metrics: Metrics) -> list[str]:
    """One sentence for each input that the model does no better with than without, and each simple way that wins."""
    k = headline_k(metrics)
    values = {model: slices["all"][f"recall@{k}"] for model, slices in metrics.items()}
    both = values["both"]
    if both is None:
        return []
    cautions = []
    for model, absent in (("text_only", "image"), ("image_only", "text")):
        alone = values.get(model)
        measured = absent == "image" and metrics["both"]["all"].get(IMAGE_GAIN) is not None  # `_image_cautions` tells
        if alone is not None and both <= alone and not measured:
            cautions.append(
                f"The {absent} does not help: recall@{k} is {both:.1%} with both inputs and {alone:.1%} without it."
            )
    for model in ("linear", "vision", "tfidf", "tfidf_full", "popular"):
        value = values.get(model)
        if value is not None and both <= value:
            cautions.append(
                f"The model is no better than “{LABELS[model]}”: recall@{k} {both:.1%} against {value:.1%}."
            )
    return cautions
