"""Start services in the order of their dependencies, wait until each is well, and say why one is not."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from notellm2.stack.compose import Service

_POLL_S = 0.3
_LIMIT_S = 600.0
"""Seconds a one-shot, or a server without a health check, may take."""
_DEATHS = 3
"""A server that has ended this often before it was healthy is given up."""
_TAIL_LINES = 25


class ServiceFailed(ChildProcessError):
    """A service did not come up.

    Attributes:
        log: its log's file.
        tail: the last lines of its log.
    """

    def __init__(self, why: str, log: Path):
        super().__init__(why)
        self.log, self.tail = log, last_lines(log, _TAIL_LINES)


@dataclass(frozen=True)
class ServiceStatus:
    """How a service is.

    Attributes:
        name: its name.
        state: ``healthy``, ``unhealthy``, ``running`` (it has no health check), ``starting``, ``stopped``, ``done`` or
            ``failed`` (a one-shot), ``left out``.
        pid: its process id; 0 where none runs.
        since: when that process started, seconds since 1970; 0 where none runs.
        where: its URL or address, why it is left out, or how it failed.
    """

    name: str
    state: str
    pid: int = 0
    since: int = 0
    where: str = ""

    @property
    def well(self) -> bool:
        """Whether nothing is to be done about it."""
        return self.state in ("healthy", "running", "done", "left out")


@dataclass
class _Waiting:
    """A service that is waited for: since when, and its processes so far."""

    since: float = field(default_factory=time.monotonic)
    pids: set[int] = field(default_factory=set)

    def why_hopeless(self, service: Service, row: ServiceStatus) -> str:
        """Why a service that is not well yet will not be; empty where it may."""
        self.pids |= {row.pid} - {0}
        deaths = len(self.pids) - bool(row.pid)
        limit_s = service.healthcheck.limit_s if service.healthcheck else _LIMIT_S
        if row.state == "failed":
            return f"failed with {row.where}"
        if deaths >= _DEATHS:
            return f"ended {deaths} times before it was healthy"
        if time.monotonic() - self.since > limit_s:
            return f"is not {'done' if service.one_shot else 'healthy'} after {limit_s:.0f} s"
        return ""


def start_in_order(
    services: Mapping[str, Service],
    status: Callable[[str], ServiceStatus],
    start: Callable[[str], None],
    log: Callable[[str], Path],
    say: Callable[[str], None],
) -> None:
    """Start services, side by side where they do not wait for each other.

    Args:
        services: by name; what they depend on beside each other is well.
        status: how a service is now.
        start: starts a service.
        log: path of a service's log.
        say: called with each step in a line.

    Raises:
        ServiceFailed: one did not come up; the others are left as they are.
    """
    todo, waiting = dict(services), dict[str, _Waiting]()
    while todo:
        for name in [name for name in todo if not todo.keys() & todo[name].depends_on.keys() and name not in waiting]:
            waiting[name] = _Waiting()
            if status(name).state in ("stopped", "done", "failed"):
                say(f"{name}: starting")
                start(name)
        for name in list(waiting):
            row = status(name)
            if row.well:
                took_s = time.monotonic() - waiting.pop(name).since
                done = "done" if todo.pop(name).one_shot else "healthy"
                say(f"{name}: {done} after {took_s:.1f} s {row.where}".rstrip())
            elif why := waiting[name].why_hopeless(todo[name], row):
                raise ServiceFailed(f"{name} {why}", log(name))
        if waiting:
            time.sleep(_POLL_S)


def last_lines(path: Path, count: int) -> list[str]:
    """Read the last lines of a log; none where it is not there."""
    with contextlib.suppress(FileNotFoundError), path.open("rb") as handle:
        handle.seek(max(0, path.stat().st_size - 400 * count))
        return handle.read().decode(errors="replace").splitlines()[-count:]
    return []
