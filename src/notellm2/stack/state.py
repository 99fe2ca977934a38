"""The state folder of a native stack: where its data, logs and process files lie."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from notellm2.errors import InputError

_SOCKET_LIMIT = 100
"""Most bytes of a Unix socket's path (the system's limit is 108 with the closing zero)."""


@dataclass(frozen=True)
class StateFolder:
    """Paths of one native stack.

    Attributes:
        root: the folder, absolute.
    """

    root: Path

    @property
    def logs(self) -> Path:
        """One log a service, and supervisor's own."""
        return self.root / "logs"

    @property
    def volumes(self) -> Path:
        """What are named volumes to the containers."""
        return self.root / "volumes"

    @property
    def supervisor_file(self) -> Path:
        """Supervisor's configuration, with the services' environments: readable by its owner alone."""
        return self.root / "supervisord.conf"

    @property
    def socket(self) -> Path:
        """Where supervisor answers: in the folder, or under the system's temporary one where that path is too long."""
        inside = self.root / "supervisor.sock"
        if len(os.fsencode(inside)) <= _SOCKET_LIMIT:
            return inside
        digest = hashlib.sha256(os.fsencode(self.root)).hexdigest()[:16]
        return Path(tempfile.gettempdir()) / f"notellm2-{os.getuid()}-{digest}" / "supervisor.sock"

    def log(self, name: str) -> Path:
        """Return the path of a service's log."""
        return self.logs / f"{name}.log"

    def make(self) -> None:
        """Make the folders. Others may pass through the root, not list it: PostgreSQL runs as another user than root.

        Raises:
            InputError: the folder has a name that supervisor cannot read, or holds something else.
            OSError: it cannot be made.
        """
        if unfit := set("%;#\"'\n") & set(str(self.root)):
            raise InputError(f"state folder {self.root}: supervisor cannot read {''.join(unfit)!r} in a path")
        if self.root.is_dir() and any(self.root.iterdir()) and not self.logs.is_dir():
            raise InputError(f"state folder {self.root}: holds something else; choose an empty one with --state")
        self.root.mkdir(parents=True, exist_ok=True)
        self.root.chmod(0o711)
        # First the one by which `make` knows a state folder of its own, should it be killed here.
        for private in (self.logs, self.socket.parent):
            if private != self.root:
                private.mkdir(mode=0o700, exist_ok=True)
                private.chmod(0o700)
        self.volumes.mkdir(exist_ok=True)
        self.volumes.chmod(0o711)
        shutil.rmtree(self.root / "programs", ignore_errors=True)  # Earlier releases kept secrets there.
