"""Make a backup while everything runs.

What must agree is small: the alias in MLflow's database, the published pointer, the promotion's journal and its ledger.
They are taken under the promotion's lease, as of one moment: a snapshot of each database is opened and the pointers are
read, then the lease is given back, so that a promotion waits for a second, never for a dump.

Everything else never changes once it is written, and is written before anything names it: an artifact before its run,
a run's files before its version, an index before the pointer. So the databases come first and the files after them;
the other way round a database could name files that came too late for the copy. What a database does not name yet is
there in excess, and does no harm. What is removed meanwhile (by a clean-up or by retention) is old: if it is what the
pointer names after all, there is no backup.
"""

from __future__ import annotations

import contextlib
import io
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

from notellm2.artifacts import MANIFEST, Store
from notellm2.errors import InputError
from notellm2.promotion.journal import JOURNAL, hold
from notellm2.publication.location import RECORD
from notellm2.publication.pointer import POINTER, Publication, parse_publication
from notellm2.stack.backup.archive import Archive, Progress, silent
from notellm2.stack.backup.manifest import Beside, Content, Dump, Manifest, Saved, write_files, write_manifest
from notellm2.stack.backup.scope import DATABASES, POINTERS, PUBLISHED, STORE, Scope
from notellm2.stack.backup.storage import Entry, Storage

LEASE_S = 60.0
"""Seconds after which others take the promotion's lease over from a backup that died under it."""
WAIT_S = 90.0
"""Seconds to wait for a promotion that is under way."""
_WORKERS = 8


@dataclass(frozen=True)
class Moment:
    """What was taken under the lease.

    Attributes:
        at: when.
        pointers: the small objects by name.
        snapshots: what each database held, by its name.
        postgresql: version of the server.
    """

    at: datetime
    pointers: dict[str, bytes]
    snapshots: dict[str, str]
    postgresql: int


def save(scope: Scope, archive: Archive, progress: Progress = silent) -> Manifest:
    """Make a backup; see the module.

    Args:
        scope: what to back up.
        archive: where to; what it has already is not read or copied again.
        progress: see `archive.Progress`.

    Returns:
        Its manifest; `Manifest.problems` says what is damaged at its source.

    Raises:
        InputError: a server does not answer, another backup is at work in the folder, or what the pointer names was
            removed meanwhile.
        LeaseTaken: a promotion did not end within `WAIT_S`.
        OSError: a file, database or object store failed, or the disk is full.
    """
    started = time.monotonic()
    with archive.lock("a backup"):
        name = _new_name(archive)
        known = _known(archive)
        with archive.new_backup(name) as folder:
            with _moment(scope) as moment:
                dumps = _dump(scope, moment, folder, progress)
            files = list(_copy(scope, archive, known, progress))
            files += [_pointer(archive, *pointer) for pointer in moment.pointers.items()]
            publication = _publication(scope, moment.pointers, files)
            manifest = Manifest(
                name=name,
                created=moment.at.isoformat(timespec="seconds"),
                seconds=round(time.monotonic() - started, 3),
                versions=_versions(moment),
                champion=publication.model_version if publication else None,
                publication=publication.version if publication else None,
                databases=tuple(dumps),
                places=_contents(scope, files),
                left_out=scope.left_out,
                problems=tuple(_damaged_artifacts(scope, files)),
                files=write_files(folder, files),
            )
            return write_manifest(folder, manifest)


@contextlib.contextmanager
def _moment(scope: Scope) -> Iterator[Moment]:
    """The moment, for as long as the block lasts; the lease is held for a small part of it."""
    location = scope.published
    with contextlib.ExitStack() as stack:
        with hold(location, "taking a backup's snapshot", lease_s=LEASE_S, wait_s=WAIT_S) as held:
            snapshots = {name: stack.enter_context(scope.server.snapshot(name)) for name in DATABASES}
            pointers = {name: stored.data for name in POINTERS if (stored := location.read(name)) is not None}
            held.renew()  # Proves that nobody took it over meanwhile: the moment is one.
        try:
            # As it is while nobody holds the lease; an intent that a killed promotion left stays.
            journal = {**json.loads(pointers[JOURNAL]), "lease": None}
        except (ValueError, TypeError) as error:
            raise InputError(f"{location}/{JOURNAL}: not readable as the promotion's journal ({error})") from None
        pointers[JOURNAL] = json.dumps(journal, indent=2).encode() + b"\n"
        yield Moment(datetime.now(UTC), pointers, snapshots, scope.server.facts(DATABASES[0]).version)


def _dump(scope: Scope, moment: Moment, folder: Path, progress: Progress) -> list[Dump]:
    dumps = []
    for database, snapshot in moment.snapshots.items():
        progress(f"database {database}", 0, 0)
        path = folder / f"{database}.dump"
        scope.server.dump(database, snapshot, path)
        dumps.append(Dump(database=database, beside=Beside.of(path)))
    return dumps


def _copy(
    scope: Scope, archive: Archive, known: Mapping[tuple[str, str], Saved], progress: Progress
) -> Iterator[Saved]:
    """Copy the files of all storages that the archive does not have, several at a time."""

    def copy(item: tuple[str, Storage, Entry]) -> Saved | None:
        name, storage, entry = item
        earlier = known.get((name, entry.name))
        same = earlier and (earlier.size, earlier.mark) == (entry.size, entry.mark)
        if earlier and same and archive.has(earlier.sha256, earlier.size):
            return earlier
        try:
            with storage.open(entry.name) as (stream, about):
                sha256, size = archive.add(stream)
        except FileNotFoundError:
            return None  # A clean-up removed it meanwhile.
        return Saved(name, entry.name, sha256, size, entry.mark, about)

    listed = []
    for name, storage in scope.storages.items():
        progress(f"listing {storage}", 0, 0)
        listed += [(name, storage, entry) for entry in scope.entries(name)]
    with ThreadPoolExecutor(_WORKERS) as pool:
        for number, saved in enumerate(pool.map(copy, listed), 1):
            progress("copying", number, len(listed))
            if saved is not None:
                yield saved


def _known(archive: Archive) -> dict[tuple[str, str], Saved]:
    """The newest backup's files; none where it cannot be read: then every file is read anew."""
    try:
        return {(saved.place, saved.name): saved for saved in archive.files(archive.manifest(archive.choose()))}
    except InputError:
        return {}


def _pointer(archive: Archive, name: str, data: bytes) -> Saved:
    sha256, size = archive.add(io.BytesIO(data))
    return Saved(PUBLISHED, name, sha256, size, "", {})


def _publication(scope: Scope, pointers: Mapping[str, bytes], files: Sequence[Saved]) -> Publication | None:
    """What the pointer names, if anything; all of its files are among those saved."""
    if POINTER not in pointers:
        return None
    storage, prefix = scope.versions
    publication = parse_publication(pointers[POINTER], f"{scope.published}/{POINTER}")
    saved = {file.name: file.sha256 for file in files if file.place == storage}
    top = f"{prefix}{publication.folder}"
    wrong = [f"{top}/{name}" for name, file in publication.files.items() if saved.get(f"{top}/{name}") != file.sha256]
    wrong += [] if f"{top}/{RECORD}" in saved else [f"{top}/{RECORD}"]
    if wrong:
        raise InputError(
            f"{scope.published}: of the published index {publication.version} these files are missing or not what was "
            f"published: {', '.join(wrong)}; no backup was made. Where it was removed meanwhile run it again, else "
            "`notellm2 rollback`"
        )
    return publication


def _damaged_artifacts(scope: Scope, files: Sequence[Saved]) -> Iterator[str]:
    """Files that are not what the manifest of their artifact names; artifacts that were removed meanwhile aside."""
    saved = {file.name: file.sha256 for file in files if file.place == STORE}
    for artifact in Store(scope.workspace.root).artifacts():
        top = f"{artifact.stage}/{artifact.key}"
        # One that cannot be read as an artifact is none, and its stage makes it again.
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
            for name, expected in artifact.manifest["files"].items() if f"{top}/{MANIFEST}" in saved else ():
                if saved.get(f"{top}/{name}") != expected["sha256"]:
                    yield f"{STORE}: {top}/{name}: missing, or its bytes are not those its manifest names"


def _contents(scope: Scope, files: Sequence[Saved]) -> dict[str, Content]:
    urls = {**{name: str(storage) for name, storage in scope.storages.items()}, PUBLISHED: str(scope.published)}
    sizes = {name: [file.size for file in files if file.place == name] for name in urls}
    return {name: Content(where=url, files=len(sizes[name]), size=sum(sizes[name])) for name, url in urls.items()}


def _versions(moment: Moment) -> dict[str, str]:
    versions = {name: metadata.version(name) for name in ("notellm2", "mlflow", "prefect")}
    return {**versions, "postgresql": f"{moment.postgresql // 10_000}.{moment.postgresql % 10_000}"}


def _new_name(archive: Archive) -> str:
    """The present second; sorted by name, backups are sorted by time."""
    names = archive.names()
    name = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    if names and name <= names[-1]:
        raise InputError(
            f"{archive.root}: the newest backup is {names[-1]}, and by this machine's clock it is {name} now; wait a "
            "second, or correct the clock"
        )
    return name
