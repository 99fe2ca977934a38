"""Windows of time, and what a backtest says of them."""

from __future__ import annotations

import itertools
import json
import math
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from notellm2.errors import InputError
from notellm2.evaluation.backtest import Outcome, plan_windows, summarise
from notellm2.evaluation.evaluation_stage import evaluate
from notellm2.evaluation.report.report_stage import read_json
from notellm2.notes.dataset import DatasetInfo
from notellm2.recipe import EvaluationConfig, TextLimits
from tests.unit.evaluation.small_run import small_run

START = datetime(2025, 3, 1, tzinfo=UTC)


def info(days: float | None) -> DatasetInfo:
    last = None if days is None else (START + timedelta(days=days)).isoformat()
    first = None if days is None else START.isoformat()
    return DatasetInfo(
        name="week",
        licence="made up",
        source="a test",
        notes=1,
        notes_with_image=0,
        interactions=2,
        first_interaction=first,
        last_interaction=last,
    )


def test_windows_are_the_latest_and_touch_each_other() -> None:
    found = plan_windows(info(10), days=2, windows=3)
    assert [window.number for window in found] == [1, 2, 3]
    assert all(a.end == b.start for a, b in itertools.pairwise(found))
    assert found[-1].start < START + timedelta(days=10) < found[-1].end
    assert {window.end - window.start for window in found} == {timedelta(days=2)}
    assert found[0].start > START + timedelta(days=3)


def test_what_cannot_be_tested_backwards_is_refused() -> None:
    with pytest.raises(InputError, match=r"lasts 3\.0 days; 4 windows of 1 days need one more before them"):
        plan_windows(info(3), days=1, windows=4)
    with pytest.raises(InputError, match="no behaviour"):
        plan_windows(info(None), days=1, windows=1)
    for days, windows in ((0.001, 1), (1, 0), (math.nan, 1)):
        with pytest.raises(InputError, match="at least one window of at least an hour"):
            plan_windows(info(9), days=days, windows=windows)
    for days in (math.inf, 1e12):
        with pytest.raises(InputError, match=r"lasts 9\.0 days; 2 windows of"):
            plan_windows(info(9), days=days, windows=2)


def test_behaviour_a_little_short_of_whole_windows_will_do() -> None:
    """Four weeks of events never span four weeks to the second: half a window before the first is enough."""
    found = plan_windows(info(3.5), days=1, windows=3)
    assert found[0].start - START == pytest.approx(timedelta(days=0.5), abs=timedelta(seconds=1))
    with pytest.raises(InputError, match="3 windows of 1 days"):
        plan_windows(info(3.4), days=1, windows=3)


def test_all_windows_are_told_at_one_cut_off(tmp_path: Path) -> None:
    """A window whose pool is too small for ten has a recall@5; it must not stand below the words recall@10."""
    tested = []
    windows = plan_windows(info(10), days=2, windows=2)
    config = EvaluationConfig(ks=(5, 10), resamples=400)
    for window, pool in zip(windows, (range(20, 120), range(20, 29)), strict=True):
        run = small_run(tmp_path / str(len(pool)), n_pairs=9, pool=pool)
        measured = evaluate(run.store, run.mined, run.vectors, config, TextLimits())
        tested.append(Outcome(window.facts(), measured, measured))
    made = summarise(run.store, tested)
    rows = read_json(made, "backtest.json")
    assert [row["metric"] for row in rows] == ["recall@5", "recall@5"]
    assert "recall@5, retrained, %" in made.file("backtest.md").read_text()
    for row, one in zip(rows, tested, strict=True):
        assert row["fresh"] == read_json(one.fresh, "metrics.json")["both"]["all"]["recall@5"]


def test_table_and_plot_hold_every_window(tmp_path: Path) -> None:
    run = small_run(tmp_path)
    config = EvaluationConfig(ks=(5, 10), resamples=400)
    fresh, aged = (
        evaluate(run.store, run.mined, vectors, config, TextLimits())
        for vectors in (run.vectors, run.vectors_with("aged", both=1.0))
    )
    windows = plan_windows(info(10), days=2, windows=2)
    tested = [Outcome(windows[0].facts(), fresh, fresh), Outcome(windows[1].facts(), fresh, aged)]
    made = summarise(run.store, tested)
    rows = json.loads(made.file("backtest.json").read_text())
    assert [row["window"] for row in rows] == [1, 2]
    assert rows[0]["fresh"] == rows[0]["first"] == rows[1]["fresh"] > rows[1]["first"]
    assert rows[1]["low"] <= rows[1]["fresh"] <= rows[1]["high"]
    assert made.file("backtest.md").read_text().count("\n") == 4
    assert made.file("plots/aging.png").read_bytes().startswith(b"\x89PNG")
    assert summarise(run.store, tested) == made
    assert summarise(run.store, tested[:1]).key != made.key
