"""What a backup reads and a restore writes: a place of named files. Folders here, buckets in `bucket`.

Everything in a place is written by one rename or one PutObject: a file that is opened is whole, and what changes is
another file under the same name.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path, PurePosixPath
from typing import IO, NamedTuple

from notellm2.artifacts import MANIFEST, Artifact, Store, digest_file, fsync_path
from notellm2.publication.location import RECORD

LAST = (MANIFEST, RECORD)
"""File names that make a folder complete: written after all others."""


Sort = Callable[[str], str | None]
"""What a backup does with a file by its name: its group (empty: it stands alone), or None: it belongs elsewhere."""


def alone(name: str) -> str | None:
    """Every file belongs into the backup and stands alone."""
    del name
    return ""


class Listed(NamedTuple):
    """A file that is there.

    Attributes:
        name: its path in the place, with ``/``.
        size: bytes.
        mark: changes when the file does.
        sha256: what its bytes must have, and then its mark; None: nobody said.
        group: files of one group are saved all or none; empty: it stands alone.
    """

    name: str
    size: int
    mark: str
    sha256: str | None = None
    group: str = ""


class Opened(NamedTuple):
    """A file being read.

    Attributes:
        stream: its bytes.
        mark: of what is read.
        about: metadata.
    """

    stream: IO[bytes]
    mark: str
    about: Mapping[str, str]


class Place(ABC):
    """Named files. Methods raise OSError where the place does not answer, FileNotFoundError where a file is gone."""

    @abstractmethod
    def __str__(self) -> str:
        """The folder or URL."""

    @abstractmethod
    def listed(self) -> Iterator[Listed]:
        """The files that belong into a backup."""

    @abstractmethod
    def open(self, name: str) -> AbstractContextManager[Opened]:
        """A file, to be read once."""

    @abstractmethod
    def put(self, name: str, content: Path, sha256: str, about: Mapping[str, str]) -> bool:
        """Write a file in one step; whether it was written: one that is there with these bytes is left alone."""

    def is_empty(self) -> bool:
        """Whether there is nothing that belongs into a backup."""
        return next(self.listed(), None) is None


class Folder(Place):
    """A local folder. Names that begin with a dot are temporary files, locks and work in progress: not in a backup.

    Args:
        root: the folder; may be missing.
        sort: what the backup does with a file, by its name in the folder.
        tops: only the files and folders that match these patterns; empty: all.
    """

    def __init__(self, root: Path, sort: Sort = alone, tops: tuple[str, ...] = ()) -> None:
        self.root = root.absolute()
        self._sort = sort
        self._tops = tops

    def __str__(self) -> str:
        return str(self.root)

    def listed(self) -> Iterator[Listed]:
        """See `Place.listed`."""
        if not self._tops:
            yield from self._walk(self.root)
        for path in (path for top in self._tops for path in sorted(self.root.glob(top))):
            if path.is_dir():
                yield from self._walk(path)
            else:
                yield from self._entry(path)

    @contextlib.contextmanager
    def open(self, name: str) -> Iterator[Opened]:
        """See `Place.open`."""
        with self._path(name).open("rb") as stream:
            yield Opened(stream, _mark(os.fstat(stream.fileno())), {})

    def put(self, name: str, content: Path, sha256: str, about: Mapping[str, str]) -> bool:
        """See `Place.put`."""
        del about
        path = self._path(name)
        with contextlib.suppress(FileNotFoundError):
            if path.stat().st_size == content.stat().st_size and digest_file(path) == sha256:
                return False
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{uuid.uuid4().hex}.restoring")
        try:
            shutil.copyfile(content, temporary)
            fsync_path(temporary)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        fsync_path(path.parent)
        return True

    def _walk(self, top: Path) -> Iterator[Listed]:
        for folder, below, names in os.walk(top):
            below[:] = sorted(name for name in below if not name.startswith("."))
            for file in sorted(names):
                if not file.startswith("."):
                    yield from self._entry(Path(folder, file))

    def _entry(self, path: Path) -> Iterator[Listed]:
        name = path.relative_to(self.root).as_posix()
        group = self._sort(name)
        # It may be removed while it is listed.
        with contextlib.suppress(FileNotFoundError):
            status = path.stat()
            if group is not None:
                yield Listed(name, status.st_size, _mark(status), group=group)

    def _path(self, name: str) -> Path:
        parts = PurePosixPath(name).parts
        if not parts or parts[0] == "/" or ".." in parts:
            raise ValueError(f"{name!r} leads out of {self.root}")
        return self.root.joinpath(*parts)


class StoreFolder(Folder):
    """A store: its artifacts, which say what each of their files must be, and folders beside them.

    Args:
        root: of the store.
        beside: names of folders at its top that are no stages and belong into a backup.
        sort: see `Folder`.
    """

    def __init__(self, root: Path, beside: tuple[str, ...], sort: Sort = alone) -> None:
        super().__init__(root, sort, beside)

    def listed(self) -> Iterator[Listed]:
        """See `Place.listed`; the files of an artifact are a group."""
        for artifact in Store(self.root).artifacts():
            # One that cannot be read as an artifact is none, and its stage makes it again.
            with contextlib.suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
                yield from self._artifact(artifact)
        yield from super().listed()

    def _artifact(self, artifact: Artifact) -> list[Listed]:
        group = f"{artifact.stage}/{artifact.key}"
        manifest = artifact.path / MANIFEST
        sizes = {
            name: (int(entry["bytes"]), str(entry["sha256"])) for name, entry in artifact.manifest["files"].items()
        }
        sizes[MANIFEST] = (manifest.stat().st_size, digest_file(manifest))
        return [Listed(f"{group}/{name}", size, digest, digest, group) for name, (size, digest) in sizes.items()]


def put_order(name: str) -> tuple[bool, str]:
    """Sorts what makes a folder complete behind everything else."""
    return PurePosixPath(name).name in LAST, name


def _mark(status: os.stat_result) -> str:
    return f"{status.st_mtime_ns}-{status.st_ino}"
