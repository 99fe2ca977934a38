"""The command line of ``python -m flows.backtest``; its exit statuses are those of `flows.command`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from flows.command import in_prefect, job_settings, told, with_job
from flows.parameters import BacktestSettings
from notellm2.recipe import load_recipe
from notellm2.workspace import Workspace

if TYPE_CHECKING:
    from flows.runtime.job import Facts

EXAMPLE = "example: python -m flows.backtest --recipe recipes/sample.yaml --days 1 --windows 3"


def parser() -> argparse.ArgumentParser:
    """The arguments."""
    arguments = with_job(
        argparse.ArgumentParser(
            prog="python -m flows.backtest",
            description="Train on all behaviour up to a window of time, test on that window, and slide: how good the "
            "recipe would have been week by week, and how a model ages that is not retrained. Finished stages are "
            "reused. Nothing is registered or published.",
            epilog=EXAMPLE,
        )
    )
    arguments.add_argument("--days", type=float, default=7.0, help="length of a window, days (default: 7)")
    arguments.add_argument("--windows", type=int, default=4, help="windows tested, the latest ones (default: 4)")
    return arguments


def main(argv: Sequence[str] | None = None) -> int:
    """Run a backtest; returns the exit status."""
    given = parser().parse_args(argv)
    return told(lambda: _run(given))


def _run(given: argparse.Namespace) -> int:
    load_recipe(given.recipe, tuple(given.overrides))
    workspace = Workspace.at(given.store)
    with workspace.exclusive("a backtest"):
        return in_prefect(workspace, lambda: _backtest(given, workspace))


def _backtest(given: argparse.Namespace, workspace: Workspace) -> Facts:
    from flows.backtest import backtest

    return backtest(BacktestSettings.given(**job_settings(given, workspace), days=given.days, windows=given.windows))
