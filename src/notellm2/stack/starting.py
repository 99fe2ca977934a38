"""Start services in the order of their dependencies, wait until each is well, and say why one is not."""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from notellm2.stack.compose import Service
from notellm2.stack.layout import Program
from notellm2.stack.programs import Surroundings
from notellm2.stack.supervised import ENDED, Process, Supervisor

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


@dataclass(frozen=True)
class Start:
    """One start of some services.

    Attributes:
        supervisor: who starts them.
        surroundings: what their native forms share.
        programs: the services to start, by name.
        needs: service → those of these that must be well before it starts.
        url: where a service is reached.
        say: told each step in a line.
    """

    supervisor: Supervisor
    surroundings: Surroundings
    programs: Mapping[str, Program]
    needs: Mapping[str, Sequence[str]]
    url: Callable[[str], str]
    say: Callable[[str], None]

    def run(self) -> None:
        """Start them, side by side where they do not wait for each other.

        Raises:
            ServiceFailed: one did not come up; the others are left as they are.
        """
        waiting, starting, well = list(self.programs), dict[str, float](), set[str]()
        deaths, pids = Counter[str](), dict[str, int]()
        while waiting or starting:
            for name in [n for n in waiting if all(other in well for other in self.needs[n])]:
                waiting.remove(name)
                starting[name] = time.monotonic()
                process = self.supervisor.process(name)
                if process is None or process.state in ENDED:
                    self.say(f"{name}: starting")
                    self.supervisor.start_service(name)
            for name, begun in list(starting.items()):
                process = self.supervisor.process(name)
                if process is None:
                    raise ServiceFailed(name, "is unknown to supervisor, or supervisor has ended", self._log(name))
                if process.pid:
                    deaths[name] += pids.get(name, process.pid) != process.pid
                    pids[name] = process.pid
                if self._is_well(name, process, self.programs[name]):
                    well.add(name)
                    took = time.monotonic() - starting.pop(name)
                    done = "done" if self.surroundings.services[name].one_shot else "healthy"
                    self.say(f"{name}: {done} after {took:.1f} s {self.url(name)}".rstrip())
                else:
                    self._raise_if_hopeless(name, process, deaths[name], time.monotonic() - begun)
            if starting:
                time.sleep(_POLL_S)

    def _is_well(self, name: str, process: Process, program: Program) -> bool:
        service = self.surroundings.services[name]
        if service.one_shot:
            return process.state == "EXITED" and process.status == 0
        return process.state == "RUNNING" and passes_check(self.surroundings, service, program)

    def _raise_if_hopeless(self, name: str, process: Process, deaths: int, waited_s: float) -> None:
        service, log = self.surroundings.services[name], self._log(name)
        if process.state == "FATAL":
            raise ServiceFailed(name, "does not start", log)
        if service.one_shot and process.state in ENDED:
            raise ServiceFailed(name, f"failed with status {process.status}", log)
        if deaths >= _DEATHS:
            raise ServiceFailed(name, f"ended {deaths} times before it was healthy", log)
        limit = service.health.limit_s if service.health else _LIMIT_S
        if waited_s > limit:
            raise ServiceFailed(name, f"is not {'done' if service.one_shot else 'healthy'} after {limit:.0f} s", log)

    def _log(self, name: str) -> Path:
        return self.supervisor.state.log(name)


def passes_check(surroundings: Surroundings, service: Service, program: Program) -> bool:
    """Whether a service passes its health check now; one without a check does."""
    if service.health is None:
        return True
    try:
        done = subprocess.run(
            surroundings.command(service.health.test),
            env=program.whole_environment(),
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
