"""Commands that back a set-up up and bring it back.

Status 0: done. 1: done, but something is damaged at its source, or old backups could not be removed; or a promotion did
not end in time. 2: an argument or setting is wrong, and nothing was touched.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from notellm2.cli.options import JsonOption, print_json
from notellm2.cli.stack import COMPOSE, ENV, STATE, ComposeOption, EnvOption, StateOption, open_stack

if TYPE_CHECKING:
    from notellm2.stack.backup.archive import Archive
    from notellm2.stack.backup.manifest import Manifest
    from notellm2.stack.backup.scope import Scope

DirectoryArgument = Annotated[Path, typer.Argument(help="Folder of backups.")]
_EVERY_S = 10.0
"""Seconds between two lines of progress where there is no terminal."""


def backup(
    directory: DirectoryArgument,
    keep: Annotated[int | None, typer.Option(min=1, help="Then remove all but the newest; else none is.")] = None,
    env: EnvOption = ENV,
    compose: ComposeOption = COMPOSE,
    state: StateOption = STATE,
    as_json: JsonOption = False,
) -> None:
    """Save databases, object store, artifacts and pointer as of one moment, while everything runs.

    What the folder has already is not copied again. Secrets (.env) are not in it.

    Example: notellm2 stack backup /backups/notellm2 --keep 14
    """
    from notellm2.errors import InputError
    from notellm2.promotion.journal import LeaseLost, LeaseTaken
    from notellm2.stack.backup.archive import Archive
    from notellm2.stack.backup.save import save

    archive = Archive(directory)
    try:
        manifest = save(_scope(env, compose, state), archive, _Shown())
    except (LeaseTaken, LeaseLost) as error:
        typer.echo(f"refused: {error}; no backup was made", err=True)
        raise typer.Exit(1) from None
    removed, wrong = [], [f"damaged: {problem}" for problem in manifest.problems]
    try:
        removed = archive.prune(keep) if keep else []
    except InputError as error:  # The new backup is complete all the same.
        wrong.append(f"not removed: {error}")
    if as_json:
        print_json({**manifest.model_dump(mode="json"), "removed": removed})
    else:
        _print(manifest)
        for name in removed:
            typer.echo(f"removed {name}")
    for line in wrong:
        typer.echo(line, err=True)
    if wrong:
        raise typer.Exit(1)


def restore(
    directory: DirectoryArgument,
    at: Annotated[str | None, typer.Option(help="Name of a backup; the newest when not given.")] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Replace what the target holds.")] = False,
    check: Annotated[bool, typer.Option("--check", help="Only verify the backup, every byte.")] = False,
    list_: Annotated[bool, typer.Option("--list", help="Only list the backups.")] = False,
    env: EnvOption = ENV,
    compose: ComposeOption = COMPOSE,
    state: StateOption = STATE,
    as_json: JsonOption = False,
) -> None:
    """Verify a backup, then bring it back; PostgreSQL and the object store must run, and nothing else.

    A restore that was interrupted is run again, with --replace, and goes on where it was.

    Example: notellm2 stack restore /backups/notellm2 --check
    """
    from notellm2.stack.backup.archive import Archive
    from notellm2.stack.backup.restore import restore as bring_back

    archive = Archive(directory)
    if list_:
        _list(archive, as_json)
        return
    if check:
        manifest = archive.verify(at, _Shown())
        if as_json:
            print_json(manifest.model_dump(mode="json"))
        else:
            _print(manifest)
            typer.echo("every byte is as it was written")
        return
    done = bring_back(_scope(env, compose, state), archive, at, replace=replace, progress=_Shown())
    if as_json:
        print_json({**done.manifest.model_dump(mode="json"), "written": done.written, "present": done.present})
        return
    _print(done.manifest)
    typer.echo(f"restored: {done.written} files written, {done.present} were there; now `notellm2 stack up`")


def _scope(env: Path, compose: Path, state: Path) -> Scope:
    """As .env and the compose file say; without .env, as in a container, as the environment says."""
    from notellm2.stack.backup.scope import read_scope

    if not env.exists():
        return read_scope(os.environ)
    environment = open_stack(env, compose, state).environment("backup")
    # The object store's client looks nowhere else.
    os.environ.update({name: value for name, value in environment.items() if name.startswith("AWS_")})
    return read_scope(environment)


def _list(archive: Archive, as_json: bool) -> None:
    manifests = [archive.manifest(name) for name in archive.names()]
    if as_json:
        print_json([manifest.model_dump(mode="json") for manifest in manifests])
        return
    for manifest in manifests:
        in_use = f"version {manifest.champion} in use" if manifest.champion else "nothing in use"
        flaw = f", {len(manifest.problems)} problem(s)" if manifest.problems else ""
        typer.echo(f"{manifest.name}  {manifest.size / 1e6:10.1f} MB  {in_use}{flaw}")
    typer.echo(f"{len(manifests)} backup(s) in {archive.root}")


def _print(manifest: Manifest) -> None:
    typer.echo(f"backup {manifest.name}, {manifest.size / 1e6:.1f} MB, made in {manifest.seconds:.1f} s")
    if manifest.champion:
        typer.echo(f"  in use     version {manifest.champion} with index {manifest.publication}")
    for dump in manifest.databases:
        typer.echo(f"  database   {dump.database}: {dump.beside.size / 1e6:.1f} MB")
    for name, place in manifest.places.items():
        typer.echo(f"  {name:10s} {place.where}: {place.files} files, {place.size / 1e6:.1f} MB")
    for line in manifest.left_out:
        typer.echo(f"  not in it  {line}")


class _Shown:
    """Progress on standard error: one line that is written over on a terminal, else a line now and then."""

    def __init__(self) -> None:
        self._terminal = sys.stderr.isatty()
        self._what, self._at = "", 0.0

    def __call__(self, what: str, done: int, total: int) -> None:
        """See `archive.Progress`."""
        now = time.monotonic()
        ended = done == total
        if what == self._what and not ended and now - self._at < (0.2 if self._terminal else _EVERY_S):
            return
        self._what, self._at = what, now
        line = f"{what} {done} of {total} files" if total else what
        typer.echo(f"\r\033[K{line}" if self._terminal else line, err=True, nl=ended or not self._terminal)
