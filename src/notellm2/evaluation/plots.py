"""The plots of a run, as PNG bytes: drawn narrow and large-lettered, so that they stay legible on a phone.

Colours are Okabe and Ito's, told apart with any colour vision; line style or marker always says the same as colour.
Figures are drawn on their own canvas, not through pyplot: no global state, no display, safe in threads.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FixedFormatter, FixedLocator, MaxNLocator, NullLocator

from notellm2.evaluation.metrics import TUNED, Metrics, headline

LABELS = {
    "both": "both inputs",
    "text_only": "text only",
    "image_only": "image only",
    "shuffled": "images shuffled",
    "variant_text": "text-only variant",
    "variant_basic": "basic variant",
    "vision": "vision encoder alone",
    "tfidf": "TF-IDF, text as cut",
    "tfidf_full": "TF-IDF, whole text",
    "popular": "most popular",
    "random": "chance",
}


@dataclass(frozen=True)
class Theme:
    """Colours of a figure: paper, ink, quiet ink, and the bars and lines of baselines."""

    paper: str
    ink: str
    quiet: str
    baseline: str
    tuned: str
    tuned_part: str


LIGHT = Theme(
    paper="#ffffff", ink="#1b1f24", quiet="#5b6570", baseline="#9aa4ae", tuned="#0072b2", tuned_part="#56b4e9"
)
DARK = Theme(paper="#1b2027", ink="#e8ebee", quiet="#a5aeb8", baseline="#6d7782", tuned="#56b4e9", tuned_part="#2f7fb0")

# Name to colour (None: the theme's ink), line style and marker.
_LINES: dict[str, tuple[str | None, str, str]] = {
    "both": (None, "-", "o"),
    "text_only": ("#d55e00", "--", "s"),
    "image_only": ("#009e73", "-.", "^"),
    "vision": ("#cc79a7", ":", "v"),
    "tfidf": ("#e69f00", "--", "D"),
    "tfidf_full": ("#b58900", "-.", "P"),
    "popular": ("#888888", ":", "X"),
    "random": ("#888888", "-", ""),
}
_DPI = 192


def headline_k(metrics: Metrics) -> int:
    """The cut-off that plots and sentences quote: 10 where it was measured, else the smallest."""
    return headline(recall_ks(metrics))


def recall_ks(metrics: Metrics) -> list[int]:
    """The cut-offs that were measured, ascending."""
    return sorted(int(name.partition("@")[2]) for name in metrics["both"]["all"] if name.startswith("recall@"))


def recall_bars(metrics: Metrics, theme: Theme = LIGHT) -> bytes:
    """Recall at the headline cut-off of every model, as labelled bars; the tuned ones in colour."""
    name = f"recall@{headline_k(metrics)}"
    shown = {model: metrics[model]["all"][name] for model in LABELS if model in metrics}
    figure, (axes,) = _figure(theme, height=3.2)
    places = range(len(shown))[::-1]
    colours = [theme.tuned if m == "both" else theme.tuned_part if m in TUNED else theme.baseline for m in shown]
    values = [100 * (value or 0.0) for value in shown.values()]
    axes.barh(places, values, color=colours, height=0.7)
    for place, value, known in zip(places, values, shown.values(), strict=True):
        text = "no data" if known is None else f"{value:.1f}"
        axes.annotate(text, (value, place), (4, 0), textcoords="offset points", va="center", color=theme.ink)
    axes.set_yticks(list(places), [LABELS[model] for model in shown])
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.set_xlim(0, max([*values, 1e-9]) * 1.14)
    axes.set_xlabel(f"recall@{headline_k(metrics)}, all pairs, %")
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    return _png(figure)


def recall_curve(metrics: Metrics, theme: Theme = LIGHT) -> bytes:
    """Recall by cut-off, all pairs, one line a model."""
    ks = recall_ks(metrics)
    figure, (axes,) = _figure(theme, height=3.9)
    for model, (colour, style, marker) in _LINES.items():
        if model not in metrics:
            continue
        values = [metrics[model]["all"][f"recall@{k}"] for k in ks]
        axes.plot(
            ks,
            [float("nan") if value is None else 100 * value for value in values],
            color=colour or theme.tuned,
            linestyle=style,
            marker=marker,
            markersize=5,
            linewidth=2.6 if model == "both" else 1.5,
            label=LABELS[model],
        )
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(FixedLocator(ks))
    axes.xaxis.set_major_formatter(FixedFormatter([f"{k:,}" for k in ks]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_ylim(bottom=0)
    axes.set_xlabel("k, notes recommended")
    axes.set_ylabel("recall@k, %")
    axes.grid(axis="y", color=theme.quiet, alpha=0.25)
    _legend(figure, axes, theme, columns=2)
    return _png(figure)


def training_curve(history: Sequence[Mapping[str, Any]], theme: Theme = LIGHT) -> bytes | None:
    """Loss against chance, and mean cosine, by step; None when the history holds no loss.

    Args:
        history: rows of training's metrics.jsonl: `step` with `loss` and, where there, `chance` (the loss of
            embeddings that say nothing; ln(2B - 1) or less, as masked partners are no negatives), `mean_cosine`, and
            validation recalls.
    """
    if not _series(history, "loss")[0]:
        return None
    figure, (top, bottom) = _figure(theme, height=4.4, rows=2)
    top.plot(*_series(history, "loss"), color=theme.tuned, linewidth=1.8, label="loss")
    top.plot(*_series(history, "chance"), color="#d55e00", linestyle="--", linewidth=1.5, label="chance")
    top.set_ylabel("loss")
    top.legend(frameon=False, labelcolor=theme.ink, loc="upper right", handlelength=2.5)
    bottom.plot(*_series(history, "mean_cosine"), color="#009e73", linewidth=1.8, label="mean cosine")
    recalls = sorted({key for row in history for key in row if key.startswith("validation_recall")})
    for key, marker in zip(recalls, "osD^", strict=False):
        label = key.replace("_", " ").replace(" at ", "@")
        bottom.plot(*_series(history, key), color="#cc79a7", linestyle=":", marker=marker, markersize=4, label=label)
    bottom.axhline(0.0, color=theme.quiet, linewidth=0.6)
    bottom.set_ylim(top=1.02)
    bottom.set_ylabel("of different notes" if not recalls else "share")
    bottom.set_xlabel("step")
    bottom.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    bottom.legend(frameon=False, labelcolor=theme.ink, loc="best", handlelength=2.5)
    return _png(figure)


def _series(history: Sequence[Mapping[str, Any]], key: str) -> tuple[list[float], list[float]]:
    points = [(float(row["step"]), float(row[key])) for row in history if row.get(key) is not None and "step" in row]
    return [step for step, _ in points], [value for _, value in points]


def _figure(theme: Theme, height: float, rows: int = 1) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(4.5, height), dpi=_DPI, facecolor=theme.paper, layout="constrained")
    FigureCanvasAgg(figure)
    axes = list(figure.subplots(rows, 1, sharex=True, squeeze=False).flat)
    for one in axes:
        one.set_facecolor(theme.paper)
        one.tick_params(colors=theme.ink, labelsize=10.5)
        one.xaxis.label.set(color=theme.ink, size=10.5)
        one.yaxis.label.set(color=theme.ink, size=10.5)
        for side, spine in one.spines.items():
            spine.set_color(theme.quiet)
            spine.set_visible(side in {"left", "bottom"})
    return figure, axes


def _legend(figure: Figure, axes: Axes, theme: Theme, columns: int) -> None:
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(
        handles,
        labels,
        loc="outside lower center",
        ncols=columns,
        frameon=False,
        labelcolor=theme.ink,
        fontsize=10,
        handlelength=3,
    )


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    # No software version or date in the file: equal metrics give equal bytes.
    figure.savefig(buffer, format="png", facecolor=figure.get_facecolor(), metadata={"Software": None})
    return buffer.getvalue()
