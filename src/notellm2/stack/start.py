"""Start services in the order of their dependencies, wait until each is well, and say why one is not."""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from notellm2.stack.compose import Service
from notellm2.stack.programs import Machine
from notellm2.stack.supervisor import ENDED, Process, Supervisor

_POLL_S = 0.3
_LIMIT_S = 600.0
"""Seconds a one-shot, or a server without a health check, may take."""
_DEATHS = 3
"""A server that has ended this often before it was healthy is given up."""
_TAIL_LINES = 25


class ServiceFailed(ChildProcessError):
    """A service did not come up.

    Attributes:
        service: its name.
        log: its log's file.
        tail: the last lines of its log.
    """

    def __init__(self, service: str, why: str, log: Path):
        super().__init__(f"{service} {why}")
        self.service, self.log, self.tail = service, log, last_lines(log, _TAIL_LINES)


@dataclass
class _Waiting:
    """A service that is waited for: since when, its processes so far, how often one ended."""

    since: float = field(default_factory=time.monotonic)
    pid: int = 0
    deaths: int = 0


@dataclass(frozen=True)
class Start:
    """One start of some services.

    Attributes:
        supervisor: starts them.
        machine: knows their native forms.
        environment: of health checks, beside each service's own.
        say: called with each step in a line.
    """

    supervisor: Supervisor
    machine: Machine
    environment: Mapping[str, str]
    say: Callable[[str], None]

    def run(self, names: list[str]) -> None:
        """Start services, side by side where they do not wait for each other.

        Raises:
            ServiceFailed: one did not come up; the others are left as they are.
        """
        todo, waiting = {name: self.machine.services[name] for name in names}, dict[str, _Waiting]()
        while todo:
            for name, service in todo.items():
                if name not in waiting and not todo.keys() & set(service.depends_on):
                    waiting[name] = _Waiting()
                    process = self.supervisor.process(name)
                    if process is None or process.state in ENDED:
                        self.say(f"{name}: starting")
                        self.supervisor.start_service(name)
            for name in [name for name in waiting if self._is_done(todo[name], waiting[name])]:
                took_s = time.monotonic() - waiting.pop(name).since
                done = "done" if todo.pop(name).one_shot else "healthy"
                self.say(f"{name}: {done} after {took_s:.1f} s {self.machine.url(name)}".rstrip())
            if waiting:
                time.sleep(_POLL_S)

    def _is_done(self, service: Service, waiting: _Waiting) -> bool:
        """Whether a service is done or healthy.

        Raises:
            ServiceFailed: it will not be.
        """
        name, log = service.name, self.supervisor.state.log(service.name)
        process = self.supervisor.process(name)
        if process is None:
            raise ServiceFailed(name, "is unknown to supervisor, or supervisor has ended", log)
        if process.pid:
            waiting.deaths += waiting.pid not in (0, process.pid)
            waiting.pid = process.pid
        if self._is_well(service, process):
            return True
        limit = service.health.limit_s if service.health else _LIMIT_S
        if process.state == "FATAL":
            raise ServiceFailed(name, "does not start", log)
        if service.one_shot and process.state in ENDED:
            raise ServiceFailed(name, f"failed with status {process.status}", log)
        if waiting.deaths >= _DEATHS:
            raise ServiceFailed(name, f"ended {waiting.deaths} times before it was healthy", log)
        if time.monotonic() - waiting.since > limit:
            raise ServiceFailed(name, f"is not {'done' if service.one_shot else 'healthy'} after {limit:.0f} s", log)
        return False

    def _is_well(self, service: Service, process: Process) -> bool:
        if service.one_shot:
            return process.state == "EXITED" and process.status == 0
        return process.state == "RUNNING" and self.passes_check(service)

    def passes_check(self, service: Service) -> bool:
        """Whether a service passes its health check now; one without a check does."""
        if service.health is None:
            return True
        try:
            done = subprocess.run(
                self.machine.command(service, service.health.test),
                env={**self.environment, **self.machine.environment(service)},
                cwd="/",
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=service.health.timeout_s,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return False
        return done.returncode == 0


def last_lines(path: Path, count: int) -> list[str]:
    """The last lines of a log; none where it is not there."""
    with contextlib.suppress(FileNotFoundError), path.open("rb") as handle:
        handle.seek(max(0, path.stat().st_size - 400 * count))
        return handle.read().decode(errors="replace").splitlines()[-count:]
    return []
