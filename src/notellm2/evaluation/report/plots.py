"""Draw the plots of one evaluation and of its training, as PNG bytes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.ticker import FixedFormatter, FixedLocator, MaxNLocator, NullLocator

from notellm2.evaluation.metrics import TUNED, Intervals, Metrics, headline_k, recall_ks
from notellm2.evaluation.report.drawing import LIGHT, Theme, add_legend, new_figure, png
from notellm2.evaluation.slices import DECILES

LABELS = {
    "both": "both inputs",
    "text_only": "text only",
    "image_only": "image only",
    "shuffled": "images shuffled",
    "variant_text": "text-only variant",
    "variant_basic": "basic variant",
    "linear": "linear map, text + image",
    "vision": "vision encoder alone",
    "tfidf": "TF-IDF, text as cut",
    "tfidf_full": "TF-IDF, whole text",
    "popular": "most popular",
    "random": "chance",
}


# Name to colour (None: the theme's ink), line style and marker.
_LINES: dict[str, tuple[str | None, str, str]] = {
    "both": (None, "-", "o"),
    "text_only": ("#d55e00", "--", "s"),
    "image_only": ("#009e73", "-.", "^"),
    "linear": ("#56b4e9", "--", "p"),
    "vision": ("#cc79a7", ":", "v"),
    "tfidf": ("#e69f00", "--", "D"),
    "tfidf_full": ("#b58900", "-.", "P"),
    "popular": ("#888888", ":", "X"),
    "random": ("#888888", "-", ""),
}


def recall_bars(metrics: Metrics, intervals: Intervals, theme: Theme = LIGHT) -> bytes:
    """Draw recall at the headline cut-off of every model as labelled bars with 95 % intervals; the tuned in colour."""
    name = f"recall@{headline_k(metrics)}"
    shown = {model: metrics[model]["all"][name] for model in LABELS if model in metrics}
    figure, (axes,) = new_figure(theme, height=3.9)
    positions = range(len(shown))[::-1]
    colours = [theme.tuned if m == "both" else theme.tuned_part if m in TUNED else theme.baseline for m in shown]
    values = [100 * (value or 0.0) for value in shown.values()]
    axes.barh(positions, values, color=colours, height=0.7)
    ends = [_ends(intervals, model, "all", name) or (value, value) for model, value in zip(shown, values, strict=True)]
    for position, value, known, (low, high) in zip(positions, values, shown.values(), ends, strict=True):
        axes.plot((low, high), (position, position), color=theme.ink, linewidth=1.3, solid_capstyle="butt")
        text = "no data" if known is None else f"{value:.1f}"
        beyond = (max(value, high), position)
        axes.annotate(text, beyond, (4, 0), textcoords="offset points", va="center", color=theme.ink)
    axes.set_yticks(list(positions), [LABELS[model] for model in shown])
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.set_xlim(0, max([*values, *(high for _, high in ends), 1e-9]) * 1.14)
    axes.set_xlabel(f"recall@{headline_k(metrics)}, %, with 95 % intervals")
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    return png(figure)


def recall_curve(metrics: Metrics, theme: Theme = LIGHT) -> bytes:
    """Draw recall by cut-off, all pairs, one line a model."""
    ks = recall_ks(metrics)
    figure, (axes,) = new_figure(theme, height=3.9)
    for model in (name for name in _LINES if name in metrics):
        values = [metrics[model]["all"][f"recall@{k}"] for k in ks]
        axes.plot(ks, [float("nan") if value is None else 100 * value for value in values], **_line(model, theme))
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(FixedLocator(ks))
    axes.xaxis.set_major_formatter(FixedFormatter([f"{k:,}" for k in ks]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_ylim(bottom=0)
    axes.set_xlabel("k, notes recommended")
    axes.set_ylabel("recall@k, %")
    axes.grid(axis="y", color=theme.quiet, alpha=0.25)
    add_legend(figure, axes, theme, columns=2)
    return png(figure)


def by_popularity(metrics: Metrics, intervals: Intervals, theme: Theme = LIGHT) -> bytes | None:
    """Draw recall by popularity of the target; None where fewer than two tenths have queries."""
    k = headline_k(metrics)
    names = [f"popularity_{i:02d}" for i in range(1, DECILES + 1)]
    tenths = [i for i, name in enumerate(names, 1) if (metrics["both"].get(name) or {}).get("n")]
    if len(tenths) < 2:
        return None
    figure, (axes,) = new_figure(theme, height=3.6)
    for model in ("both", "text_only", "tfidf"):
        shown = [metrics[model][f"popularity_{i:02d}"][f"recall@{k}"] or 0.0 for i in tenths]
        axes.plot(tenths, [100 * value for value in shown], **_line(model, theme))
    ends = [_ends(intervals, "both", f"popularity_{i:02d}", f"recall@{k}") or (0.0, 0.0) for i in tenths]
    axes.fill_between(tenths, [low for low, _ in ends], [high for _, high in ends], color=theme.tuned, alpha=0.18)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_ylim(bottom=0)
    axes.set_xlabel("tenth of the targets by popularity")
    axes.set_ylabel(f"recall@{k}, %")
    axes.grid(axis="y", color=theme.quiet, alpha=0.25)
    add_legend(figure, axes, theme, columns=2)
    return png(figure)


def training_curve(history: Sequence[Mapping[str, Any]], theme: Theme = LIGHT) -> bytes | None:
    """Draw loss against chance, and mean cosine, by step; None when the history holds no loss.

    Args:
        history: rows of training's metrics.jsonl: `step` with `loss` and, where there, `chance` (the loss of
            embeddings that say nothing; ln(2B - 1) or less, as masked partners are no negatives), `mean_cosine`
            (before the batch is centred), and validation recalls.
    """
    if not _series(history, "loss")[0]:
        return None
    figure, (top, bottom) = new_figure(theme, height=4.4, rows=2)
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
    add_legend(figure, bottom, theme, columns=2)
    return png(figure)


def _line(model: str, theme: Theme) -> dict[str, Any]:
    """How a model's line is drawn and called."""
    colour, style, marker = _LINES[model]
    width = 2.6 if model == "both" else 1.5
    return {
        "color": colour or theme.tuned,
        "linestyle": style,
        "marker": marker,
        "markersize": 5,
        "linewidth": width,
        "label": LABELS[model],
    }


def _series(history: Sequence[Mapping[str, Any]], key: str) -> tuple[list[float], list[float]]:
    points = [(float(row["step"]), float(row[key])) for row in history if row.get(key) is not None and "step" in row]
    return [step for step, _ in points], [value for _, value in points]


def _ends(intervals: Intervals, model: str, part: str, metric: str) -> tuple[float, float] | None:
    """The interval in percent, or None."""
    ends = intervals.get(model, {}).get(part, {}).get(metric)
    return None if ends is None else (100 * ends["low"], 100 * ends["high"])
