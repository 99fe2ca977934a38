"""Draw the page's plots in both themes, with alternative text."""

from __future__ import annotations

from collections.abc import Callable

from notellm2.evaluation.metrics import headline_k
from notellm2.evaluation.report import plots, review_plots
from notellm2.evaluation.report.content import ReportInput
from notellm2.evaluation.report.drawing import DARK, LIGHT, Theme
from notellm2.evaluation.report.gallery import data_uri
from notellm2.evaluation.report.tables import FEW, is_fine
from notellm2.evaluation.report.words import percent, show

Drawing = Callable[[Theme], bytes | None]


def drawings(content: ReportInput) -> dict[str, tuple[str, str, Drawing]]:
    """List the drawings: file name (no ending) to title, words and drawing; one without data gives None."""
    metrics, intervals = content.metrics, content.intervals
    k = headline_k(metrics)
    both = percent(metrics["both"]["all"][f"recall@{k}"])
    drawn: dict[str, tuple[str, str, Drawing]] = {}
    if content.champion:
        compared = {
            name: part
            for name, part in content.champion.comparison["slices"].items()
            if part["n"] >= FEW and not is_fine(name)
        }
        if compared:
            drawn["changes"] = (
                "Recall@10 against the champion, by slice",
                "Differences with intervals; the table of changes has every value.",
                lambda theme: review_plots.changes(compared, content.labels, theme=theme),
            )
    drawn["recall_bars"] = (
        f"Recall@{k} by model",
        f"Bar chart of recall at {k}: {both} percent with both inputs; the table of models has every value.",
        lambda theme: plots.recall_bars(metrics, intervals, theme),
    )
    drawn["recall_curve"] = (
        "Recall by number of notes recommended",
        "Line chart of recall at k by model; the table of models has the values.",
        lambda theme: plots.recall_curve(metrics, theme),
    )
    drawn["by_popularity"] = (
        f"Recall@{k} by popularity of the target",
        "Line chart of recall by tenths of popularity; the table by popularity has the values.",
        lambda theme: plots.by_popularity(metrics, intervals, theme),
    )
    if content.saliency is not None:
        layers = content.saliency["layers"]
        drawn["saliency"] = (
            "Saliency by layer: what the embedding listens to",
            _saliency_words(layers),
            lambda theme: review_plots.saliency(layers, theme),
        )
    drawn["training"] = (
        "Training: loss against chance, and mean cosine of different notes before centring",
        _training_words(content),
        lambda theme: plots.training_curve(content.history, theme),
    )
    return drawn


def pictures(content: ReportInput) -> list[dict[str, str]]:
    """Draw each picture that has data: title, alternative text, and the image in both themes."""
    shown = []
    for title, alt, draw in drawings(content).values():
        light, dark = draw(LIGHT), draw(DARK)
        if light is not None and dark is not None:
            shown.append({"title": title, "alt": alt, "light": data_uri("png", light), "dark": data_uri("png", dark)})
    return shown


def _saliency_words(layers: list[dict[str, float]]) -> str:
    first, last = layers[0]["visual"], layers[-1]["visual"]
    return (
        f"Line chart by layer: a visual token has {percent(first)} percent of the flow a token in the first layer and "
        f"{percent(last)} percent in the last."
    )


def _training_words(content: ReportInput) -> str:
    last = next((row for row in reversed(content.history) if row.get("loss") is not None), None)
    if last is None:
        return "No training curve."
    chance = f", chance is {show(last['chance'])}" if last.get("chance") is not None else ""
    return f"Line chart of the training loss by step; it ends at {show(last['loss'])}{chance}."
