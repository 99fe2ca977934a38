"""Where one installation keeps everything it makes: artifacts, MLflow's and Prefect's files, published indexes."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TextIO

from notellm2.errors import InputError

_LOCK = ".lock"


@dataclass(frozen=True)
class Workspace:
    """One folder; its artifacts lie at the top, what is no artifact under names that begin with ``_``.

    Attributes:
        root: the folder, absolute.
    """

    root: Path

    @classmethod
    def at(cls, root: Path) -> Workspace:
        """The workspace at a folder, made absolute so that later changes of directory do not matter."""
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
    def published(self) -> Path:
        """Published indexes and the pointer ``current.json`` that readers follow."""
        return self.root / "_published"

    @contextlib.contextmanager
    def exclusive(self, purpose: str) -> Iterator[None]:
        """Hold the workspace for one writer; the system frees it when the process ends, however it ends.

        Args:
            purpose: what it is held for, as another writer is told.

        Raises:
            InputError: another process holds it; names the purpose, the process, and since when.
        """
        self.root.mkdir(parents=True, exist_ok=True)
        with (self.root / _LOCK).open("a+") as handle:
            self._take(handle, purpose)
            try:
                yield
            finally:
                fcntl.flock(handle, fcntl.LOCK_UN)

    def _take(self, handle: TextIO, purpose: str) -> None:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            handle.seek(0)
            holder = handle.read().strip() or "another process"
            raise InputError(f"store {self.root}: in use by {holder}; wait for it, or choose another store") from None
        handle.truncate(0)
        handle.write(f"{purpose}, process {os.getpid()}, since {datetime.now(UTC).isoformat(timespec='seconds')}\n")
        handle.flush()
