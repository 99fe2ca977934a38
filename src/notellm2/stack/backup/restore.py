"""Bring a backup back.

Everything that could speak against it is looked at before anything is changed: every byte of the backup, whether the
programs here are as new as those it was made with, whether the target is empty. Then files, databases and pointers, in
this order: what readers follow moves last, when all it leads to is there. A restore that was killed is run again, with
``--replace``: it goes on where it was, because files that are there are left alone and a database is replaced in one
transaction.

Nothing is removed but what the databases held. Files of the target that the backup does not have stay: no artifact, run
or pointer names them any more.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import PurePosixPath
from typing import NamedTuple

from packaging.version import Version

from notellm2.artifacts import MANIFEST
from notellm2.errors import InputError
from notellm2.publication.location import RECORD, Moved
from notellm2.stack.backup.archive import Archive, Progress, silent
from notellm2.stack.backup.manifest import Manifest, Saved
from notellm2.stack.backup.scope import DATABASES, DVC, PINS, POINTERS, PUBLISHED, Scope
from notellm2.stack.backup.storage import Storage

_WORKERS = 8


class Restored(NamedTuple):
    """What a restore did.

    Attributes:
        manifest: of the backup.
        written: number of files written.
        present: number of files that were there already.
    """

    manifest: Manifest
    written: int
    present: int


def restore(
    scope: Scope, archive: Archive, name: str | None = None, *, replace: bool = False, progress: Progress = silent
) -> Restored:
    """Bring a backup back; see the module.

    Args:
        scope: where to; its servers other than PostgreSQL must not run.
        archive: where the backup is.
        name: of the backup; None: the newest.
        replace: whether what the target holds may be replaced.
        progress: see `archive.Progress`.

    Raises:
        InputError: the backup is damaged, newer than what is installed, or does not fit the target; the target is in
            use, or not empty and `replace` is false. Nothing was touched.
        OSError: a file, database or object store failed; run it again, it goes on where it was.
    """
    with archive.lock("a restore"):
        manifest = archive.verify(name, progress)
        files = archive.files(manifest)
        _check_fit(scope, archive, manifest)
        tables = _check_databases(scope, manifest)
        _check_pointers(scope, files)
        if not replace:
            _check_empty(scope, tables, files)
        # Only now: the lock makes the store's folder where it is missing.
        with scope.workspace.exclusive("restoring a backup"):
            stored = [file for file in files if file.place != PUBLISHED]
            written = _put_files(scope, archive, stored, progress)
            for dump in manifest.databases:
                progress(f"database {dump.database}", 0, 0)
                scope.server.load(dump.database, archive.dump_path(manifest, dump))
            _put_pointers(scope, archive, files)
    return Restored(manifest, written, len(stored) - written)


def _check_fit(scope: Scope, archive: Archive, manifest: Manifest) -> None:
    """The target has a storage for everything, and nothing is newer than the programs that are to work with it."""
    missing = [
        f"{name} ({content.where}, {content.files} files)"
        for name, content in manifest.places.items()
        if content.files and name != PUBLISHED and name not in scope.storages
    ]
    missing += [f"database {dump.database}" for dump in manifest.databases if dump.database not in DATABASES]
    if missing:
        raise InputError(
            f"backup {manifest.name} holds what this set-up has no place for: {', '.join(missing)}; nothing was "
            "touched: see that S3_ENDPOINT_URL, S3_BUCKET and DVC's remote are set as they were"
        )
    for program in ("mlflow", "prefect"):
        was, here = manifest.versions.get(program, "0"), metadata.version(program)
        if Version(was) > Version(here):
            raise InputError(
                f"backup {manifest.name} was made with {program} {was}, here is {here}, which may not know its tables. "
                "Nothing was touched: restore it with that release or a newer one"
            )
    for dump in manifest.databases:
        scope.server.check_dump(archive.dump_path(manifest, dump))


def _check_databases(scope: Scope, manifest: Manifest) -> dict[str, int]:
    """The databases are of a server new enough, and nobody uses them; the number of tables of each."""
    was = int(manifest.versions.get("postgresql", "0").partition(".")[0])
    tables = {}
    for dump in manifest.databases:
        facts = scope.server.facts(dump.database)
        if facts.version // 10_000 < was:
            raise InputError(
                f"{scope.server}: is version {facts.version // 10_000}, the backup is of version {was}; nothing was "
                "touched: use a server of that version or a newer one"
            )
        if facts.sessions:
            raise InputError(
                f"{scope.server}: database {dump.database!r} is in use by {', '.join(facts.sessions)}; nothing was "
                "touched: stop everything but PostgreSQL first (docs/guides/back-up-and-restore.md)"
            )
        tables[dump.database] = facts.tables
    return tables


def _check_pointers(scope: Scope, files: Sequence[Saved]) -> None:
    """What readers follow, and the record of it, is replaced, never taken away."""
    saved = {file.name for file in files if file.place == PUBLISHED}
    extra = [name for name in POINTERS if name not in saved and scope.published.read(name) is not None]
    if extra:
        raise InputError(
            f"{scope.published}: has {', '.join(extra)}, and the backup is of a time before that; nothing was touched: "
            "remove them by hand, if readers may find nothing there, or choose a later backup (--list)"
        )


def _check_empty(scope: Scope, tables: dict[str, int], files: Sequence[Saved]) -> None:
    """What would be replaced is asked for first. What DVC keeps is named by its content: nothing of it is replaced."""
    held = [f"database {name} ({count} tables)" for name, count in tables.items() if count]
    for name, storage in scope.storages.items():
        if name == PINS:
            held += [f"{storage}/{file.name}" for file in files if file.place == PINS and _is_other(storage, file)]
        elif not name.startswith(DVC) and next(scope.entries(name), None):
            held.append(f"{name} ({storage})")
    held += [f"{scope.published}/{name}" for name in POINTERS if scope.published.read(name) is not None]
    if held:
        raise InputError(
            f"the target is not empty: {', '.join(held)}; nothing was touched. With --replace the databases and the "
            "pointer become those of the backup, and files are added to those that are there; so a restore that was "
            "interrupted goes on"
        )


def _is_other(storage: Storage, file: Saved) -> bool:
    """Whether a file of that name is there and is not the same: a project's checkout holds its pins already."""
    try:
        with storage.open(file.name) as (stream, _):
            return hashlib.sha256(stream.read()).hexdigest() != file.sha256
    except FileNotFoundError:
        return False


def _put_files(scope: Scope, archive: Archive, files: Sequence[Saved], progress: Progress) -> int:
    """Bring the files of all storages back, several at a time; the number of those written."""

    def put(file: Saved) -> bool:
        return scope.storages[file.place].put(file.name, archive.blob(file.sha256), file.sha256, file.about)

    written = done = 0
    with ThreadPoolExecutor(_WORKERS) as pool:
        # What makes a folder complete waits until every other file is there.
        for last in (False, True):
            batch = [file for file in files if (PurePosixPath(file.name).name in (MANIFEST, RECORD)) is last]
            for new in pool.map(put, batch):
                written, done = written + new, done + 1
                progress("restoring files", done, len(files))
    return written


def _put_pointers(scope: Scope, archive: Archive, files: Iterable[Saved]) -> None:
    """Write the pointers, what readers follow last."""
    saved = {file.name: file for file in files if file.place == PUBLISHED}
    for name in (name for name in POINTERS if name in saved):
        data = archive.blob(saved[name].sha256).read_bytes()
        while True:
            stored = scope.published.read(name)
            with contextlib.suppress(Moved):
                scope.published.swap(name, data, None if stored is None else stored.tag)
                break
