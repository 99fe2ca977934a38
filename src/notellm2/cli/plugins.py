"""Commands that other packages bring, found by entry points, so that the library need not know them.

The flows are such a package: ``retrain`` and the others are entry points of the group `GROUP`, each a function as
typer takes it. One is imported when it is called, or when the help lists it, and not before.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points
from typing import Any

import typer
from typer.core import TyperGroup

from notellm2.errors import InputError

GROUP = "notellm2.commands"
_REINSTALL = "install the project again (pip install -e . in the checkout)"


class CommandGroup(TyperGroup):
    """The commands of the library, and before them those that are installed beside it."""

    def list_commands(self, ctx: Any) -> list[str]:
        """List the commands' names in the order of the help."""
        own = super().list_commands(ctx)
        return [*(name for name in installed() if name not in own), *own]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Find a command by its name; None: there is none.

        Raises:
            InputError: the name is none of ours, and nothing is installed beside us: likely an installation that is
                older than the code.
        """
        own = super().get_command(ctx, cmd_name)
        if own is not None:
            # A person waits: some 12 s for a server that is away, not the minutes that a flow sits out.
            os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")
            return own
        plugins = installed()
        if cmd_name in plugins:
            return _command(cmd_name, _load(plugins[cmd_name]))
        if not plugins and not cmd_name.startswith("-"):
            raise InputError(f"no command {cmd_name!r}: the commands of the flows are not installed; {_REINSTALL}")
        return None


def installed() -> dict[str, EntryPoint]:
    """Find entry points by command name; of two installations with one name, the first on Python's path counts."""
    plugins: dict[str, EntryPoint] = {}
    for point in entry_points(group=GROUP):
        plugins.setdefault(point.name, point)
    return dict(sorted(plugins.items()))


def _load(point: EntryPoint) -> Callable[..., Any]:
    """The function of an entry point; where it cannot be imported one that says so, and the other commands work."""
    try:
        function: Callable[..., Any] = point.load()
    except (ImportError, AttributeError) as error:
        problem = f"command {point.name!r} ({point.value}) cannot be loaded: {error}; {_REINSTALL}"

        def function() -> None:
            raise InputError(problem)

        function.__doc__ = "(cannot be loaded)"
    return function


def _command(name: str, function: Callable[..., Any]) -> Any:
    app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
    app.command(name=name)(function)
    return typer.main.get_command(app)
