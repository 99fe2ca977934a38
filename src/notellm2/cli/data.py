"""Commands that make, import and version data sets."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from notellm2.cli.options import JsonOption, group, print_json
from notellm2.errors import InputError
from notellm2.printable import printable

data_commands = group("Data versions: what a training run can name and get back.")

RemoteOption = Annotated[str | None, typer.Option(help="Name of the DVC remote; the default one when not given.")]
DataArgument = Annotated[Path, typer.Argument(help="The data set's folder.")]
_DATA = Path("data")


def sample(
    directory: Annotated[Path, typer.Argument(help="Folder to write the raw export to; must not exist yet.")],
    notes: Annotated[int, typer.Option(help="Number of notes.")] = 2000,
    users: Annotated[int, typer.Option(help="Number of users.")] = 3000,
    seed: Annotated[int, typer.Option(help="Seed; the same seed gives the same bytes.")] = 7,
) -> None:
    """Write a generated raw export: notes with drawn images, and a week of behaviour.

    Example: notellm2 sample raw/sample --notes 2000 --users 3000
    """
    from pydantic import ValidationError

    from notellm2.recipe import SampleConfig
    from notellm2.sample.generate import write_sample

    try:
        config = SampleConfig(notes=notes, users=users, seed=seed)
    except ValidationError as error:
        lines = [f"--{e['loc'][0]}: {e['msg']}, found {e['input']}" for e in error.errors()]
        raise InputError("; ".join(lines)) from None
    write_sample(directory, config)
    typer.echo(f"{directory}: {notes} notes, {users} users; next: notellm2 import {directory} --into data")


def import_(
    export: Annotated[Path, typer.Argument(help="Folder with notes.*, interactions.* and images.")],
    into: Annotated[Path, typer.Option("--into", help="Data set folder to make or replace.")],
    name: Annotated[str | None, typer.Option(help="Name of the data set; the folder's when not given.")] = None,
    licence: Annotated[str | None, typer.Option(help="Licence of the data, written into dataset.json.")] = None,
    max_bytes: Annotated[int, typer.Option(help="Largest encoded image, bytes.")] = 8_000_000,
    max_pixels: Annotated[int, typer.Option(help="Largest decoded image, pixels.")] = 40_000_000,
) -> None:
    """Read a plain export into a data set; what cannot be used is counted, located and quarantined.

    Example: notellm2 import raw/sample --into data
    """
    from notellm2.notes.import_export import import_export
    from notellm2.recipe import ImageLimits

    if max_bytes < 1 or max_pixels < 1:
        raise InputError("--max-bytes and --max-pixels: expected at least 1")
    limits = ImageLimits(max_bytes=max_bytes, max_pixels=max_pixels)
    report = import_export(export, into, limits=limits, name=name, licence=licence)
    typer.echo(printable(report.render(), lines=True))


@data_commands.command()
def pin(directory: DataArgument = _DATA) -> None:
    """Record the data set's version in <folder>.dvc, which goes into git.

    Example: notellm2 data pin data
    """
    from notellm2.notes import versions

    typer.echo(f"{directory}: pinned {versions.pin(directory)}")


@data_commands.command()
def pull(directory: DataArgument = _DATA, remote: RemoteOption = None) -> None:
    """Fetch the pinned version from the DVC remote.

    Example: notellm2 data pull data
    """
    from notellm2.notes import versions

    typer.echo(f"{directory}: {versions.pull(directory, remote)}")


@data_commands.command()
def push(directory: DataArgument = _DATA, remote: RemoteOption = None) -> None:
    """Send the pinned version to the DVC remote.

    Example: notellm2 data push data
    """
    from notellm2.notes import versions

    typer.echo(f"{directory}: stored {versions.push(directory, remote)}")


@data_commands.command(name="status")
def data_status(directory: DataArgument = _DATA, as_json: JsonOption = False) -> None:
    """Compare the data set on disk with the pinned version; status 1 when they differ.

    Example: notellm2 data status data
    """
    from notellm2.notes import versions

    status = versions.status(directory)
    if as_json:
        print_json({"path": str(directory), "current": status.current, "pinned": status.pinned, "clean": status.clean})
    elif status.clean:
        typer.echo(f"{directory}: {status.current}, as pinned")
    else:
        current, pinned = status.current or "nothing there", status.pinned or "nothing"
        advice = "pin" if status.current else "pull"
        typer.echo(f"{directory}: {current}, pinned is {pinned}; next: notellm2 data {advice} {directory}")
    if not status.clean:
        raise typer.Exit(1)
