"""A service of docker-compose.yml in its native form: the same program, with containers' names and paths replaced.

What differs between a container and a process of this machine is only this:

- the address of all networks becomes the one that the service is published on, and a service's host name the address
  it listens on;
- a mounted volume becomes a folder of the state folder, a mounted folder of the project that folder, and the image's
  ``/app`` the project;
- ``python`` is the interpreter that runs this;
- what the service's ``x-native`` says.
"""

from __future__ import annotations

import functools
import os
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from notellm2.stack.compose import LOOPBACK, Service

IMAGE_FOLDER = "/app"
"""Where the images hold the project."""

_TEMPORARY = "/tmp"  # noqa: S108
"""A volume to containers, for its size; this machine has its own, and paths in .env may lie in it."""
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
        environment: its variables, beside those of `inherited`.
        folder: where it starts.
        user: system user it becomes where we are root; empty: ours.
    """

    command: tuple[str, ...]
    environment: Mapping[str, str]
    folder: Path
    user: str = ""


def inherited(programs: Path | None) -> dict[str, str]:
    """What services take from the environment of this process, with a folder of programs first on PATH."""
    variables = {name: value for name, value in os.environ.items() if _INHERITED.fullmatch(name)}
    path = variables.get("PATH", os.defpath)
    return {**variables, "PATH": f"{programs}{os.pathsep}{path}" if programs else path}


@dataclass(frozen=True)
class Machine:
    """This machine as the services' native forms see it.

    Attributes:
        services: every service of the file, whose names are host names.
        project: the folder of docker-compose.yml.
        volumes: the folder of what are named volumes to the containers.
        objects: whether an object store is named.
    """

    services: Mapping[str, Service]
    project: Path
    volumes: Path
    objects: bool

    def environment(self, service: Service) -> dict[str, str]:
        """The environment of a service's program."""
        without = {} if self.objects else service.native.without_objects
        variables = {**service.environment, **service.native.environment, **without}
        return {
            name: self.address(value)
            if name.endswith("HOST") and value in self.services
            else self._translated(value, service)
            for name, value in variables.items()
        }

    def program(self, service: Service) -> Program:
        """The native form of a service."""
        return Program(
            command=self.command(service, service.command),
            environment=self.environment(service),
            folder=Path(self._translated(service.working_dir or IMAGE_FOLDER, service)),
            user=service.native.user,
        )

    def command(self, service: Service, command: tuple[str, ...]) -> tuple[str, ...]:
        """A command of a service, its own or its health check's."""
        program, *arguments = (self._translated(part, service) for part in command)
        return (sys.executable if program == "python" else program, *arguments)

    def address(self, name: str) -> str:
        """The address at which a service is reached from this machine."""
        address = self.services[name].address
        return LOOPBACK if address == _ANY else address

    def url(self, name: str) -> str:
        """Where a service is reached from this machine; empty where it listens nowhere."""
        service = self.services[name]
        scheme = "postgresql" if service.command[:1] == ("postgres",) else "http"
        return f"{scheme}://{self.address(name)}:{service.native.port}" if service.native.port else ""

    def folder(self, source: str) -> Path:
        """What a mount's source is here: a path, from the project's folder; otherwise a volume's name."""
        if source.startswith(("/", ".", "~")):
            return (self.project / Path(source).expanduser()).resolve()
        return self.volumes / source

    def _translated(self, text: str, service: Service) -> str:
        if text == _ANY:
            return service.address
        text = self._hosts.sub(lambda match: self.address(match.group()), text)
        paths, folders = self._paths
        return paths.sub(lambda match: str(folders[match.group()]), text)

    @functools.cached_property
    def _hosts(self) -> re.Pattern[str]:
        """Names of services in URLs."""
        hosts = "|".join(re.escape(name) for name in self.services)
        return re.compile(rf"(?<=://)(?:{hosts})(?=[:/]|$)|(?<=@)(?:{hosts})(?=[:/])")

    @functools.cached_property
    def _paths(self) -> tuple[re.Pattern[str], dict[str, Path]]:
        """Paths of containers, and the folders of this machine that they become."""
        mounts = {target: source for service in self.services.values() for target, source in service.mounts.items()}
        folders = {target: self.folder(source) for target, source in mounts.items() if target != _TEMPORARY}
        folders[IMAGE_FOLDER] = self.project
        # A folder of this machine that .env names stays itself, though it begin like one of an image.
        folders |= {source: Path(source) for source in mounts.values() if source.startswith("/")}
        # Longest first: a mount below another one is the nearer.
        paths = "|".join(re.escape(path) for path in sorted(folders, key=len, reverse=True))
        return re.compile(rf"(?<![\w/.])(?:{paths})(?=/|$)"), folders
