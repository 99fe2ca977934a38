"""What the commands share: options, the store they name, and JSON for programs."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from notellm2.errors import InputError

if TYPE_CHECKING:
    from notellm2.artifacts import Store

StoreOption = Annotated[Path, typer.Option("--store", help="Folder with artifacts, runs and published indexes.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
STORE = Path("store")
"""The store where none is named."""


def group(about: str) -> typer.Typer:
    """Make a group of commands that prints its help when it is called without one."""
    return typer.Typer(help=about, no_args_is_help=True)


def open_store(root: Path) -> Store:
    """Open the artifact store of a folder that must be there.

    Raises:
        InputError: there is no such folder.
    """
    from notellm2.artifacts import Store

    if not root.is_dir():
        raise InputError(f"store {root}: no such folder; a retraining makes it, or name another with --store")
    return Store(root)


def print_json(value: Any) -> None:
    """Print a JSON value on standard output, in ASCII where its encoding lacks a character."""
    text = json.dumps(value, indent=2, ensure_ascii=False)
    try:
        text.encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        text = json.dumps(value, indent=2)
    typer.echo(text)
