"""The command line of ``python -m flows.refresh_index``; it ends as that of a retraining (`flows.command`)."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

from flows.command import in_prefect, job_settings, told, with_job
from flows.parameters import RefreshSettings
from notellm2.errors import InputError
from notellm2.workspace import Workspace

if TYPE_CHECKING:
    from flows.runtime.job import Facts

EXAMPLE = "example: python -m flows.refresh_index --store store --data exports/today"


def parser() -> argparse.ArgumentParser:
    """The arguments."""
    return with_job(
        argparse.ArgumentParser(
            prog="python -m flows.refresh_index",
            description="Bring the published index up to date with the notes: the champion embeds what is new or "
            "changed, what is gone is dropped, and the index is validated and published. Nothing is trained. With "
            "nothing to do, nothing moves.",
            epilog=EXAMPLE,
        ),
        recipe="the one the champion was trained by",
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run a refresh; returns the exit status."""
    given = parser().parse_args(argv)
    return told(lambda: _refresh(given))


def _refresh(given: argparse.Namespace) -> int:
    from notellm2.publication.pointer import read_pointer  # numpy: not for --help

    workspace = Workspace.at(given.store)

    def start() -> Facts:
        from flows.refresh_index import refresh_index

        return cast("Facts", refresh_index(RefreshSettings.given(**job_settings(given, workspace))))

    if not workspace.root.is_dir():
        raise InputError(f"store {workspace.root}: no such folder; a retraining makes it")
    desk = refresh_desk(workspace)
    try:
        read_pointer(workspace.published)  # With nothing to refresh, no server need be started to say so.
        with desk.exclusive("an index refresh"):
            return in_prefect(desk, start)
    except OSError as error:  # from the look at the pointer; the flow reports its own
        sys.stderr.write(f"failed: {error}\n")
        return 1


def refresh_desk(workspace: Workspace) -> Workspace:
    """A desk of its own, with its own lock and Prefect home: a refresh need not wait for a retraining of hours."""
    return Workspace.at(workspace.root / "_refresh")
