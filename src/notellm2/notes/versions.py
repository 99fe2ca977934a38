"""Data versions: a data set's md5 as DVC defines it, and the few DVC commands that pin, fetch and store it.

The only place that talks to DVC, and it does so through DVC's command line in a child process: an interface that is
kept stable, without a second of imports or event loops in a flow's process. DVC commands in one repository exclude each
other by a lock that it waits for only 3 s; here a command that met the lock is tried again, with growing pauses.

What can be known without DVC (`data_md5`, `pinned_md5`, `status`) is computed without it.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import yaml

from notellm2.artifacts import write_atomic
from notellm2.errors import InputError
from notellm2.notes import replace

PAUSES_S = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
"""Pauses between tries when another DVC command holds the repository's lock, seconds; then it gives up."""

_LOCKED = ("Unable to acquire lock", "is busy, it is being blocked by")
_NO_REMOTE = ("no remote specified", "no default remote set", "No remote provided")
_MISSING_CACHE = ("do not exist neither locally nor on remote", "Missing cache files")
_IN_SYNC = "are in sync"
_UNSAVED = "unsaved files without confirmation"


@dataclass(frozen=True)
class DataStatus:
    """How a data set on disk relates to its pinned version.

    Attributes:
        pinned: md5 that ``<dir>.dvc`` names; None: never pinned.
        current: md5 of what is on disk; None: nothing there.
    """

    pinned: str | None
    current: str | None

    @property
    def clean(self) -> bool:
        """Whether the pinned version is what is on disk."""
        return self.pinned is not None and self.pinned == self.current


def data_md5(directory: Path) -> str:
    """Compute the version of a directory as DVC would name it, ``<32 hex digits>.dir``.

    It is the md5 of the JSON list of every file's md5 and relative path, in order of path; empty folders do not count.

    Raises:
        InputError: there is no such directory, or no file in it.
    """
    if not directory.is_dir():
        raise InputError(f"{directory}: no such folder; import a data set there, or fetch it with `notellm2 data pull`")
    files = sorted((path.relative_to(directory).as_posix(), path) for path in directory.rglob("*") if path.is_file())
    if not files:
        raise InputError(f"{directory}: empty; expected a data set")
    entries = [{"md5": file_md5(path), "relpath": name} for name, path in files]
    listing = json.dumps(entries, sort_keys=True).encode()
    return f"{hashlib.md5(listing, usedforsecurity=False).hexdigest()}.dir"


def pinned_md5(directory: Path) -> str | None:
    """Read the version that ``<dir>.dvc`` names, or None if there is no such file.

    Raises:
        InputError: the file is not one that DVC writes for a directory.
    """
    pointer = _pointer(directory)
    try:
        tree = yaml.safe_load(pointer.read_text())
        md5 = tree["outs"][0]["md5"]
    except FileNotFoundError:
        return None
    except (yaml.YAMLError, UnicodeDecodeError, KeyError, IndexError, TypeError) as error:
        raise InputError(
            f"{pointer}: expected a DVC file with outs[0].md5, found something else ({type(error).__name__}); "
            "restore it from git, or pin the data again"
        ) from None
    if not isinstance(md5, str) or not md5.endswith(".dir"):
        raise InputError(f"{pointer}: expected the md5 of a directory (ending in .dir), found {md5!r}")
    return md5


def status(directory: Path) -> DataStatus:
    """Compare the data on disk with the pinned version; reads every file, changes nothing."""
    there = directory.is_dir() and any(path.is_file() for path in directory.rglob("*"))
    return DataStatus(pinned_md5(directory), data_md5(directory) if there else None)


def pin(directory: Path) -> str:
    """Make what is on disk the pinned version: write ``<dir>.dvc`` and keep a copy in DVC's cache.

    A repository for DVC is set up if none encloses the directory: at the top of the git repository, else beside the
    directory and without git.

    Returns:
        Its md5.

    Raises:
        InputError: there is nothing to pin, or DVC refuses; its message is kept.
    """
    current = data_md5(directory)
    root = _root(directory) or _initialise(directory)
    with _unreadable_set_aside(_pointer(directory)):
        _dvc(root, "add", str(directory.absolute()))  # not --quiet, which keeps the reason of a failure to itself
    pinned = pinned_md5(directory)
    if pinned != current:
        raise InputError(
            f"{directory}: its files have version {current}, DVC pinned {pinned}; did they change meanwhile, or does "
            "a .dvcignore leave some out? Pin again"
        )
    return current


@contextmanager
def _unreadable_set_aside(pointer: Path) -> Iterator[None]:
    """Take a pointer that is none (a merge conflict, say) out of DVC's way; it comes back if pinning fails."""
    try:
        pinned_md5(pointer.with_suffix(""))
    except InputError:
        aside = pointer.with_name(f".{pointer.name}.unreadable")  # DVC reads every *.dvc
        pointer.rename(aside)
        try:
            yield
        except BaseException:
            aside.rename(pointer)
            raise
        aside.unlink()
    else:
        yield


def place(source: Path, directory: Path) -> None:
    """Put a data set in the place of another, in one step: a reader sees the old one or the new one.

    The files get a second name (hard links) where the file system can do that, and are copied where it cannot.
    """
    with replace.building(directory) as new:
        shutil.copytree(source, new, copy_function=_link, dirs_exist_ok=True)
        replace.publish(new, directory)


def push(directory: Path, remote: str | None = None) -> str:
    """Store the pinned version at a remote.

    Args:
        directory: the data set.
        remote: name of the DVC remote; None: the default one.

    Returns:
        The md5 of the version stored.

    Raises:
        InputError: never pinned, changed since, no remote configured, or DVC cannot store it.
    """
    pinned, root = _pinned(directory)
    current = status(directory).current
    if current is not None and current != pinned:
        raise InputError(f"{directory}: changed since it was pinned ({pinned}); pin it first: `notellm2 data pin`")
    said = _dvc(root, "push", *_remote(remote), str(_pointer(directory).absolute()))
    if any(mark in said for mark in _MISSING_CACHE):
        # DVC ends well here, having stored nothing.
        raise InputError(f"{directory}: DVC's cache lacks the version {pinned}, so nothing was stored; pin it again")
    return pinned


def remotes(directory: Path) -> list[str]:
    """List the DVC remotes of the repository that pins a directory, by name; none where there is no repository."""
    root = _root(directory)
    # `dvc remote list` breaks long lines like a terminal.
    settings = "" if root is None else _dvc(root, "config", "--list")
    return re.findall(r"^remote\.(.+)\.url=", settings, re.MULTILINE)


def is_stored(directory: Path) -> bool:
    """Return whether the default remote holds the pinned version; asks it, and changes nothing.

    Raises:
        InputError: never pinned, no default remote, or it does not answer; DVC's message is kept.
    """
    _, root = _pinned(directory)
    return _IN_SYNC in _dvc(root, "status", "--cloud", str(_pointer(directory).absolute()))


def pull(directory: Path, remote: str | None = None) -> str:
    """Bring the pinned version to disk, from DVC's cache or a remote; nothing is done if it is there already.

    Args:
        directory: the data set.
        remote: name of the DVC remote; None: the default one.

    Returns:
        The md5 of the version on disk.

    Raises:
        InputError: never pinned, data on disk that are pinned nowhere, no remote, or not stored there.
    """
    pinned, root = _pinned(directory)
    if status(directory).current == pinned:
        return pinned
    _dvc(root, "pull", *_remote(remote), str(_pointer(directory).absolute()))
    fetched = data_md5(directory)
    if fetched != pinned:
        raise InputError(f"{directory}: fetched the version {fetched}, but {_pointer(directory)} names {pinned}")
    return fetched


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def file_md5(path: Path) -> str:
    """Compute the MD5 (hex) of a file: DVC's name for its bytes, and an object store's tag of a whole upload."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _pointer(directory: Path) -> Path:
    absolute = directory.absolute()
    return absolute.with_name(f"{absolute.name}.dvc")


def _pinned(directory: Path) -> tuple[str, Path]:
    """The pinned version and the DVC repository around it."""
    pinned = pinned_md5(directory)
    if pinned is None:
        raise InputError(f"{directory}: never pinned (no {_pointer(directory).name} beside it); `notellm2 data pin`")
    root = _root(directory)
    if root is None:
        raise InputError(f"{_pointer(directory)}: lies in no DVC repository (no .dvc/ above it); pin the data again")
    return pinned, root


def _root(directory: Path) -> Path | None:
    """The nearest folder above with DVC's settings."""
    return next((parent for parent in directory.absolute().parents if (parent / ".dvc" / "config").is_file()), None)


def _initialise(directory: Path) -> Path:
    absolute = directory.absolute()
    git = next((parent for parent in absolute.parents if (parent / ".git").exists()), None)
    root = git or absolute.parent
    _dvc(root, "init", *(() if git else ("--no-scm",)))
    # Written at once instead of by a command a setting: each DVC command costs a second.
    settings = {"analytics": "false", "check_update": "false"} | ({} if git else {"no_scm": "True"})
    lines = ["[core]", *(f"    {name} = {value}" for name, value in settings.items())]
    write_atomic(root / ".dvc" / "config", "\n".join(lines) + "\n")
    return root


def _remote(name: str | None) -> Sequence[str]:
    return () if name is None else ("--remote", name)


def _dvc(root: Path, *arguments: str) -> str:
    """Run one DVC command in its repository and return all it said; wait for other DVC commands to finish.

    Raises:
        InputError: it failed; says what to do where that is known.
    """
    # -P: the repository's own folders (there is one named mlflow/) must not shadow installed packages.
    command = [sys.executable, "-P", "-m", "dvc", *arguments]
    environment = {**os.environ, "DVC_NO_ANALYTICS": "1", "PYTHONUNBUFFERED": "1"}
    for pause in (*PAUSES_S, None):
        done = subprocess.run(
            command, cwd=root, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
        )
        said = f"{done.stdout}\n{done.stderr}".strip()
        if done.returncode == 0:
            return said
        if pause is None or not any(mark in said for mark in _LOCKED):
            break
        time.sleep(pause)
    raise InputError(_explained(root, arguments[0], said))


def _explained(root: Path, command: str, said: str) -> str:
    if any(mark in said for mark in _LOCKED):
        return (
            f"{root}: another DVC command has held the lock for over {sum(PAUSES_S):.0f} s; try again when it is done"
        )
    if any(mark in said for mark in _NO_REMOTE):
        return f"{root}: no DVC remote is set up; name one with `dvc remote add --default NAME URL`, then try again"
    if _UNSAVED in said:
        return (
            f"{root}: `dvc {command}` would overwrite data that are pinned nowhere; pin them, or move them away\n{said}"
        )
    return f"{root}: `dvc {command}` failed:\n{said or 'it said nothing; run it by hand with --verbose'}"
