"""Where one installation keeps everything it makes: artifacts, MLflow's and Prefect's files, published indexes."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from notellm2.errors import InputError

PUBLISHED = "NOTELLM2_PUBLISHED"
"""Environment variable: a folder or an ``s3://bucket/prefix`` URL, the published place instead of the store's."""
_LOCK = ".lock"
_POLL_S = 0.02


class Locked(TimeoutError):
    """A lock stayed with another process.

    Attributes:
        holder: what that process wrote into the lock's file.
    """

    def __init__(self, path: Path, holder: str, waited_s: float):
        super().__init__(f"{path}: held by {holder} for more than {waited_s:g} s")
        self.holder = holder


@contextlib.contextmanager
def file_lock(path: Path, purpose: str, *, timeout_s: float) -> Iterator[None]:
    """Exclude every other process on this machine; the system frees the lock when its holder ends, however it ends.

    Args:
        path: the lock's file; made, with its folder, when missing, and left there.
        purpose: what it is held for, shown to the next one who asks, with this process and the time.
        timeout_s: seconds to wait for another holder; 0: not at all.

    Raises:
        Locked: another process held it for `timeout_s` seconds.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + timeout_s
    with path.open("a+") as handle:
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    handle.seek(0)
                    raise Locked(path, handle.read().strip() or "another process", timeout_s) from None
                time.sleep(_POLL_S)
        handle.truncate(0)
        handle.write(f"{purpose}, process {os.getpid()}, since {datetime.now(UTC).isoformat(timespec='seconds')}\n")
        handle.flush()
        try:
            yield
        finally:
            # By name: closing would leave it with a forked child that has inherited the file.
            fcntl.flock(handle, fcntl.LOCK_UN)


@dataclass(frozen=True)
class Workspace:
    """One folder; its artifacts lie at the top, what is no artifact under names that begin with ``_``.

    Attributes:
        root: the folder, absolute.
    """

    root: Path

    @classmethod
    def at(cls, root: Path) -> Workspace:
        """Return the workspace at a folder, made absolute so that later changes of directory do not matter."""
        return cls(root.absolute())

    @property
    def tracking_uri(self) -> str:
        """MLflow's default store here: a SQLite file."""
        return f"sqlite:///{self.root / '_mlflow' / 'mlflow.db'}"

    @property
    def mlflow_artifacts(self) -> Path:
        """MLflow's default artifact folder."""
        return self.root / "_mlflow" / "artifacts"

    @property
    def prefect_home(self) -> Path:
        """Prefect's home: its settings and the embedded server's database."""
        return self.root / "_prefect"

    @property
    def vision_cache(self) -> Path:
        """Frozen vision features by image and encoder, shared by all runs."""
        return self.root / "_vision"

    @property
    def published(self) -> Path | str:
        """Published indexes and the pointer ``current.json`` that readers follow: here, or where `PUBLISHED` names."""
        return os.environ.get(PUBLISHED) or self.root / "_published"

    def of_flow(self, name: str) -> Workspace:
        """Return a folder of a flow's own in here; its lock and Prefect home let it not wait for a retraining.

        Args:
            name: of the flow, such as ``ingest``.
        """
        return Workspace(self.root / f"_{name}")

    @contextlib.contextmanager
    def exclusive(self, purpose: str, *, wait_s: float = 0) -> Iterator[None]:
        """Hold the workspace for one writer; the system frees it when the process ends, however it ends.

        Args:
            purpose: what it is held for, shown to another writer.
            wait_s: seconds to wait for another holder; 0: not at all.

        Raises:
            InputError: another process holds it; names the purpose, the process, and since when.
        """
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(file_lock(self.root / _LOCK, purpose, timeout_s=wait_s))
            except Locked as locked:
                raise InputError(
                    f"store {self.root}: in use by {locked.holder}; wait for it, or choose another store"
                ) from None
            yield
