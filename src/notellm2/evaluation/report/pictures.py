"""The plots in both themes, as data URIs, with words for who cannot see them."""

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


def drawings(given: ReportInput) -> dict[str, tuple[str, str, Drawing]]:
    """File name (no ending) to title, words and drawing; a drawing without data gives None."""
    metrics, intervals = given.metrics, given.intervals
    k = headline_k(metrics)
    both = percent(metrics["both"]["all"][f"recall@{k}"])
    found: dict[str, tuple[str, str, Drawing]] = {}
    if given.champion:
        compared = {
            name: part
            for name, part in given.champion.comparison["slices"].items()
            if part["n"] >= FEW and not is_fine(name)
        }
        if compared:
            found["changes"] = (
                "Recall@10 against the champion, by slice",
                "Differences with intervals; the table of changes has every value.",
                lambda theme: review_plots.changes(compared, given.labels, theme=theme),
            )
    found["recall_bars"] = (
        f"Recall@{k} by model",
        f"Bar chart of recall at {k}: {both} percent with both inputs; the table of models has every value.",
        lambda theme: plots.recall_bars(metrics, intervals, theme),
    )
    found["recall_curve"] = (
        "Recall by number of notes recommended",
        "Line chart of recall at k by model; the table of models has the values.",
        lambda theme: plots.recall_curve(metrics, theme),
    )
    found["by_popularity"] = (
        f"Recall@{k} by popularity of the target",
        "Line chart of recall by tenths of popularity; the table by popularity has the values.",
        lambda theme: plots.by_popularity(metrics, intervals, theme),
    )
    if given.saliency is not None:
        layers = given.saliency["layers"]
        found["saliency"] = (
            "Saliency by layer: what the embedding listens to",
            _saliency_words(layers),
            lambda theme: review_plots.saliency(layers, theme),
        )
    found["training"] = (
        "Training: loss against chance, and mean cosine of different notes before centring",
        _training_words(given),
        lambda theme: plots.training_curve(given.history, theme),
    )
    return found


def pictures(given: ReportInput) -> list[dict[str, str]]:
    """Each drawing that has data: title, alternative text, and the image in both themes."""
    shown = []
    for title, alt, draw in drawings(given).values():
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


def _training_words(given: ReportInput) -> str:
    last = next((row for row in reversed(given.history) if row.get("loss") is not None), None)
    if last is None:
        return "No training curve."
    chance = f", chance is {show(last['chance'])}" if last.get("chance") is not None else ""
    return f"Line chart of the training loss by step; it ends at {show(last['loss'])}{chance}."
