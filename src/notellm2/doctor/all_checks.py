"""All checks in order, and the few of them that a retraining begins with."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from notellm2.doctor import machine, places, recipe_fit, servers
from notellm2.doctor.check import Check
from notellm2.errors import InputError
from notellm2.recipe import Recipe
from notellm2.workspace import Workspace

_DATA = Path("data")


def examine(recipe: Recipe | None, workspace: Workspace, named: Path | None = None) -> Iterator[Check]:
    """Check everything, one after the other; what takes seconds comes last.

    Args:
        recipe: to follow; None: the machine alone.
        workspace: the store.
        named: a data set or export in place of the recipe's (``--data``).
    """
    yield from machine.check_versions()
    yield machine.check_clock(workspace)
    if recipe is not None:
        fit = recipe_fit.check_fit(recipe, named)
        yield from fit
        if not any(check.name == recipe_fit.DATA and check.status == "failed" for check in fit):
            yield recipe_fit.check_volumes(recipe, named)
        yield from places.check_rights(recipe, workspace, named)
        yield places.check_disk(recipe, workspace, named)
    else:
        yield places.check_writable("store", workspace.root)
    yield from machine.check_compute(recipe)
    yield from servers.check_servers(recipe, workspace)
    yield servers.check_remote(recipe.data.dir if recipe is not None else _DATA)


def require_ready(recipe: Recipe, workspace: Workspace, named: Path | None = None) -> list[str]:
    """Refuse a retraining that cannot end well, before it begins; reads no more than names and footers of files.

    What its first stages find themselves within minutes is left to them: the data checks, servers that may come back.

    Args:
        recipe: to follow.
        workspace: the store.
        named: a data set or export in place of the recipe's (``--data``).

    Returns:
        Warnings, a line each. Disk space is one of them: stages that are finished need none.

    Raises:
        InputError: a check failed; a line for each.
    """
    checks = [*recipe_fit.check_fit(recipe, named), *places.check_rights(recipe, workspace, named)]
    failed = [check.line() for check in checks if check.status == "failed"]
    if failed:
        raise InputError("\n".join(["this retraining cannot end well (`notellm2 doctor` checks the same):", *failed]))
    checks.append(places.check_disk(recipe, workspace, named))
    return [check.line() for check in checks if check.status != "ok"]
