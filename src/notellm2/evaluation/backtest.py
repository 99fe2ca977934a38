"""Stage "backtest": test a recipe on past windows of time, and show how a model ages."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from notellm2.artifacts import Artifact, Store
from notellm2.errors import InputError
from notellm2.evaluation.metrics import headline, recall_ks
from notellm2.evaluation.report import review_plots
from notellm2.notes.dataset import DatasetInfo

VERSION = 2
_LEAST_DAYS = 1 / 24


@dataclass(frozen=True)
class Window:
    """A window of time that is tested on; training sees what came before its start.

    Attributes:
        number: 1 for the first that is tested.
        start: first moment in it, UTC.
        end: first moment after it, UTC.
    """

    number: int
    start: datetime
    end: datetime

    @property
    def name(self) -> str:
        """The name that tables and messages show."""
        return f"window {self.number} ({self.start:%Y-%m-%d %H:%M} to {self.end:%Y-%m-%d %H:%M})"

    def facts(self) -> dict[str, Any]:
        """Return all of it as plain JSON."""
        return {"number": self.number, "start": self.start.isoformat(), "end": self.end.isoformat()}


@dataclass(frozen=True)
class Outcome:
    """Hold what one window's models scored.

    Attributes:
        window: `Window.facts`.
        fresh: evaluation of the model trained up to the window.
        aged: evaluation of the first window's model on the same test.
    """

    window: Mapping[str, Any]
    fresh: Artifact
    aged: Artifact


def plan_windows(info: DatasetInfo, *, days: float, windows: int) -> list[Window]:
    """Choose the latest windows of the data's behaviour, with one more window's length before the first.

    That length may be short by half: four weeks of events do not span four weeks to the second.

    Args:
        info: of the data set; its time span is read.
        days: length of a window, at least an hour.
        windows: how many.

    Raises:
        InputError: there is no behaviour, it does not last long enough, or a number is too small.
    """
    if windows < 1 or not days >= _LEAST_DAYS:
        raise InputError(f"--windows {windows}, --days {days:g}: expected at least one window of at least an hour")
    if info.first_interaction is None or info.last_interaction is None:
        raise InputError(f"data set {info.name}: no behaviour, so there is no past to test on")
    first, last = (datetime.fromisoformat(moment) for moment in (info.first_interaction, info.last_interaction))
    # The last event is inside its window.
    end = last + timedelta(microseconds=1)
    lasts = (end - first) / timedelta(days=1)
    if (windows + 0.5) * days > lasts:
        raise InputError(
            f"data set {info.name}: behaviour lasts {lasts:.1f} days; {windows} windows of {days:g} days need one "
            "more before them to train on: choose fewer (--windows) or shorter ones (--days)"
        )
    length = timedelta(days=days)
    starts = [end - (windows - i) * length for i in range(windows)]
    return [Window(i, start, start + length) for i, start in enumerate(starts, 1)]


def summarise(store: Store, tested: Sequence[Outcome]) -> Artifact:
    """Put all windows into one table and one plot.

    Returns:
        Stage "backtest": ``backtest.json``, a list of {"window", "start", "end", "queries", "pool", "metric", "fresh",
        "low", "high", "first", "tfidf", "popular", "visual_reliance"}: recall at the headline cut-off that every pool
        allows (`metric`) of the model trained up to the window (with its 95 % interval), of the first window's model,
        and of the baselines; ``backtest.md``, the same for people; ``plots/aging.png``.
    """

    def write(into: Path) -> Mapping[str, Any]:
        metrics = [json.loads(one.fresh.file("metrics.json").read_text()) for one in tested]
        # A window whose pool is small has fewer cut-offs; all are quoted at one.
        name = f"recall@{headline(sorted(set.intersection(*(set(recall_ks(one)) for one in metrics))))}"
        rows = [_row(one, name) for one in tested]
        (into / "backtest.json").write_text(json.dumps(rows, indent=1, allow_nan=False) + "\n", encoding="utf-8")
        (into / "backtest.md").write_text(_markdown(rows), encoding="utf-8")
        (into / "plots").mkdir()
        (into / "plots" / "aging.png").write_bytes(review_plots.aging(rows))
        return {"windows": len(rows), "fresh": [row["fresh"] for row in rows], "first": [row["first"] for row in rows]}

    inputs: dict[str, Artifact | str] = {}
    for i, one in enumerate(tested):
        inputs |= {f"fresh_{i:03d}": one.fresh, f"aged_{i:03d}": one.aged}
    return store.build("backtest", VERSION, {"windows": [dict(one.window) for one in tested]}, inputs, write)


def _row(tested: Outcome, name: str) -> dict[str, Any]:
    fresh, aged, intervals, protocol = (
        json.loads(side.file(f"{name}.json").read_text())
        for side, name in (
            (tested.fresh, "metrics"),
            (tested.aged, "metrics"),
            (tested.fresh, "intervals"),
            (tested.fresh, "protocol"),
        )
    )
    return {
        "window": tested.window["number"],
        "start": tested.window["start"],
        "end": tested.window["end"],
        "queries": protocol["queries"],
        "pool": protocol["pool"],
        "metric": name,
        "fresh": fresh["both"]["all"][name],
        **intervals["both"]["all"][name],
        "first": aged["both"]["all"][name],
        "tfidf": fresh["tfidf"]["all"][name],
        "popular": fresh["popular"]["all"][name],
        "visual_reliance": fresh["both"]["all"]["visual_reliance"],
    }


def _markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    figure = f"{rows[0]['metric']}, retrained, %"
    lines = [
        f"| window | from | queries | {figure} | 95 % interval | first model | TF-IDF | popular |",
        "| --- | --- | ---: | ---: | --- | ---: | ---: | ---: |",
    ]
    for row in rows:
        shares = {key: f"{100 * row[key]:.1f}" for key in ("fresh", "low", "high", "first", "tfidf", "popular")}
        lines.append(
            f"| {row['window']} | {row['start'][:16]} | {row['queries']:,} | {shares['fresh']} | "
            f"{shares['low']} to {shares['high']} | {shares['first']} | {shares['tfidf']} | {shares['popular']} |"
        )
    return "\n".join(lines) + "\n"
