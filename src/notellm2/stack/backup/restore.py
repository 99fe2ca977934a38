"""Bring a backup back.

Everything that could speak against it is looked at before anything is changed: every byte of the backup, whether the
programs here know its schemas, whether the target is empty. Then files, databases and pointers, in this order: what
readers follow moves last, when all it leads to is there. A restore that was killed is simply begun again: it goes on
where it was, because files that are there are left alone and a database is replaced in one transaction.

Nothing is removed but what the databases held. Files of the target that the backup does not have stay: no artifact, run
or pointer names them any more.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import threading
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from typing import NamedTuple

from notellm2.artifacts import write_atomic
from notellm2.errors import InputError
from notellm2.publication.location import Moved
from notellm2.stack.backup import databases
from notellm2.stack.backup.archive import Archive, Progress, silent
from notellm2.stack.backup.installation import DVC, PINS, POINTERS, PUBLISHED, Installation
from notellm2.stack.backup.manifest import Manifest, Saved
from notellm2.stack.backup.places import Place, put_order

MARK = ".restoring.json"
"""In the store while a restore is under way: names the backup, so that it may go on in a target that is not empty."""
_WORKERS = 8
_SHOWN = 10


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


def verify(archive: Archive, name: str | None = None, progress: Progress = silent) -> Manifest:
    """Read every byte of a backup.

    Args:
        archive: where it is.
        name: of the backup; None: the newest.
        progress: see `archive.Progress`.

    Raises:
        InputError: something is missing or damaged; names it.
    """
    manifest = archive.manifest(archive.choose(name))
    problems = archive.problems(manifest, progress)
    if problems:
        more = f"\n... and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        raise InputError(
            f"backup {manifest.name} is damaged, nothing was touched:\n" + "\n".join(problems[:_SHOWN]) + more
        )
    return manifest


def restore(
    installation: Installation,
    archive: Archive,
    name: str | None = None,
    *,
    replace: bool = False,
    progress: Progress = silent,
) -> Restored:
    """Bring a backup back; see the module.

    Args:
        installation: where to; its servers other than PostgreSQL must not run.
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
        manifest = verify(archive, name, progress)
        _check_fit(installation, archive, manifest)
        _check_schemas(manifest)
        _check_databases(installation, manifest)
        _check_pointers(installation, archive.files(manifest))
        if not (replace or _begun(installation) == manifest.digest):
            _check_empty(installation, manifest, archive.files(manifest))
        # Only now: the lock makes the store's folder where it is missing.
        with installation.workspace.exclusive("restoring a backup"):
            return _bring_back(installation, archive, manifest, progress)


def _bring_back(installation: Installation, archive: Archive, manifest: Manifest, progress: Progress) -> Restored:
    mark = installation.workspace.root / MARK
    write_atomic(mark, json.dumps({"backup": manifest.name, "digest": manifest.digest}) + "\n")
    files = archive.files(manifest)
    placed = [file for file in files if file.place != PUBLISHED]
    written = _put(installation, archive, placed, progress)
    for number, dump in enumerate(manifest.databases):
        progress(f"database {dump.database}", number, len(manifest.databases))
        databases.load(installation.server, dump.database, archive.dump_path(manifest, dump))
    _point(installation, archive, files)
    mark.unlink()
    return Restored(manifest, written, len(placed) - written)


def known_revisions() -> set[str]:
    """Names of the schema revisions that the installed MLflow and Prefect know, from the names of their files."""
    found: set[str] = set()
    for package in ("mlflow", "mlflow-skinny", "prefect"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            for path in metadata.files(package) or ():
                if "versions" in path.parts and path.suffix == ".py":
                    found |= set(re.findall(r"[0-9a-f]{12}", path.name))
    return found


def _check_fit(installation: Installation, archive: Archive, manifest: Manifest) -> None:
    """The target has a place for everything, and its roles; the programs here read the dumps."""
    missing = [
        f"{name} ({place.where}, {place.files} files)"
        for name, place in manifest.places.items()
        if place.files and name != PUBLISHED and name not in installation.places
    ]
    missing += [
        f"database {dump.database}" for dump in manifest.databases if dump.database not in installation.databases
    ]
    if missing:
        raise InputError(
            f"backup {manifest.name} holds what this set-up has no place for: {', '.join(missing)}; nothing was "
            "touched: see that S3_ENDPOINT_URL, S3_BUCKET and DVC's remote are set as they were"
        )
    for dump in manifest.databases:
        databases.check_dump(installation.server, archive.dump_path(manifest, dump))


def _check_schemas(manifest: Manifest) -> None:
    """Nothing in the backup is newer than the programs that are to work with it."""
    known = known_revisions()
    newer = [
        f"{dump.database} (revision {revision} in {table})"
        for dump in manifest.databases
        for table, revisions in dump.schemas.items()
        for revision in revisions.split(",")
        if revision and revision not in known
    ]
    if newer:
        was = ", ".join(f"{name} {version}" for name, version in manifest.versions.items())
        here = ", ".join(f"{name} {metadata.version(name)}" for name in ("mlflow", "prefect"))
        raise InputError(
            f"backup {manifest.name} has a newer schema than the programs here know: {', '.join(newer)}; it was made "
            f"with {was}, here is {here}. Nothing was touched: restore it with that release or a newer one"
        )


def _check_databases(installation: Installation, manifest: Manifest) -> None:
    """The databases are there, of a server new enough, with their owners, and nobody uses them."""
    was = int(manifest.versions.get("postgresql", "0").partition(".")[0])
    for dump in manifest.databases:
        with installation.server.connected(dump.database) as connection:
            facts = databases.facts_of(connection)
            if facts.version // 10_000 < was:
                raise InputError(
                    f"{installation.server}: is version {facts.version // 10_000}, the backup is of version {was}; "
                    "nothing was touched: use a server of that version or a newer one"
                )
            if dump.owner not in databases.roles(connection):
                raise InputError(
                    f"{installation.server}: has no role {dump.owner!r}, which owns database {dump.database!r} in the "
                    "backup; nothing was touched: let the stack make databases and roles first (docs/operations.md)"
                )
            if facts.sessions:
                raise InputError(
                    f"{installation.server}: database {dump.database!r} is in use by {', '.join(facts.sessions)}; "
                    "nothing was touched: stop everything but PostgreSQL first (docs/operations.md)"
                )


def _check_pointers(installation: Installation, files: Sequence[Saved]) -> None:
    """What readers follow, and the record of it, is replaced, never taken away."""
    saved = {file.name for file in files if file.place == PUBLISHED}
    extra = [name for name in POINTERS if name not in saved and installation.published.read(name) is not None]
    if extra:
        raise InputError(
            f"{installation.published}: has {', '.join(extra)}, and the backup is of a time before that; nothing was "
            "touched: remove them by hand, if readers may find nothing there, or choose a later backup (--list)"
        )


def _check_empty(installation: Installation, manifest: Manifest, files: Sequence[Saved]) -> None:
    """What would be replaced is asked for first. What DVC keeps is named by its content: nothing of it is replaced."""
    held = []
    for dump in manifest.databases:
        with installation.server.connected(dump.database) as connection:
            tables = databases.facts_of(connection).tables
            held += [f"database {dump.database} ({tables} tables)"] if tables else []
    for name, place in installation.places.items():
        if name == PINS:
            held += [f"{place}/{file.name}" for file in files if file.place == PINS and _is_other(place, file)]
        elif not (name.startswith(DVC) or place.is_empty()):
            held.append(f"{name} ({place})")
    held += [f"{installation.published}/{name}" for name in POINTERS if installation.published.read(name) is not None]
    if held:
        raise InputError(
            f"the target is not empty: {', '.join(held)}; nothing was touched. With --replace the databases and the "
            "pointer become those of the backup, and files are added to those that are there"
        )


def _is_other(place: Place, file: Saved) -> bool:
    """Whether a file of that name is there and is not the same: a project's checkout holds its pins already."""
    try:
        with place.open(file.name) as opened:
            return hashlib.sha256(opened.stream.read()).hexdigest() != file.sha256
    except FileNotFoundError:
        return False


def _begun(installation: Installation) -> str | None:
    """Digest of the backup that a killed restore was bringing back."""
    try:
        return str(json.loads((installation.workspace.root / MARK).read_text())["digest"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _put(installation: Installation, archive: Archive, files: Sequence[Saved], progress: Progress) -> int:
    """Bring the files of all places back, several at a time; the number of those written."""
    lock, done, total = threading.Lock(), 0, sum(file.size for file in files)

    def put(file: Saved) -> bool:
        nonlocal done
        place = installation.places[file.place]
        new = place.put(file.name, archive.blob(file.sha256), file.sha256, file.about)
        with lock:
            done += file.size
            progress("restoring files", done, total)
        return new

    written = 0
    with ThreadPoolExecutor(_WORKERS) as pool:
        for complete in (False, True):
            # What makes a folder complete waits until every other file is there.
            written += sum(pool.map(put, (file for file in files if put_order(file.name)[0] is complete)))
    return written


def _point(installation: Installation, archive: Archive, files: Iterable[Saved]) -> None:
    """Write the pointers, what readers follow last."""
    saved = {file.name: file for file in files if file.place == PUBLISHED}
    for name in POINTERS:
        if name in saved:
            data = archive.blob(saved[name].sha256).read_bytes()
            while True:
                stored = installation.published.read(name)
                with contextlib.suppress(Moved):
                    installation.published.swap(name, data, None if stored is None else stored.tag)
                    break
