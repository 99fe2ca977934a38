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
import shutil
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

from notellm2.errors import InputError
from notellm2.promotion.journal import JOURNAL, hold
from notellm2.publication.location import RECORD
from notellm2.publication.pointer import POINTER, parse_publication
from notellm2.stack.backup import databases
from notellm2.stack.backup.archive import Archive, Progress, silent
from notellm2.stack.backup.databases import Facts, facts_of
from notellm2.stack.backup.installation import POINTERS, PUBLISHED, Installation, in_use, without_lease
from notellm2.stack.backup.manifest import Beside, Dump, Manifest, PlaceSummary, Saved, write_files, write_manifest
from notellm2.stack.backup.places import LAST, Listed, Place

LEASE_S = 60.0
"""Seconds after which others take the promotion's lease over from a backup that died under it."""
WAIT_S = 90.0
"""Seconds to wait for a promotion that is under way."""
_WORKERS = 8
_BATCH = 1000


class Moment(NamedTuple):
    """What was taken under the lease.

    Attributes:
        at: when.
        pointers: the small objects by name.
        snapshots: what each database's connection sees, by the database's name, for `pg_dump`.
        facts: of each database.
    """

    at: datetime
    pointers: dict[str, bytes]
    snapshots: dict[str, str]
    facts: dict[str, Facts]


def save(installation: Installation, archive: Archive, progress: Progress = silent) -> Manifest:
    """Make a backup; see the module.

    Args:
        installation: what to back up.
        archive: where to; what it has already is not read or copied again.
        progress: see `archive.Progress`.

    Returns:
        Its manifest; `Manifest.problems` says what could not be saved whole.

    Raises:
        InputError: a server does not answer, the disk is too small, another backup is at work in the folder, or what
            the pointer names was removed meanwhile.
        LeaseTaken: a promotion did not end within `WAIT_S`.
        OSError: a file, database or object store failed.
    """
    started = time.monotonic()
    with archive.lock("a backup"), contextlib.ExitStack() as open_snapshots:
        name = _new_name(archive)
        known = _known(archive)
        with archive.writing(name) as folder:
            moment = open_snapshots.enter_context(_moment(installation))
            dumps = _dumps(installation, moment, folder, progress)
            open_snapshots.close()
            files, problems = _Copy(archive, known, progress).run(installation.places)
            files += [_pointer(archive, *pointer) for pointer in moment.pointers.items()]
            _check_publication(installation, moment.pointers, files)
            champion, publication = in_use(moment.pointers, f"{installation.published}/{POINTER}")
            manifest = Manifest(
                name=name,
                created=moment.at.isoformat(timespec="seconds"),
                seconds=round(time.monotonic() - started, 3),
                versions=_versions(next(iter(moment.facts.values()), None)),
                champion=champion,
                publication=publication,
                databases=tuple(dumps),
                places=_summaries(installation, files),
                left_out=installation.left_out,
                problems=tuple(problems),
                files=write_files(folder, files),
            )
            return write_manifest(folder, manifest)


@contextlib.contextmanager
def _moment(installation: Installation) -> Iterator[Moment]:
    """The moment, for as long as the block lasts; the lease is held for a small part of it."""
    location = installation.published
    with contextlib.ExitStack() as stack:
        with hold(location, "taking a backup's snapshot", lease_s=LEASE_S, wait_s=WAIT_S) as held:
            snapshots, facts = {}, {}
            for database in installation.databases:
                connection = stack.enter_context(installation.server.connected(database))
                snapshots[database] = databases.export_moment(connection)
                facts[database] = facts_of(connection)
            pointers = {name: stored.data for name in POINTERS if (stored := location.read(name)) is not None}
            held.renew()  # Proves that nobody took it over meanwhile: the moment is one.
        pointers[JOURNAL] = without_lease(pointers[JOURNAL], f"{location}/{JOURNAL}")
        yield Moment(datetime.now(UTC), pointers, snapshots, facts)


def _dumps(installation: Installation, moment: Moment, folder: Path, progress: Progress) -> list[Dump]:
    dumps = []
    for number, (database, facts) in enumerate(moment.facts.items()):
        progress(f"database {database}", number, len(moment.facts))
        path = folder / f"{database}.dump"
        databases.dump(installation.server, database, moment.snapshots[database], path)
        dumps.append(Dump(database=database, owner=facts.owner, schemas=facts.schemas, beside=Beside.of(path)))
    return dumps


class _Copy:
    """Copies the files of all places, several at a time."""

    def __init__(self, archive: Archive, known: Mapping[tuple[str, str], Saved], progress: Progress) -> None:
        self._archive, self._known, self._progress = archive, known, progress
        self._done = self._total = 0
        self._lock = threading.Lock()
        self._problems: dict[str, list[str]] = {}

    def run(self, places: Mapping[str, Place]) -> tuple[list[Saved], list[str]]:
        """The files saved, and what could not be, a line each."""
        listed = []
        for name, place in places.items():
            self._progress(f"listing {place}", 0, 0)
            listed += [(name, place, entry) for entry in place.listed()]
        new = [entry.size for name, _, entry in listed if self._present(name, entry) is None]
        self._total = sum(new)
        self._check_space()
        saved: list[Saved] = []
        with ThreadPoolExecutor(_WORKERS) as pool:
            for start in range(0, len(listed), _BATCH):
                batch = listed[start : start + _BATCH]
                done = list(pool.map(self._one, batch))
                for (name, _, entry), result in zip(batch, done, strict=True):
                    if result is not None:
                        saved.append(result)
                    elif entry.group:
                        self._problems.setdefault(f"{name}:{entry.group}", [])
        groups = {(name, entry.name): f"{name}:{entry.group}" for name, _, entry in listed if entry.group}
        whole = [file for file in saved if groups.get((file.place, file.name)) not in self._problems]
        return whole, sorted(line for lines in self._problems.values() for line in lines)

    def _one(self, item: tuple[str, Place, Listed]) -> Saved | None:
        """Save one file; None where it is gone or not what it must be."""
        name, place, entry = item
        found = self._present(name, entry)
        if found is not None:
            return found
        try:
            with place.open(entry.name) as opened:
                sha256, size = self._archive.add(opened.stream, self._read)
                saved = Saved(name, entry.name, sha256, size, opened.mark, opened.about)
        except FileNotFoundError:
            self._missing(name, place, entry)
            return None
        if entry.sha256 is None:
            return saved
        if sha256 != entry.sha256:
            self._problem(name, entry, "its bytes are not those its manifest names")
            return None
        # What an artifact's files are is said by its manifest, not by a moment of the file system.
        return saved._replace(mark=entry.mark)

    def _missing(self, name: str, place: Place, entry: Listed) -> None:
        """A clean-up takes what makes a folder complete first; where that stays, a file was lost."""
        for last in LAST if entry.group else ():
            with contextlib.suppress(FileNotFoundError), place.open(f"{entry.group}/{last}"):
                self._problem(name, entry, "missing")

    def _problem(self, name: str, entry: Listed, what: str) -> None:
        with self._lock:
            lines = self._problems.setdefault(f"{name}:{entry.group}", [])
            lines.append(f"{name}: {entry.name}: {what}; {entry.group} is left out")

    def _present(self, place: str, entry: Listed) -> Saved | None:
        """The file where its content is in the archive already."""
        if entry.sha256 is not None:
            known = Saved(place, entry.name, entry.sha256, entry.size, entry.mark, {})
        else:
            earlier = self._known.get((place, entry.name))
            if earlier is None or (earlier.size, earlier.mark) != (entry.size, entry.mark):
                return None
            known = earlier
        return known if self._archive.has(known.sha256, known.size) else None

    def _read(self, count: int) -> None:
        with self._lock:
            self._done += count
            self._progress("copying", self._done, max(self._done, self._total))

    def _check_space(self) -> None:
        free = shutil.disk_usage(self._archive.root).free
        if self._total > free:
            raise InputError(
                f"{self._archive.root}: {self._total / 1e9:.2f} GB are to be copied, {free / 1e9:.2f} GB are free; "
                "make room, or keep fewer backups (--keep)"
            )


def _known(archive: Archive) -> dict[tuple[str, str], Saved]:
    """The newest backup's files; none where it cannot be read: then every file is read anew."""
    try:
        manifest = archive.manifest(archive.choose())
        sound = not archive.list_problems(manifest)
        return {(saved.place, saved.name): saved for saved in archive.files(manifest)} if sound else {}
    except (InputError, OSError, ValueError, TypeError):
        return {}


def _pointer(archive: Archive, name: str, data: bytes) -> Saved:
    sha256, size = archive.add(io.BytesIO(data))
    return Saved(PUBLISHED, name, sha256, size, "", {})


def _check_publication(installation: Installation, pointers: Mapping[str, bytes], files: Sequence[Saved]) -> None:
    """See that what the pointer names is among the files."""
    if POINTER not in pointers:
        return
    place, prefix = installation.folder
    publication = parse_publication(pointers[POINTER], f"{installation.published}/{POINTER}")
    saved = {file.name: file.sha256 for file in files if file.place == place}
    top = f"{prefix}{publication.folder}"
    wrong = [f"{top}/{name}" for name, file in publication.files.items() if saved.get(f"{top}/{name}") != file.sha256]
    wrong += [] if f"{top}/{RECORD}" in saved else [f"{top}/{RECORD}"]
    if wrong:
        raise InputError(
            f"{installation.published}: of the published index {publication.version} these files are missing or not "
            f"what was published: {', '.join(wrong)}; no backup was made. Where it was removed meanwhile run it again, "
            "else `notellm2 rollback`"
        )


def _summaries(installation: Installation, files: Sequence[Saved]) -> dict[str, PlaceSummary]:
    where = {name: str(place) for name, place in installation.places.items()}
    where[PUBLISHED] = str(installation.published)
    sizes: dict[str, list[int]] = {name: [] for name in where}
    for file in files:
        sizes[file.place].append(file.size)
    return {name: PlaceSummary(where=where[name], files=len(s), size=sum(s)) for name, s in sizes.items()}


def _versions(facts: Facts | None) -> dict[str, str]:
    found = {name: metadata.version(name) for name in ("notellm2", "mlflow", "prefect")}
    return found if facts is None else {**found, "postgresql": f"{facts.version // 10_000}.{facts.version % 10_000}"}


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
