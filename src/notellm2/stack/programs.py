"""A service of docker-compose.yml in its native form: the same program, on this machine instead of in a container.

What differs is written in that file: as the variables ``NATIVE_…``, which only this room sets, and under the service's
``x-native``. Beside that, ``python`` is the interpreter that runs this, and a volume a folder of the state folder.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from notellm2.stack.compose import LOOPBACK, Service

_ANY = "0.0.0.0"  # noqa: S104
_INHERITED = re.compile(
    r"PATH|HOME|USER|LOGNAME|LANG|LC_\w+|TZ|TMPDIR|LD_LIBRARY_PATH|CUDA_\w+|NVIDIA_\w+|OMP_NUM_THREADS|HF_HOME"
    r"|SSL_CERT_\w+|REQUESTS_CA_BUNDLE|(?:https?|all|no)_proxy|(?:HTTPS?|ALL|NO)_PROXY"
)
"""What a service takes from the environment of `up`: where things are on this machine, no setting of a service."""


@dataclass(frozen=True)
class Program:
    """One service in its native form.

    Attributes:
        command: program and arguments.
        environment: its variables, beside those of `inherited_environment`.
        folder: where it starts.
        user: system user it becomes where we are root; empty: ours.
    """

    command: tuple[str, ...]
    environment: Mapping[str, str]
    folder: Path
    user: str = ""


@dataclass(frozen=True)
class Machine:
    """This machine, as the services' native forms see it.

    Attributes:
        project: the folder of docker-compose.yml.
        volumes: the folder of what are named volumes to the containers.
        bind: address of pages and APIs.
        objects: whether an object store is named.
    """

    project: Path
    volumes: Path
    bind: str
    objects: bool

    @property
    def variables(self) -> dict[str, str]:
        """What docker-compose.yml is filled in with beside the settings."""
        return {
            "NATIVE_LISTEN": self.bind,
            "NATIVE_ADDRESS": LOOPBACK if self.bind == _ANY else self.bind,
            "NATIVE_LOOPBACK": LOOPBACK,
            "NATIVE_PROJECT": str(self.project),
            "NATIVE_VOLUMES": str(self.volumes),
        }

    def environment(self, service: Service) -> dict[str, str]:
        """Return the environment of a service's program."""
        without = {} if self.objects else service.native.without_objects
        return {**service.environment, **service.native.environment, **without}

    def program(self, service: Service) -> Program:
        """Return the native form of a service."""
        return Program(self.command(service.command), self.environment(service), self.project)

    def command(self, command: tuple[str, ...]) -> tuple[str, ...]:
        """Return a command of a service, its own or its health check's."""
        return (sys.executable if command[0] == "python" else command[0], *command[1:])

    def address(self, service: Service) -> str:
        """Return the address at which a service is reached from this machine."""
        return self.variables["NATIVE_ADDRESS" if service.ports else "NATIVE_LOOPBACK"]

    def url(self, service: Service) -> str:
        """Return the URL of a service on this machine; empty where it listens nowhere."""
        scheme = "postgresql" if service.command[:1] == ("postgres",) else "http"
        return f"{scheme}://{self.address(service)}:{service.native.port}" if service.native.port else ""

    def folder(self, source: str) -> Path:
        """Return what a mount's source is here: a path, from the project's folder; otherwise a volume's name."""
        if source.startswith(("/", ".", "~")):
            return (self.project / Path(source).expanduser()).resolve()
        return self.volumes / source


def inherited_environment(programs: Path | None) -> dict[str, str]:
    """Return what services take from the environment of this process, with a folder of programs first on PATH."""
    variables = {name: value for name, value in os.environ.items() if _INHERITED.fullmatch(name)}
    path = variables.get("PATH", os.defpath)
    return {**variables, "PATH": f"{programs}{os.pathsep}{path}" if programs else path}
