"""Share what all plots need: themes, figures without global state, and PNG bytes.

Drawn narrow and large-lettered, so that they stay legible on a phone. Colours are Okabe and Ito's, which any colour
vision can distinguish; line style or marker always says the same as colour. Figures are drawn on their own canvas, not
through pyplot: no display, safe in threads, and equal figures give equal bytes.
"""

from __future__ import annotations

import io
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

_DPI = 192


@dataclass(frozen=True)
class Theme:
    """Colours of a figure: paper, ink, quiet ink, bars of baselines and of the tuned model, better and worse."""

    paper: str
    ink: str
    quiet: str
    baseline: str
    tuned: str
    tuned_part: str
    better: str
    worse: str


LIGHT = Theme(
    paper="#ffffff",
    ink="#1b1f24",
    quiet="#5b6570",
    baseline="#9aa4ae",
    tuned="#0072b2",
    tuned_part="#56b4e9",
    better="#00795a",
    worse="#c04a00",
)
DARK = Theme(
    paper="#1b2027",
    ink="#e8ebee",
    quiet="#a5aeb8",
    baseline="#6d7782",
    tuned="#56b4e9",
    tuned_part="#2f7fb0",
    better="#3fd0a4",
    worse="#ff9a5c",
)


def new_figure(theme: Theme, height: float, rows: int = 1) -> tuple[Figure, list[Axes]]:
    """Make a figure `height` inches high with `rows` axes that share their x axis."""
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


def add_legend(figure: Figure, axes: Axes, theme: Theme, columns: int) -> None:
    """Put the legend below the axes, in so many columns."""
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


def png(figure: Figure) -> bytes:
    """Write a figure as the bytes of a PNG file."""
    buffer = io.BytesIO()
    # No software version or date in the file: equal metrics give equal bytes.
    figure.savefig(buffer, format="png", facecolor=figure.get_facecolor(), metadata={"Software": None})
    return buffer.getvalue()
