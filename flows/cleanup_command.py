"""The command line of ``python -m flows.cleanup``; it ends as that of a retraining (`flows.command`)."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from flows.command import in_prefect, told, with_overrides
from flows.parameters import CleanupSettings
from notellm2.recipe import load_recipe
from notellm2.workspace import Workspace

if TYPE_CHECKING:
    from flows.runtime.job import Facts

EXAMPLE = "example: python -m flows.cleanup --recipe recipes/team.yaml --dry-run"
_DAYS = ("artifacts_days", "data_days", "flow_runs_days", "mlflow_days", "mlflow_deleted_days")


def parser() -> argparse.ArgumentParser:
    """The arguments."""
    arguments = argparse.ArgumentParser(
        prog="python -m flows.cleanup",
        description="Remove old artifacts, data versions, flow runs and MLflow runs that nothing in use rests on, and "
        "say whether the champion is stale.",
        epilog=EXAMPLE,
    )
    arguments.add_argument("--recipe", type=Path, required=True, help="YAML file, such as recipes/team.yaml")
    arguments.add_argument("--store", type=Path, default=Path("store"), help="folder of the flows (default: store)")
    with_overrides(arguments)
    fields = CleanupSettings.model_fields
    for name in _DAYS:
        flag, about = f"--{name.replace('_', '-')}", f"{fields[name].description} (default: {fields[name].default:g})"
        arguments.add_argument(flag, type=float, default=fields[name].default, metavar="DAYS", help=about)
    keep = fields["artifacts_keep"]
    about = f"{keep.description} (default: {keep.default})"
    arguments.add_argument("--artifacts-keep", type=int, default=keep.default, metavar="N", help=about)
    arguments.add_argument("--dry-run", action="store_true", help=fields["dry_run"].description)
    return arguments


def main(argv: Sequence[str] | None = None) -> int:
    """Run a cleanup; returns the exit status."""
    given = parser().parse_args(argv)
    return told(lambda: _clean(given))


def _clean(given: argparse.Namespace) -> int:
    load_recipe(given.recipe, tuple(given.overrides))
    workspace = Workspace.at(given.store)

    def start() -> Facts:
        from flows.cleanup import cleanup

        chosen = {name: getattr(given, name) for name in (*_DAYS, "artifacts_keep", "dry_run", "overrides")}
        return cleanup(CleanupSettings.given(recipe=str(given.recipe), store=str(workspace.root), **chosen))

    # A desk of its own, with its own lock and Prefect home: a retraining may be under way.
    desk = Workspace.at(workspace.root / "_cleanup")
    with desk.exclusive("a cleanup"):
        return in_prefect(desk, start)
