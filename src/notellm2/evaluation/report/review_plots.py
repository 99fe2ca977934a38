"""Draw the plots of a review, as PNG bytes: changes against the champion, saliency by layer, and how models age."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.ticker import MaxNLocator

from notellm2.evaluation.report.drawing import LIGHT, Theme, add_legend, new_figure, png

_FLOWS = (
    ("visual", "from visual tokens", "#0072b2", "-", "o"),
    ("text", "from text tokens", "#d55e00", "--", "s"),
    ("rest", "from the rest of the prompt", "#888888", ":", "v"),
)


def changes(
    compared: Mapping[str, Mapping[str, Any]],
    labels: Mapping[str, str],
    metric: str = "recall@10",
    theme: Theme = LIGHT,
) -> bytes:
    """Draw a metric's difference to the champion by slice, in points, with 95 % intervals.

    Args:
        compared: slice to its part of comparison.json, top to bottom; those without queries are left out.
        labels: slice to words.
        metric: of comparison.json.
        theme: colours.
    """
    shown = {name: part[metric] for name, part in compared.items() if part[metric] is not None}
    figure, (axes,) = new_figure(theme, height=1.1 + 0.27 * len(shown))
    positions = range(len(shown))[::-1]
    axes.axvline(0, color=theme.quiet, linewidth=1)
    for position, change in zip(positions, shown.values(), strict=True):
        low, value, high = (100 * change[key] for key in ("low", "difference", "high"))
        colour, marker = (theme.better, "^") if low > 0 else (theme.worse, "v") if high < 0 else (theme.quiet, "o")
        axes.plot((low, high), (position, position), color=colour, linewidth=1.8)
        axes.plot((value,), (position,), color=colour, marker=marker, markersize=7)
    axes.set_yticks(list(positions), [labels.get(name, name) for name in shown])
    axes.tick_params(axis="y", labelsize=9)
    axes.set_ylim(-0.6, len(shown) - 0.4)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.set_xlabel(f"change of {metric}, points")
    axes.grid(axis="x", color=theme.quiet, alpha=0.25)
    return png(figure)


def saliency(layers: Sequence[Mapping[str, float]], theme: Theme = LIGHT) -> bytes:
    """Draw the mean flow into the compression position by layer.

    Args:
        layers: of saliency.json: {"visual", "text", "rest"} a layer, from the first; shares of the layer's flow.
        theme: colours.
    """
    figure, (axes,) = new_figure(theme, height=3.6)
    positions = range(1, len(layers) + 1)
    for key, label, colour, style, marker in _FLOWS:
        shares = [100 * layer[key] for layer in layers]
        axes.plot(positions, shares, color=colour, linestyle=style, marker=marker, markersize=5, label=label)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_ylim(bottom=0)
    axes.set_xlabel("layer")
    axes.set_ylabel("share of the flow a token, %")
    axes.grid(axis="y", color=theme.quiet, alpha=0.25)
    add_legend(figure, axes, theme, columns=1)
    return png(figure)


def aging(rows: Sequence[Mapping[str, Any]], theme: Theme = LIGHT) -> bytes:
    """Draw recall by window of time: a model trained up to it, the first model, and TF-IDF.

    Args:
        rows: of backtest.json: "window", "metric", and recalls in [0, 1]: "fresh" with "low" and "high", "first",
            "tfidf".
        theme: colours.
    """
    figure, (axes,) = new_figure(theme, height=3.6)
    windows = [row["window"] for row in rows]
    lines = (
        ("fresh", "trained up to the window", theme.tuned, "-", "o"),
        ("first", "the first model, not retrained", "#d55e00", "--", "s"),
        ("tfidf", "TF-IDF", "#888888", ":", "v"),
    )
    for key, label, colour, style, marker in lines:
        values = [100 * row[key] for row in rows]
        axes.plot(windows, values, color=colour, linestyle=style, marker=marker, markersize=5, label=label)
    low, high = ([100 * row[end] for row in rows] for end in ("low", "high"))
    axes.fill_between(windows, low, high, color=theme.tuned, alpha=0.18)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_ylim(bottom=0)
    axes.set_xlabel("window of the test")
    axes.set_ylabel(f"{rows[0]['metric']}, %")
    axes.grid(axis="y", color=theme.quiet, alpha=0.25)
    add_legend(figure, axes, theme, columns=1)
    return png(figure)
