"""Read and write where an index is published: a local folder, or a prefix of an S3 bucket.

    <location>/current.json              small objects, replaced by compare-and-swap
    <location>/versions/<name>/          immutable folders of files; complete once they have their record

    open_location("store/_published")
    open_location("s3://bucket/prefix")       needs the extra "s3" (boto3)

Two primitives carry everything: `swap` replaces a small object only if it is still the one the caller saw, and
`put_folder` makes a folder that is complete or not there. Readers import this module, so it needs numpy and the
standard library alone; what writes or talks to S3 is imported when it is used.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import shutil
import uuid
from abc import ABC, abstractmethod
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from notellm2.errors import InputError
from notellm2.index.layout import FileEntry, damage

RECORD = "publication.json"
"""The last file of a folder: with it the folder is complete."""
LOCK = ".lock"
LOCK_TIMEOUT_S = 60.0
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)*\Z")
_BLOCK = 1 << 20


class Moved(RuntimeError):
    """An object is not the one the caller saw: someone else replaced it. Nothing was written."""


class Stored(NamedTuple):
    """A small object as it was read.

    Attributes:
        data: its bytes.
        tag: names this content; what `Location.swap` compares.
    """

    data: bytes
    tag: str


class Folder(NamedTuple):
    """A complete folder of a location.

    Attributes:
        record: bytes of its `RECORD`.
        written: when it was made, or touched last, UTC.
    """

    record: bytes
    written: datetime


class Location(ABC):
    """Where an index is published: small objects, and immutable folders of files.

    Every method raises OSError when the location does not answer or refuses (a full disk, no permission, no
    connection); what was there before is then still there, whole.
    """

    @abstractmethod
    def __str__(self) -> str:
        """The path or URL, for messages."""

    @abstractmethod
    def read(self, name: str) -> Stored | None:
        """Read a small object; None where there is none."""

    @abstractmethod
    def swap(self, name: str, data: bytes, expected: str | None) -> str:
        """Replace a small object in one step, if it is still the expected one.

        A tag names content, not a moment: an object that was replaced and then put back as it was counts as the
        expected one. Whoever must tell the two apart writes something unique into it.

        Args:
            name: of the object.
            data: its new bytes.
            expected: tag of what is to be replaced; None: there must be nothing yet.

        Returns:
            The new tag.

        Raises:
            Moved: it is another one, is gone, or is there already; nothing was written.
        """

    @abstractmethod
    def folders(self, under: str) -> dict[str, Folder]:
        """List the complete folders directly below a folder, by name."""

    @abstractmethod
    def put_folder(self, folder: str, files: Mapping[str, tuple[Path, FileEntry]], record: bytes) -> None:
        """Make a folder; it is complete or not there.

        Args:
            folder: its path; no complete one is there yet.
            files: name to where the file is now and what it must be.
            record: content of its `RECORD`.

        Raises:
            InputError: a file is not what it must be; names it.
            FileExistsError: a folder of that name is there.
        """

    @abstractmethod
    def touch(self, folder: str) -> None:
        """Make a folder as young as a new one, so that retention leaves it alone for a while."""

    @abstractmethod
    def problems(self, folder: str, files: Mapping[str, FileEntry]) -> list[str]:
        """List what is wrong with a folder's files, one line a file; empty when nothing is."""

    @abstractmethod
    def fetch(self, folder: str, files: Mapping[str, FileEntry]) -> Path:
        """Fetch files of a folder into a local directory, to be memory-mapped. Not verified: see `layout.damage`."""

    @abstractmethod
    def remove_folder(self, folder: str) -> None:
        """Remove a folder, first from what `folders` lists; nothing happens where there is none."""

    @abstractmethod
    def remove_leftovers(self, under: str, before: datetime) -> None:
        """Remove what killed writers left below a folder before some time."""


def checked_name(name: str) -> str:
    """Return a name after checking that it stays inside its location.

    Raises:
        ValueError: it does not.
    """
    if not _NAME.match(name):
        raise ValueError(f"{name!r}: expected plain names of letters, digits, '.', '_', '-', with '/' between them")
    return name


class LocalLocation(Location):
    """A folder of a local (POSIX) file system, made when something is written to it.

    A swap is one rename under an advisory lock that the system frees when its holder dies. The tag is the SHA-256 of
    the content.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def __str__(self) -> str:
        return str(self.root)

    def read(self, name: str) -> Stored | None:
        """See `Location.read`."""
        try:
            data = (self.root / checked_name(name)).read_bytes()
        except FileNotFoundError:
            return None
        return Stored(data, hashlib.sha256(data).hexdigest())

    def swap(self, name: str, data: bytes, expected: str | None) -> str:
        """See `Location.swap`; another process's lock is waited for `LOCK_TIMEOUT_S` seconds."""
        from notellm2.artifacts import write_atomic
        from notellm2.workspace import file_lock

        path = self.root / checked_name(name)
        with file_lock(self.root / LOCK, f"replacing {name}", timeout_s=LOCK_TIMEOUT_S):
            # Nobody else writes now: what lies beside the object was left by a killed writer.
            for leftover in path.parent.glob(f".{path.name}.*"):
                leftover.unlink()
            stored = self.read(name)
            if (None if stored is None else stored.tag) != expected:
                raise Moved(f"{path}: {_said(stored)}, expected {_said_tag(expected)}")
            write_atomic(path, data)
        return hashlib.sha256(data).hexdigest()

    def folders(self, under: str) -> dict[str, Folder]:
        """See `Location.folders`."""
        complete = {}
        for path in sorted((self.root / checked_name(under)).glob(f"[!.]*/{RECORD}")):
            # A folder may be removed while it is listed.
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                written = datetime.fromtimestamp(path.parent.stat().st_mtime, UTC)
                complete[path.parent.name] = Folder(path.read_bytes(), written)
        return complete

    def put_folder(self, folder: str, files: Mapping[str, tuple[Path, FileEntry]], record: bytes) -> None:
        """See `Location.put_folder`: written beside, flushed, renamed once."""
        from notellm2.artifacts import fsync_path, write_atomic

        final = self.root / checked_name(folder)
        final.parent.mkdir(parents=True, exist_ok=True)
        temporary = final.with_name(f".{final.name}.{uuid.uuid4().hex[:8]}")
        temporary.mkdir()
        try:
            for name, (source, entry) in files.items():
                _copy(source, temporary / name, entry)
            write_atomic(temporary / RECORD, record)
            fsync_path(temporary)
            rename_new(temporary, final)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        fsync_path(final.parent)

    def touch(self, folder: str) -> None:
        """See `Location.touch`."""
        os.utime(self.root / checked_name(folder))

    def problems(self, folder: str, files: Mapping[str, FileEntry]) -> list[str]:
        """See `Location.problems`; reads every byte."""
        return damage(self.root / checked_name(folder), files)

    def fetch(self, folder: str, files: Mapping[str, FileEntry]) -> Path:
        """See `Location.fetch`: the folder itself."""
        del files
        return self.root / checked_name(folder)

    def remove_folder(self, folder: str) -> None:
        """See `Location.remove_folder`: renamed away, then deleted."""
        path = self.root / checked_name(folder)
        gone = path.with_name(f".{path.name}.gone-{uuid.uuid4().hex[:8]}")
        with contextlib.suppress(FileNotFoundError):
            path.rename(gone)
            shutil.rmtree(gone)

    def remove_leftovers(self, under: str, before: datetime) -> None:
        """See `Location.remove_leftovers`."""
        for path in (self.root / checked_name(under)).glob(".*"):
            # Another process may be removing it, or its writer may have come to its end.
            with contextlib.suppress(FileNotFoundError):
                if path.stat().st_mtime < before.timestamp():
                    shutil.rmtree(path)


def rename_new(temporary: Path, final: Path) -> None:
    """Rename a directory to a name that must be free.

    Raises:
        FileExistsError: a directory that holds files has it.
    """
    try:
        temporary.rename(final)
    except OSError as error:
        # A directory that holds files is never replaced; the system has two names for that.
        if error.errno in (errno.EEXIST, errno.ENOTEMPTY):
            raise FileExistsError(error.errno, "a folder is there already", str(final)) from None
        raise


def _copy(source: Path, target: Path, entry: FileEntry) -> None:
    digest = hashlib.sha256()
    with source.open("rb") as reading, target.open("wb") as writing:
        while block := reading.read(_BLOCK):
            digest.update(block)
            writing.write(block)
        writing.flush()
        os.fsync(writing.fileno())
    if digest.hexdigest() != entry.sha256:
        raise InputError(f"{source} is damaged (its sha256 is not the manifest's): build the index again")


def _said(stored: Stored | None) -> str:
    return _said_tag(None if stored is None else stored.tag)


def _said_tag(tag: str | None) -> str:
    return "nothing there" if tag is None else f"content {tag[:12]}"
