"""Replace a directory in one step: a new one is made beside it, and takes its place only when it is complete.

On Linux the two change places by one system call (``renameat2`` with ``RENAME_EXCHANGE``), so that a reader or a kill
sees the old directory or the new one. Where the file system cannot do that, two renames follow each other, and a kill
between them is mended by the next `building`.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import glob
import os
import shutil
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from notellm2.artifacts import fsync_path

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2


@contextmanager
def building(target: Path) -> Iterator[Path]:
    """Make a fresh directory beside `target`, removed again unless `publish` has put it in its place.

    It is held by a file lock for as long as this process lives, so that another process can tell what a killed one
    left behind, and remove that.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    _restore(target)
    _sweep(target)
    directory = target.parent / f".{target.name}.new-{uuid.uuid4().hex[:8]}"
    directory.mkdir()
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield directory
    finally:
        # After an exchange the old data lies under this name.
        shutil.rmtree(directory, ignore_errors=True)
        os.close(descriptor)


def publish(directory: Path, target: Path) -> None:
    """Put a complete directory in the place of `target`, flushed to disk first; the old one is removed."""
    for path in sorted(directory.rglob("*"), reverse=True):
        fsync_path(path)
    fsync_path(directory)
    if not target.exists():
        directory.rename(target)
    elif not _exchange(directory, target):
        old = target.parent / f".{target.name}.old-{uuid.uuid4().hex[:8]}"
        target.rename(old)
        directory.rename(target)
        shutil.rmtree(old)
    fsync_path(target.parent)


def _exchange(one: Path, other: Path) -> bool:
    """Let two directories change names in one step; False where system or file system cannot."""
    if not sys.platform.startswith("linux"):
        return False
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if rename is None:
        return False
    if rename(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) == 0:
        return True
    code = ctypes.get_errno()
    if code in (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):
        return False
    raise OSError(code, os.strerror(code), str(other))


def _restore(target: Path) -> None:
    """Undo a replacement that was killed between its two renames."""
    old = _siblings(target, "old")
    if old and not target.exists():
        old[-1].rename(target)


def _sweep(target: Path) -> None:
    """Remove what killed processes left behind; a directory whose lock is held is another process at work."""
    for leftover in _siblings(target, "new"):
        try:
            descriptor = os.open(leftover, os.O_RDONLY)
        except FileNotFoundError:
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            continue
        else:
            shutil.rmtree(leftover, ignore_errors=True)
        finally:
            os.close(descriptor)
    for leftover in _siblings(target, "old"):
        if target.exists():
            shutil.rmtree(leftover, ignore_errors=True)


def _siblings(target: Path, kind: str) -> list[Path]:
    return sorted(target.parent.glob(f".{glob.escape(target.name)}.{kind}-*"))
