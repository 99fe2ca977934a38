"""Stage "ablation": put the evaluations of variants and seeds into one table and one plot (NoteLLM-2, the ablation)."""

from __future__ import annotations

import csv
import io
import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from notellm2.artifacts import Artifact, Store
from notellm2.evaluation.metrics import Metrics, headline
from notellm2.evaluation.report.drawing import LIGHT, png

STAGE, VERSION = "ablation", 1

SERIES = {
    "both inputs": ("both", "all"),
    "text only": ("text_only", "all"),
    "image only": ("image_only", "all"),
    "short query": ("both", "short_query"),
}
"""What a variant is judged by: name, row of the metrics, slice."""


@dataclass(frozen=True)
class Cell:
    """One trained model of the sweep and its evaluation."""

    variant: str
    seed: int
    evaluation: Artifact


@dataclass(frozen=True)
class Spread:
    """A figure over seeds: mean, and standard deviation (n - 1), None for one seed; both None where undefined."""

    mean: float | None
    deviation: float | None

    @classmethod
    def of(cls, values: Sequence[float | None]) -> Spread:
        """Compute the spread of one figure over its seeds."""
        known = [value for value in values if value is not None]
        if len(known) < len(values) or not known:
            return cls(None, None)
        return cls(statistics.mean(known), statistics.stdev(known) if len(known) > 1 else None)

    def percent(self) -> str:
        """Format as ``12.3 ± 0.4``, in %."""
        if self.mean is None:
            return "–"
        return f"{100 * self.mean:.1f}" + ("" if self.deviation is None else f" ± {100 * self.deviation:.1f}")


def ablation(store: Store, cells: Sequence[Cell]) -> Artifact:
    """Put the evaluations of a sweep side by side.

    Args:
        store: where the artifact goes.
        cells: evaluations of one test set, by variant and seed; variants keep the order in which they first come.

    Returns:
        Files: ``table.csv`` (variant, seeds, and mean and sd of each figure), ``table.md`` (the same in %, for people),
        ``plot.png``, ``cells.json`` (every figure of every cell). The summary holds the table's means.

    Raises:
        ValueError: a variant has a seed twice, or there are no cells.
    """
    addresses = [f"{cell.variant}/{cell.seed}" for cell in cells]
    if not cells or len(set(addresses)) < len(cells):
        raise ValueError(f"expected every variant and seed once, got {addresses}")

    def write(folder: Path) -> dict[str, Any]:
        metrics = {cell: json.loads(cell.evaluation.file("metrics.json").read_text()) for cell in cells}
        table = _table(metrics)
        (folder / "cells.json").write_text(json.dumps(dict(zip(addresses, metrics.values(), strict=True)), indent=1))
        (folder / "table.csv").write_text(_as_csv(table))
        (folder / "table.md").write_text(as_markdown(table))
        (folder / "plot.png").write_bytes(_plot(table))
        means = {name: {figure: spread.mean for figure, spread in row.items()} for name, row in table.spreads.items()}
        return {"variants": means, "seeds": table.seeds}

    inputs = {address: cell.evaluation for address, cell in zip(addresses, cells, strict=True)}
    # The order is part of what is shown, and of the key: inputs alone are a set.
    return store.build(STAGE, VERSION, {"order": addresses}, inputs, write)


@dataclass(frozen=True)
class Table:
    """Variants by row, figures (``both inputs R@10``) by column."""

    cutoffs: tuple[int, ...]
    seeds: dict[str, int]
    spreads: dict[str, dict[str, Spread]]


def _table(metrics: Mapping[Cell, Metrics]) -> Table:
    measured = next(iter(metrics.values()))["both"]["all"]
    ks = sorted(int(name.removeprefix("recall@")) for name in measured if name.startswith("recall@"))
    quoted: tuple[int, ...] = (10, 100)
    wanted = [k for k in quoted if k in ks] or [headline(ks)]
    seeds: dict[str, int] = {}
    spreads: dict[str, dict[str, Spread]] = {}
    for variant in dict.fromkeys(cell.variant for cell in metrics):
        mine = [figures for cell, figures in metrics.items() if cell.variant == variant]
        seeds[variant] = len(mine)
        spreads[variant] = {
            f"{name} R@{k}": Spread.of([figures[row][part][f"recall@{k}"] for figures in mine])
            for name, (row, part) in SERIES.items()
            for k in wanted
        }
    return Table(tuple(wanted), seeds, spreads)


def _as_csv(table: Table) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    figures = list(next(iter(table.spreads.values())))
    writer.writerow(["variant", "seeds", *(f"{figure} {part}" for figure in figures for part in ("mean", "sd"))])
    for variant, row in table.spreads.items():
        numbers = [value for spread in row.values() for value in (spread.mean, spread.deviation)]
        writer.writerow([variant, table.seeds[variant], *("" if n is None else f"{n:.6f}" for n in numbers)])
    return text.getvalue()


def as_markdown(table: Table) -> str:
    """Format the table in %, mean ± standard deviation over seeds."""
    figures = list(next(iter(table.spreads.values())))
    lines = ["| variant | seeds | " + " | ".join(figures) + " |", "| --- | ---: |" + " ---: |" * len(figures)]
    for variant, row in table.spreads.items():
        cells = " | ".join(spread.percent() for spread in row.values())
        lines.append(f"| {variant} | {table.seeds[variant]} | {cells} |")
    return "\n".join(lines) + "\n"


def _plot(table: Table) -> bytes:
    """Bars by variant and series at the largest cut-off shown, with one standard deviation either way."""
    k = table.cutoffs[-1]
    variants = list(table.spreads)
    colours = (LIGHT.ink, LIGHT.tuned, LIGHT.tuned_part, LIGHT.baseline)
    figure = Figure(figsize=(8.0, 1.2 + 0.75 * len(variants)), layout="constrained", facecolor=LIGHT.paper)
    axes = figure.add_subplot()
    height = 0.8 / len(SERIES)
    for number, (name, colour) in enumerate(zip(SERIES, colours, strict=True)):
        spreads = [table.spreads[variant][f"{name} R@{k}"] for variant in variants]
        axes.barh(
            [at + (number + 0.5) * height - 0.4 for at in range(len(variants))],
            [100 * (spread.mean or 0.0) for spread in spreads],
            height,
            xerr=[100 * (spread.deviation or 0.0) for spread in spreads],
            label=name,
            color=colour,
            error_kw={"ecolor": LIGHT.quiet, "capsize": 2},
        )
    axes.set_yticks(range(len(variants)), variants)
    axes.invert_yaxis()
    axes.set_xlabel(f"recall@{k}, % (mean ± standard deviation over seeds)")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, ncols=len(SERIES), loc="lower center", bbox_to_anchor=(0.5, 1.0))
    return png(figure)
