"""The state folder of a native stack: where everything lies, and the file that describes one program."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from notellm2.artifacts import write_atomic

STACK_MARK = "NOTELLM2_STACK_STATE"
SERVICE_MARK = "NOTELLM2_STACK_SERVICE"
"""Variables in the environment of every process of a stack: by them its processes are found again, whatever happened
to their parents."""

_SOCKET_LIMIT = 100
"""Most bytes of a Unix socket's path (the system's limit is 108 with the closing zero)."""


@dataclass(frozen=True)
class Program:
    """One service in its native form.

    Attributes:
        command: program and arguments.
        environment: what it is given.
        inherited: what it takes from the environment of `up`, where the service is not given the same.
        folder: where it starts.
        user: system user it becomes where we are root; empty: nobody else.
    """

    command: tuple[str, ...]
    environment: Mapping[str, str]
    inherited: Mapping[str, str]
    folder: str
    user: str = ""

    @classmethod
    def read(cls, path: Path) -> Program:
        """Read a program's file."""
        content = json.loads(path.read_text())
        return cls(**{**content, "command": tuple(content["command"])})

    def text(self) -> str:
        """What `read` reads."""
        return json.dumps(dataclasses.asdict(self), indent=1, sort_keys=True)

    def whole_environment(self) -> dict[str, str]:
        """All variables of its process."""
        return {**self.inherited, **self.environment}

    def digest(self) -> str:
        """Tells two definitions apart, so that a changed one is restarted; another shell's PATH is no change."""
        return hashlib.sha256(dataclasses.replace(self, inherited={}).text().encode()).hexdigest()


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
    def programs(self) -> Path:
        """One file a service, with its environment: readable by its owner alone."""
        return self.root / "programs"

    @property
    def supervisor_file(self) -> Path:
        """Supervisor's configuration."""
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
        """The log of a service."""
        return self.logs / f"{name}.log"

    def program(self, name: str) -> Path:
        """The file that describes a service's program."""
        return self.programs / f"{name}.json"

    def launched(self, name: str) -> Path:
        """Digest of the definition that a service was last started with."""
        return self.programs / f"{name}.launched"

    def marks(self, name: str) -> dict[str, str]:
        """The marks in the environment of a service's processes."""
        return {STACK_MARK: str(self.root), SERVICE_MARK: name}

    def make(self) -> None:
        """Make the folders. Others may pass through the root, not list it: PostgreSQL runs as another user than root.

        Raises:
            OSError: the folder cannot be made.
        """
        self.root.mkdir(parents=True, exist_ok=True)
        self.root.chmod(0o711)
        # First the one by which `up` knows a state folder of its own, should it be killed here.
        for private in (self.programs, self.logs, self.socket.parent):
            if private != self.root:
                private.mkdir(mode=0o700, exist_ok=True)
                private.chmod(0o700)
        self.volumes.mkdir(exist_ok=True)
        self.volumes.chmod(0o711)

    def make_volume(self, folder: Path, *, shared: bool) -> None:
        """Make the folder of a volume for us alone, or for another user to pass through, whatever the umask."""
        folder.mkdir(mode=0o700, exist_ok=True)
        if shared:
            folder.chmod(folder.stat().st_mode | 0o011)

    def write_program(self, name: str, program: Program) -> None:
        """Write a service's file; its folder is closed to others."""
        write_atomic(self.program(name), program.text())
