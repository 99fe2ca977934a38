"""The command line of ``python -m flows.ingest``; it ends as that of a retraining (`flows.command`)."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

from flows.command import in_prefect, job_settings, told, with_job
from flows.parameters import IngestSettings
from notellm2.recipe import load_recipe
from notellm2.workspace import Workspace

if TYPE_CHECKING:
    from flows.runtime.job import Facts

EXAMPLE = "example: python -m flows.ingest --recipe recipes/team.yaml --data exports/today"


def parser() -> argparse.ArgumentParser:
    """The arguments."""
    arguments = with_job(
        argparse.ArgumentParser(
            prog="python -m flows.ingest",
            description="Make a new export the data set's next version: import it, check it, put it in the place of "
            "data.dir in one step, and record it with DVC. A version that fails its checks changes nothing.",
            epilog=EXAMPLE,
        )
    )
    arguments.add_argument("--no-pin", dest="pin", action="store_false", help="do not record the version with DVC")
    arguments.add_argument("--push", action="store_true", help="store the version at a DVC remote")
    arguments.add_argument("--remote", metavar="NAME", help="which DVC remote (default: DVC's default one)")
    return arguments


def main(argv: Sequence[str] | None = None) -> int:
    """Run an ingest; returns the exit status."""
    given = parser().parse_args(argv)
    return told(lambda: _ingest(given))


def _ingest(given: argparse.Namespace) -> int:
    load_recipe(given.recipe, tuple(given.overrides))
    workspace = Workspace.at(given.store)

    def start() -> Facts:
        from flows.ingest import ingest

        settings = job_settings(given, workspace)
        return cast(
            "Facts", ingest(IngestSettings.given(**settings, pin=given.pin, push=given.push, remote=given.remote))
        )

    desk = ingest_desk(workspace)
    with desk.exclusive("an ingest"):
        return in_prefect(desk, start)


def ingest_desk(workspace: Workspace) -> Workspace:
    """A desk of its own, with its own lock and Prefect home: new data need not wait for a retraining of hours."""
    return Workspace.at(workspace.root / "_ingest")
