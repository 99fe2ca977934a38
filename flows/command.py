"""The command line of ``python -m flows.retrain``: what it takes, what it prints, how it ends.

Status 0: done. 2: something given is wrong (the message says what to do). 1: a stage failed. 130: interrupted.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.parameters import RetrainSettings
from flows.runtime import environment
from notellm2.credentials import redacted
from notellm2.errors import InputError
from notellm2.recipe import load_recipe
from notellm2.workspace import Workspace

if TYPE_CHECKING:
    from flows.runtime.job import Facts  # which imports Prefect

EXAMPLE = "example: python -m flows.retrain --recipe recipes/sample.yaml --set training.steps=200"


def parser() -> argparse.ArgumentParser:
    """The arguments."""
    return with_job(
        argparse.ArgumentParser(
            prog="python -m flows.retrain",
            description="Turn notes and behaviour into a registered model and a published index. Finished stages are "
            "reused: the same command continues a killed run, and does nothing twice.",
            epilog=EXAMPLE,
        )
    )


def with_job(arguments: argparse.ArgumentParser, *, recipe: str | None = None) -> argparse.ArgumentParser:
    """Add what every flow is told: recipe, data, store and overrides.

    Args:
        arguments: to add to.
        recipe: which one is taken where none is given, in words; None: one must be given.
    """
    example = "YAML file, such as recipes/sample.yaml"
    about = example if recipe is None else f"{example} (default: {recipe})"
    arguments.add_argument("--recipe", type=Path, required=recipe is None, help=about)
    arguments.add_argument(
        "--data", type=Path, help="a data set, or a plain export to import first (default: what the recipe says)"
    )
    arguments.add_argument("--store", type=Path, default=Path("store"), help="folder for all output (default: store)")
    with_overrides(arguments)
    return arguments


def with_overrides(arguments: argparse.ArgumentParser) -> None:
    """Add ``--set``, assignments on top of the recipe."""
    arguments.add_argument(
        "--set",
        dest="overrides",
        action="append",
        default=[],
        metavar="SECTION.FIELD=VALUE",
        help="replace a value of the recipe; may be repeated",
    )


def job_settings(given: argparse.Namespace, workspace: Workspace) -> dict[str, Any]:
    """What `with_job` was given, as the settings of a flow name it."""
    return {
        "recipe": None if given.recipe is None else str(given.recipe),
        "data": None if given.data is None else str(given.data),
        "store": str(workspace.root),
        "overrides": list(given.overrides),
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Run a retraining; returns the exit status."""
    given = parser().parse_args(argv)
    return told(lambda: _retrain(given))


def told(run: Callable[[], int]) -> int:
    """The exit status of a command: what is given wrong, and an interruption, are told in a line."""
    try:
        return run()
    except InputError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    except KeyboardInterrupt:
        sys.stderr.write("interrupted; the same command continues where it was\n")
        return 130


def _retrain(given: argparse.Namespace) -> int:
    recipe = load_recipe(given.recipe, tuple(given.overrides))  # Wrong arguments should not cost a server's start.
    if recipe.gate.mode == "approval" and environment.uses_embedded_server():
        raise InputError(
            "gate.mode is approval, and there is no Prefect server where a person could approve: set "
            "PREFECT_API_URL, or use gate.mode=manual and `notellm2 promote`"
        )
    workspace = Workspace.at(given.store)

    def start() -> Facts:
        from flows.retrain import retrain

        return retrain(RetrainSettings.given(**job_settings(given, workspace)))

    with workspace.exclusive("a retraining"):
        return in_prefect(workspace, start)


def in_prefect(workspace: Workspace, start: Callable[[], Facts]) -> int:
    """Run a flow with Prefect at home in a workspace, and print its ``text``.

    Args:
        workspace: whose Prefect home is used where the user names no server.
        start: imports the flow and runs it; Prefect must not be imported before.

    Returns:
        The exit status.

    Raises:
        InputError: from the flow.
    """
    embedded = environment.prepare(workspace)
    if embedded:
        ended = environment.end_stale_server(workspace.prefect_home)
        if ended is not None:
            sys.stderr.write(f"ended the server that a killed run left behind (process {ended})\n")
    with environment.recorded_server(workspace.prefect_home, watch=embedded):
        # Only now: Prefect reads its settings when it is imported.
        from prefect import tags

        from flows.runtime import recovery

        if embedded:
            for name in recovery.crash_orphaned_runs():
                sys.stderr.write(f"marked run {name} of a killed process as crashed\n")
        try:
            with tags(recovery.run_tag()):
                outcome = start()
        except InputError:
            raise
        except Exception as error:  # the flow's own log has the traceback; here the cause in one line
            cause = redacted(" ".join(str(error).split()))[:500]
            sys.stderr.write(f"failed: {type(error).__name__}: {cause}\n")
            return 1
    sys.stdout.write(outcome["text"] + "\n")
    return 0
