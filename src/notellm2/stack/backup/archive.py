"""The folder that backups lie in: each content once, and for each backup a list of what it consists of.

    <folder>/blobs/ab/ab12...      every content once, named by its SHA-256
    <folder>/backups/<name>/       one backup; complete, since it gets this name last
        manifest.json              time, versions, what is in it, and the digests of the files beside it
        files.jsonl                a line a file: where it belongs, its SHA-256 and size
        <database>.dump            PostgreSQL's custom format, for `pg_restore`

A second backup adds only what is new. Blobs and backups are written under a temporary name, flushed and renamed. What a
killed backup leaves is blobs that no backup names, which the next one uses or removes, and names that begin with a dot.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from notellm2.artifacts import digest_file, fsync_path
from notellm2.errors import InputError
from notellm2.stack.backup.manifest import ADVICE, MANIFEST, Dump, Manifest, Saved, read_manifest
from notellm2.workspace import Locked, file_lock

_BLOCK = 1 << 20
_SHOWN = 10

Progress = Callable[[str, int, int], None]
"""Called with what is being done, and how many of how many files are done."""


def silent(what: str, done: int, total: int) -> None:
    """Show no progress at all."""
    del what, done, total


class Archive:
    """A folder of backups, made at the first one."""

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()
        self._backups = self.root / "backups"
        self._blobs = self.root / "blobs"

    def names(self) -> list[str]:
        """List the complete backups, oldest first."""
        return sorted(path.parent.name for path in self._backups.glob(f"[!.]*/{MANIFEST}"))

    def choose(self, name: str | None = None) -> str:
        """Choose a backup by its name; None: the newest.

        Raises:
            InputError: there is none, or none of that name; lists those that are there.
        """
        names = self.names()
        if not names:
            raise InputError(f"{self.root}: no complete backup is there; make one with `notellm2 stack backup`")
        if name is not None and name not in names:
            raise InputError(f"{self.root}: no backup {name!r}; there are: {', '.join(names)}")
        return name or names[-1]

    def manifest(self, name: str) -> Manifest:
        """Read the manifest of a backup.

        Raises:
            InputError: it is damaged, or of a newer format.
        """
        return read_manifest(self._backups / name / MANIFEST)

    def files(self, manifest: Manifest) -> list[Saved]:
        """Read the list of a backup's files.

        Raises:
            InputError: their list is damaged; without it nothing is known of them.
        """
        path = self._backups / manifest.name / manifest.files.file
        for problem in _problems(path, manifest.files.sha256, manifest.files.size):
            raise InputError(f"{problem}; {ADVICE}")
        with path.open() as lines:
            return [Saved(**json.loads(line)) for line in lines]

    def dump_path(self, manifest: Manifest, dump: Dump) -> Path:
        """Return the path of a dump."""
        return self._backups / manifest.name / dump.beside.file

    def blob(self, sha256: str) -> Path:
        """Return the path of the content of that digest."""
        return self._blobs / sha256[:2] / sha256

    def has(self, sha256: str, size: int) -> bool:
        """Return whether the content is there, judged by name and size; `verify` reads it."""
        try:
            return self.blob(sha256).stat().st_size == size
        except FileNotFoundError:
            return False

    def add(self, stream: IO[bytes]) -> tuple[str, int]:
        """Keep a content, read to its end; its SHA-256 and size."""
        self._blobs.mkdir(parents=True, exist_ok=True)
        temporary = self._blobs / f".{uuid.uuid4().hex}"
        digest = hashlib.sha256()
        try:
            with temporary.open("xb") as writing:
                while block := stream.read(_BLOCK):
                    digest.update(block)
                    writing.write(block)
                writing.flush()
                os.fsync(writing.fileno())
                size = writing.tell()
            final = self.blob(digest.hexdigest())
            final.parent.mkdir(exist_ok=True)
            temporary.replace(final)
        finally:
            temporary.unlink(missing_ok=True)
        return digest.hexdigest(), size

    @contextlib.contextmanager
    def lock(self, purpose: str) -> Iterator[None]:
        """Exclude other backups and restores of this folder; a folder that is mounted read-only needs no lock.

        Raises:
            InputError: another process is at work in it.
        """
        with contextlib.ExitStack() as stack:
            try:
                # Password hashes and people's notes lie in it.
                self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
                stack.enter_context(file_lock(self.root / ".lock", purpose, timeout_s=0))
            except Locked as locked:
                raise InputError(f"{self.root}: in use by {locked.holder}; wait for it") from None
            except OSError:
                if not self.root.is_dir() or os.access(self.root, os.W_OK):
                    raise
            yield

    @contextlib.contextmanager
    def new_backup(self, name: str) -> Iterator[Path]:
        """Make a folder for a new backup; it becomes the backup where the block ends well, else it is removed."""
        self._backups.mkdir(parents=True, exist_ok=True)
        for path in (*self._backups.glob(".*"), *self._blobs.glob(".*")):
            # Only the holder of the lock writes: these are of a process that was killed.
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        temporary = self._backups / f".{name}"
        temporary.mkdir(mode=0o700)
        try:
            yield temporary
            for folder in (temporary, *self._blobs.glob("*")):
                fsync_path(folder)
            temporary.rename(self._backups / name)
            fsync_path(self._backups)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

    def verify(self, name: str | None = None, progress: Progress = silent) -> Manifest:
        """Read every byte of a backup.

        Args:
            name: of the backup; None: the newest.
            progress: see `Progress`.

        Raises:
            InputError: something is missing or damaged; names it.
        """
        manifest = self.manifest(self.choose(name))
        problems = []
        for dump in manifest.databases:
            problems += _problems(self.dump_path(manifest, dump), dump.beside.sha256, dump.beside.size)
        contents = {saved.sha256: saved for saved in self.files(manifest)}
        for number, saved in enumerate(contents.values(), 1):
            for problem in _problems(self.blob(saved.sha256), saved.sha256, saved.size):
                problems.append(f"{problem} (it is {saved.name} of {saved.place})")
            progress("verifying", number, len(contents))
        if problems:
            problems[_SHOWN:] = [f"... and {len(problems) - _SHOWN} more"] if len(problems) > _SHOWN else []
            raise InputError(f"backup {manifest.name} is damaged, nothing was touched:\n" + "\n".join(problems))
        return manifest

    def prune(self, keep: int) -> list[str]:
        """Remove all but the newest backups, and every blob that none of the others names.

        Args:
            keep: number of backups to keep, at least 1.

        Returns:
            The names of the backups removed.

        Raises:
            InputError: the list of a backup that is kept is damaged, or another process is at work in the folder:
                nothing is removed then.
        """
        with self.lock("removing old backups"):
            names = self.names()
            kept = [self.manifest(name) for name in names[-keep:]]
            named = {saved.sha256 for manifest in kept for saved in self.files(manifest)}
            for name in names[:-keep]:
                removed = self._backups / f".{name}"
                (self._backups / name).rename(removed)
                shutil.rmtree(removed)
            for blob in self._blobs.glob("*/*"):
                if blob.name not in named:
                    blob.unlink()
            return names[:-keep]


def _problems(path: Path, sha256: str, size: int) -> list[str]:
    try:
        present = path.stat().st_size
        if present != size:
            return [f"{path}: {present} bytes, expected {size}"]
        if digest_file(path) != sha256:
            return [f"{path}: its bytes are not those that were written (another sha256)"]
    except FileNotFoundError:
        return [f"{path}: missing"]
    except OSError as error:
        return [f"{path}: cannot be read ({error})"]
    return []
