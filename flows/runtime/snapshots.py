"""A run of a deployment reads its data from a copy that nobody changes, and keeps to it when it comes back.

Ingest replaces the data set's folder while a retraining of hours may be reading it, and a run that was suspended until
a person decides, or that crashed and is taken up again, must go on with the data it began with. So such a run gives
the version's files a second name (hard links: no bytes are copied on one file system) in a folder named by its md5,
``_data/versions/<md5>``, and notes which one it reads. A run of the command line reads the data set where it is.
"""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path

from flows.runtime.job import Job
from notellm2.artifacts import write_atomic
from notellm2.notes import versions

_TRIES = 3


def data_of_run(job: Job) -> Path | None:
    """Return the data that this run read when it began; None: it begins now, or is no run of a deployment."""
    if job.flow_run is None or not _note(job).is_file():
        return None
    kept = _versions(job) / str(json.loads(_note(job).read_text())["md5"])
    return kept if kept.is_dir() else None


def keep(job: Job, folder: Path) -> tuple[Path, str]:
    """Keep the version in a folder under a name that stays as it is; returns that folder and its md5.

    Raises:
        OSError: the folder was replaced again and again meanwhile, or cannot be read.
    """
    if job.flow_run is None:
        return folder, versions.data_md5(folder)
    if folder.parent == _versions(job):
        return folder, folder.name
    scratch = _versions(job) / f".new-{uuid.uuid4().hex[:8]}"
    try:
        _linked(folder, scratch)
        md5 = versions.data_md5(scratch)
        kept = _versions(job) / md5
        try:
            scratch.rename(kept)
        except OSError:
            if not kept.is_dir():  # else another run has kept the same version
                raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    os.utime(kept)  # in use now: cleanup goes by it
    write_atomic(_note(job), json.dumps({"md5": md5}) + "\n")
    return kept, md5


def release(job: Job) -> None:
    """Let this run read the data anew if it is tried again: what it began with is not fit to be trained on."""
    if job.flow_run is not None:
        _note(job).unlink(missing_ok=True)


def remove_old(
    job: Job,
    older_than_s: float,
    now: float,
    *,
    dry_run: bool,
    unfinished: Callable[[set[str]], set[str]] = lambda _: set(),
) -> list[Path]:
    """Remove versions and notes that no run has begun with for so long; returns them.

    Args:
        job: whose store it is.
        older_than_s: age below which nothing goes, seconds.
        now: seconds since 1970.
        dry_run: only say what would go.
        unfinished: which of these flow runs have not ended: they train, or wait for a person, for days maybe, and what
            they began with stays.
    """
    horizon = now - older_than_s
    notes = {path.stem: path for path in _note(job).parent.glob("*.json")}
    old = {run for run, path in notes.items() if path.stat().st_mtime < horizon}
    old -= unfinished(old)
    read = {str(json.loads(path.read_text())["md5"]) for run, path in notes.items() if run not in old}
    # With what killed runs left half-linked.
    gone = [p for p in _versions(job).glob("*") if p.stat().st_mtime < horizon and p.name not in read]
    gone += [notes[run] for run in sorted(old)]
    for path in [] if dry_run else gone:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
    return gone


def _versions(job: Job) -> Path:
    return job.root / "_data" / "versions"


def _note(job: Job) -> Path:
    return job.root / "_data" / "runs" / f"{job.flow_run}.json"


def _linked(folder: Path, into: Path) -> None:
    """Link every file of a folder that another process may replace in one step at any time."""
    for _ in range(_TRIES):
        shutil.rmtree(into, ignore_errors=True)
        opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            for place, _, names, descriptor in os.fwalk(".", dir_fd=opened):
                (into / place).mkdir(parents=True, exist_ok=True)
                for name in names:
                    _link(name, descriptor, into / place / name)
            if os.path.samestat(os.fstat(opened), folder.stat()):
                return
        except FileNotFoundError:
            continue  # The folder we had opened was replaced, and is being removed.
        finally:
            os.close(opened)
    raise OSError(f"{folder}: replaced {_TRIES} times while its files were linked; try again when imports are done")


def _link(name: str, folder: int, target: Path) -> None:
    """Give a file of an opened folder a second name; where that cannot be, copy it."""
    try:
        os.link(name, target, src_dir_fd=folder)
    except FileNotFoundError:
        raise
    except OSError:  # another file system, or one without links
        source = os.open(name, os.O_RDONLY, dir_fd=folder)
        with os.fdopen(source, "rb") as original, target.open("wb") as copy:
            shutil.copyfileobj(original, copy)
