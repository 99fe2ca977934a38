"""The folder that backups lie in: each content once, and for each backup a list of what it consists of.

    <folder>/blobs/ab/ab12...      every content once, named by its SHA-256
    <folder>/backups/<name>/       one backup; complete, since it gets this name last
        manifest.json              time, versions, what is in it, and the digests of the files beside it
        files.jsonl                a line a file: where it belongs, its SHA-256 and size
        <database>.dump            PostgreSQL's custom format, for `pg_restore`

A second backup adds only what is new; a file that is in the store, in the published place and in MLflow is there once.
Blobs and backups are written beside, flushed and renamed. What a killed backup leaves is blobs that no backup names,
which the next one uses or removes, and a folder whose name begins with a dot.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from pydantic import ValidationError

from notellm2.artifacts import digest_file, fsync_path
from notellm2.errors import InputError
from notellm2.stack.backup.manifest import FORMAT, MANIFEST, Dump, Manifest, Saved
from notellm2.workspace import Locked, file_lock

_BLOCK = 1 << 20

Progress = Callable[[str, int, int], None]
"""Called with what is being done, and how many bytes of how many are done."""


def silent(what: str, done: int, total: int) -> None:
    """The progress that nobody wants to see."""
    del what, done, total


class Archive:
    """A folder of backups.

    Args:
        root: the folder; made at the first backup.
    """

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()
        self._backups = self.root / "backups"
        self._blobs = self.root / "blobs"

    def names(self) -> list[str]:
        """The complete backups, oldest first."""
        return sorted(path.parent.name for path in self._backups.glob(f"[!.]*/{MANIFEST}"))

    def choose(self, name: str | None = None) -> str:
        """A backup by its name; None: the newest.

        Raises:
            InputError: there is none, or none of that name; lists those that are there.
        """
        names = self.names()
        if not names:
            raise InputError(f"{self.root}: no complete backup is there; make one with `notellm2 stack backup`")
        if name is None:
            return names[-1]
        if name not in names:
            raise InputError(f"{self.root}: no backup {name!r}; there are: {', '.join(names)}")
        return name

    def manifest(self, name: str) -> Manifest:
        """The manifest of a backup.

        Raises:
            InputError: it is damaged, or of a newer format.
        """
        path = self._backups / name / MANIFEST
        try:
            raw = json.loads(path.read_bytes())
            if isinstance(raw, dict) and isinstance(raw.get("format"), int) and raw["format"] > FORMAT:
                raise InputError(
                    f"{path}: format {raw['format']}, this release reads {FORMAT}: use the release that wrote it, "
                    "or a newer one"
                )
            manifest = Manifest.model_validate(raw)
        except (OSError, ValueError, ValidationError) as error:
            raise InputError(f"{path}: not readable as a backup's manifest ({_short(error)}); {_OTHER}") from None
        if not manifest.is_sound:
            raise InputError(f"{path}: was changed since it was written (its digest does not match); {_OTHER}")
        return manifest

    def files(self, manifest: Manifest) -> list[Saved]:
        """The files of a backup whose `problems` are none."""
        with (self._backups / manifest.name / manifest.files.file).open() as lines:
            return [Saved(**json.loads(line)) for line in lines]

    def dump_path(self, manifest: Manifest, dump: Dump) -> Path:
        """Where a dump lies."""
        return self._backups / manifest.name / dump.beside.file

    def blob(self, sha256: str) -> Path:
        """Where the content of that digest lies, if it does."""
        return self._blobs / sha256[:2] / sha256

    def has(self, sha256: str, size: int) -> bool:
        """Whether the content is there; judged by name and size, which `problems` does not trust."""
        try:
            return self.blob(sha256).stat().st_size == size
        except FileNotFoundError:
            return False

    def add(self, stream: IO[bytes], on_bytes: Callable[[int], None] = lambda count: None) -> tuple[str, int]:
        """Keep a content.

        Args:
            stream: read to its end.
            on_bytes: called with the bytes read since the last call.

        Returns:
            Its SHA-256 and size.
        """
        self._blobs.mkdir(parents=True, exist_ok=True)
        temporary = self._blobs / f".{uuid.uuid4().hex}"
        digest, size = hashlib.sha256(), 0
        try:
            with temporary.open("xb") as writing:
                while block := stream.read(_BLOCK):
                    digest.update(block)
                    writing.write(block)
                    size += len(block)
                    on_bytes(len(block))
                writing.flush()
                os.fsync(writing.fileno())
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
            except PermissionError:
                if os.access(self.root, os.W_OK):
                    raise
            except OSError as error:
                if error.errno != errno.EROFS:
                    raise
            yield

    @contextlib.contextmanager
    def writing(self, name: str) -> Iterator[Path]:
        """A folder for a new backup; it becomes the backup where the block ends well, and is removed otherwise."""
        self._backups.mkdir(parents=True, exist_ok=True)
        for left in (*self._backups.glob(".*"), *self._blobs.glob(".*")):
            # Only the holder of the lock writes: these are a killed one's.
            shutil.rmtree(left) if left.is_dir() else left.unlink()
        temporary = self._backups / f".{name}.{uuid.uuid4().hex[:8]}"
        temporary.mkdir(mode=0o700)
        try:
            yield temporary
            fsync_path(temporary)
            for folder in self._blobs.glob("*"):
                fsync_path(folder)
            temporary.rename(self._backups / name)
            fsync_path(self._backups)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

    def list_problems(self, manifest: Manifest) -> list[str]:
        """What is wrong with the list of a backup's files; without it nothing is known of them."""
        files = manifest.files
        return _damage(self._backups / manifest.name / files.file, files.sha256, files.size)

    def problems(self, manifest: Manifest, progress: Progress = silent) -> list[str]:
        """What is wrong with a backup, one line a file; reads every byte of it once."""
        found = self.list_problems(manifest)
        if found:
            return found
        for dump in manifest.databases:
            found += _damage(self.dump_path(manifest, dump), dump.beside.sha256, dump.beside.size)
        contents: dict[str, Saved] = {}
        for saved in self.files(manifest):
            contents.setdefault(saved.sha256, saved)
        done, total = 0, sum(saved.size for saved in contents.values())
        for saved in contents.values():
            progress("verifying", done, total)
            wrong = _damage(self.blob(saved.sha256), saved.sha256, saved.size)
            found += [f"{line} (it is {saved.name} of {saved.place})" for line in wrong]
            done += saved.size
        progress("verifying", done, total)
        return found

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
            return self._prune(keep)

    def _prune(self, keep: int) -> list[str]:
        names = self.names()
        manifests = [self.manifest(name) for name in names[-keep:]]
        for manifest in manifests:
            for problem in self.list_problems(manifest):
                raise InputError(f"{problem}: nothing was removed; remove {self._backups / manifest.name} by hand")
        named = {saved.sha256 for manifest in manifests for saved in self.files(manifest)}
        for name in names[:-keep]:
            gone = self._backups / f".{name}.gone"
            (self._backups / name).rename(gone)
            shutil.rmtree(gone)
        for blob in self._blobs.glob("*/*"):
            if blob.name not in named:
                blob.unlink()
        return names[:-keep]


_OTHER = "restore another backup (`--at NAME`), or bring the file back from a copy of the folder"


def _damage(path: Path, sha256: str, size: int) -> list[str]:
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


def _short(error: Any) -> str:
    return str(error).splitlines()[0]
