"""A service of docker-compose.yml in its native form: the same program, with containers' names and paths replaced.

What differs between a container and a process of this machine is only this:

- the address of all networks becomes the one that `NOTELLM2_BIND` names, and a service's host name the address it
  listens on;
- a mounted volume becomes a folder of the state folder, a mounted folder of the project that folder, and the image's
  ``/app`` the project;
- ``python`` is the interpreter that runs this;
- what the service's ``x-native`` says.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from notellm2.stack.compose import Service
from notellm2.stack.layout import Program, StateFolder

IMAGE_FOLDER = "/app"
"""Where the images hold the project."""

LOOPBACK = "127.0.0.1"
_TEMPORARY = "/tmp"  # noqa: S108
"""A volume to containers, for its size; this machine has its own, and paths in .env may lie in it."""
_ANY = "0.0.0.0"  # noqa: S104
_INHERITED = re.compile(
    r"PATH|HOME|USER|LOGNAME|LANG|LC_\w+|TZ|TMPDIR|LD_LIBRARY_PATH|CUDA_\w+|NVIDIA_\w+|OMP_NUM_THREADS|HF_HOME"
    r"|SSL_CERT_\w+|REQUESTS_CA_BUNDLE|(?:https?|all|no)_proxy|(?:HTTPS?|ALL|NO)_PROXY"
)
"""What a service takes from the environment of `up`: where things are on this machine, no setting of a service."""


@dataclass(frozen=True)
class Surroundings:
    """What native forms of all services share.

    Attributes:
        services: every service of the file, whose names are host names.
        project: the folder of docker-compose.yml.
        state: the state folder.
        bind: address on which what containers publish is reached.
        objects: whether an object store is named.
    """

    services: Mapping[str, Service]
    project: Path
    state: StateFolder
    bind: str
    objects: bool

    def environment(self, service: Service) -> dict[str, str]:
        """The environment of a service's program, without what it takes from this process."""
        native = service.native
        without = {} if self.objects else native.without_objects
        given = {**service.environment, **native.environment, **without}
        return {name: self._translated(value, name) for name, value in given.items()}

    def program(self, service: Service) -> Program:
        """The native form of a service."""
        inherited = {name: value for name, value in os.environ.items() if _INHERITED.fullmatch(name)}
        folder = self._path(service.working_dir or IMAGE_FOLDER)
        return Program(
            command=self.command(service.command),
            environment=self.environment(service),
            inherited=inherited,
            folder=str(folder),
            user=service.native.user,
        )

    def command(self, command: tuple[str, ...]) -> tuple[str, ...]:
        """A command of a service, its own or its health check's."""
        program, *arguments = (self._translated(part) for part in command)
        return (sys.executable if program == "python" else program, *arguments)

    def address(self, name: str) -> str:
        """The address at which a service is reached from this machine."""
        published = _ANY in self.services[name].command and self.bind != _ANY
        return self.bind if published else LOOPBACK

    def folder(self, source: str) -> Path:
        """What a mount's source is here: a path, from the project's folder; otherwise a volume's name."""
        if source.startswith(("/", ".", "~")):
            return (self.project / Path(source).expanduser()).resolve()
        return self.state.volumes / source

    def _translated(self, text: str, name: str = "") -> str:
        if text == _ANY:
            return self.bind
        if name.endswith("HOST") and text in self.services:
            return self.address(text)
        hosts = "|".join(re.escape(other) for other in self.services)
        in_url = rf"(?<=://)(?:{hosts})(?=[:/]|$)|(?<=@)(?:{hosts})(?=[:/])"
        return self._path(re.sub(in_url, lambda match: self.address(match.group()), text))

    def _path(self, text: str) -> str:
        mounts = {target: source for other in self.services.values() for target, source in other.volumes.items()}
        places = {target: self.folder(source) for target, source in mounts.items() if target != _TEMPORARY}
        places[IMAGE_FOLDER] = self.project
        # A folder of this machine that .env names stays itself, though it begin like one of an image.
        places |= {source: Path(source) for source in mounts.values() if source.startswith("/")}
        # Longest first: a mount below another one is the nearer.
        targets = "|".join(re.escape(target) for target in sorted(places, key=len, reverse=True))
        return re.sub(rf"(?<![\w/.])(?:{targets})(?=/|$)", lambda match: str(places[match.group()]), text)
