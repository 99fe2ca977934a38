"""The command that checks what can be known before an hour of training."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from notellm2.cli.options import STORE, JsonOption, StoreOption, print_json


def doctor(
    recipe: Annotated[
        Path | None, typer.Option("--recipe", metavar="FILE", help="Recipe to follow; without it the machine alone.")
    ] = None,
    store: StoreOption = STORE,
    data: Annotated[
        Path | None, typer.Option("--data", metavar="FOLDER", help="Data set or export in place of the recipe's.")
    ] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="SECTION.FIELD=VALUE", help="Value on top of the recipe.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Check what can be known before an hour of training, and say what to do.

    One line a check: ok, warning or failed, what was found, what to do. Status 1 if one failed. Changes nothing.

    Example: notellm2 doctor --recipe recipes/sample.yaml
    """
    from notellm2.doctor.all_checks import examine
    from notellm2.doctor.check import exit_status
    from notellm2.printable import printable
    from notellm2.recipe import load_recipe
    from notellm2.workspace import Workspace

    followed = load_recipe(recipe, tuple(overrides or ())) if recipe else None
    checks = []
    for check in examine(followed, Workspace.at(store), data):
        checks.append(check)
        if not as_json:
            typer.echo(printable(check.line()))
    if as_json:
        print_json([asdict(check) for check in checks])
    raise typer.Exit(exit_status(checks))
