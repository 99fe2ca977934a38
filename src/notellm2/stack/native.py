"""The stack as plain processes: up, down, status. What runs, and with what, is docker-compose.yml's to say."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

from notellm2.errors import InputError
from notellm2.stack import postgres
from notellm2.stack.compose import Service, read_compose
from notellm2.stack.layout import Program, StateFolder
from notellm2.stack.leftovers import end_processes, processes
from notellm2.stack.programs import LOOPBACK, Surroundings
from notellm2.stack.settings import Settings
from notellm2.stack.starting import ServiceFailed, Start, last_lines, passes_check
from notellm2.stack.supervised import ENDED, RUNNING, Supervisor
from notellm2.workspace import Locked, file_lock

__all__ = ["ServiceFailed", "ServiceStatus", "Stack", "down", "last_lines"]


@dataclass(frozen=True)
class ServiceStatus:
    """How a service is.

    Attributes:
        name: its name.
        state: ``healthy``, ``unhealthy``, ``running`` (it has no health check), ``starting``, ``stopped``, ``done`` or
            ``failed`` (a one-shot), ``left out``.
        pid: its process id; 0 where none runs.
        since: when that process started, seconds since 1970; 0 where none runs.
        where: its URL or address, or why it is left out.
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


class Stack:
    """The services of one compose file, with one state folder.

    Args:
        settings: from ``.env``.
        compose: docker-compose.yml; its folder is the project.
        state: where data, logs and supervisor's files lie; made by `up`.
        say: told each step in a line.

    Raises:
        InputError: the compose file is unfit.
    """

    def __init__(self, settings: Settings, compose: Path, state: Path, say: Callable[[str], None] = lambda _: None):
        self.settings = settings
        self.state = StateFolder(state.absolute())
        self.services = read_compose(compose, settings.variables())
        self._say = say
        self._supervisor = Supervisor(self.state)
        self._surroundings = Surroundings(
            services=self.services,
            project=compose.absolute().parent,
            state=self.state,
            bind=settings.bind,
            objects=bool(settings.s3_endpoint_url),
        )
        try:
            order = TopologicalSorter({name: service.depends_on for name, service in self.services.items()})
            self._order = tuple(order.static_order())
        except CycleError as error:
            raise InputError(f"{compose}: services depend on each other in a circle: {error.args[1]}") from None

    # What there is.

    def left_out(self, name: str) -> str:
        """Why a service does not run natively; empty where it does."""
        service = self.services[name]
        if service.native.skip:
            return service.native.skip
        if service.native.needs_objects and not self._surroundings.objects:
            return "no object store is named (S3_ENDPOINT_URL): plain folders are used"
        return ""

    def names(self, wanted: Iterable[str] | None = None) -> list[str]:
        """The services that run natively, in the order of their dependencies.

        Args:
            wanted: only these and what they depend on; None: all without a profile.

        Raises:
            InputError: one of the wanted is not in the file, or has no native form.
        """
        if wanted is None:
            todo = [name for name, service in self.services.items() if not service.profiles]
        else:
            todo = list(wanted)
            for name in todo:
                self._known(name)
                if why := self.left_out(name):
                    raise InputError(f"{name} does not run natively: {why}")
        chosen: set[str] = set()
        while todo:
            name = todo.pop()
            if name not in chosen and not self.left_out(name):
                chosen.add(name)
                todo.extend(self.services[name].depends_on)
        return [name for name in self._order if name in chosen]

    def port(self, name: str) -> int | None:
        """The port a service listens on."""
        variable = self.services[name].native.port
        return int(self.settings.variables()[variable]) if variable else None

    def url(self, name: str) -> str:
        """Where a service is reached from this machine; empty where it listens nowhere."""
        port = self.port(name)
        if port is None:
            return ""
        scheme = "postgresql" if _is_postgres(self.services[name]) else "http"
        return f"{scheme}://{self._surroundings.address(name)}:{port}"

    def environment(self, name: str) -> dict[str, str]:
        """What docker-compose.yml gives a service, in its native form: for a client that is to see what it sees."""
        return self._surroundings.environment(self._known(name))

    def log_path(self, name: str) -> Path:
        """The log of a service."""
        self._known(name)
        return self.state.log(name)

    def pid(self, name: str) -> int:
        """The process id of a service; 0 where it does not run."""
        self._known(name)
        process = self._supervisor.process(name)
        return process.pid if process else 0

    def status(self) -> list[ServiceStatus]:
        """How each service is, asked now."""
        return [self._status(name) for name in self._order if not self.services[name].profiles]

    # What is done to it.

    def up(self, services: Iterable[str] | None = None) -> None:
        """Start what does not run, restart what is defined otherwise than it was started, and wait until all is well.

        One-shots run each time, as with Docker Compose. A failure leaves the others running, so that one can look;
        `up` again goes on, `down` ends them.

        Args:
            services: only these and what they depend on; None: all.

        Raises:
            InputError: a port is taken, a program is missing, the state folder is unfit, or another `up` or `down` is
                at work.
            ServiceFailed: a service did not come up.
        """
        names = self.names(services)
        self._make_folders(names)
        with _alone(self.state, "up"):
            programs = {name: self._program(self.services[name]) for name in names}
            if not self._supervisor.is_running() and (ended := end_processes(self.state)):
                self._say(f"ended {ended} processes that a killed supervisor left behind")
            self._prepare_postgres(programs)
            for name, program in programs.items():
                self.state.write_program(name, program)
            everything = self.names()
            stopped = self._supervisor.start(self.services[name] for name in dict.fromkeys([*everything, *names]))
            for name in stopped - programs.keys():
                programs[name] = Program.read(self.state.program(name))
            self._stop_changed(programs)
            self._check_ports(programs)
            self._start(programs)

    def restart(self, name: str) -> None:
        """Stop and start one running service, and wait until it is well.

        Raises:
            InputError: the stack does not run, or the service is none of it.
            ServiceFailed: it did not come up again.
        """
        self._known(name)
        if self._supervisor.process(name) is None:
            raise InputError(f"{name} does not run here; `notellm2 stack up` starts it")
        with _alone(self.state, "restart"):
            self._supervisor.stop_service(name)
            self._start({name: Program.read(self.state.program(name))})

    def down(self) -> int:
        """Stop everything, last started first, and whatever a killed supervisor or service left behind.

        Returns:
            How many processes were left behind and ended here; 0 where supervisor had stopped them all.

        Raises:
            InputError: an `up` is at work.
        """
        return down(self.state.root)

    # Steps.

    def _known(self, name: str) -> Service:
        if name not in self.services:
            raise InputError(f"there is no service {name}; there are {', '.join(self.services)}")
        return self.services[name]

    def _make_folders(self, names: Iterable[str]) -> None:
        root = self.state.root
        if found := set("%;#\n") & set(str(root)):
            raise InputError(f"state folder {root}: {''.join(found)!r} in a path is not what supervisor would read")
        if root.is_dir() and any(root.iterdir()) and not self.state.programs.is_dir():
            raise InputError(f"state folder {root}: holds something else; choose an empty one with --state")
        try:
            self.state.make()
            for name in names:
                service = self.services[name]
                for source in service.volumes.values():
                    folder = self._surroundings.folder(source)
                    if source.startswith("/"):
                        folder.mkdir(parents=True, exist_ok=True)
                    elif not source.startswith((".", "~")):
                        self.state.make_volume(folder, shared=bool(service.native.user))
        except OSError as error:
            raise InputError(f"state folder {root}: {error.strerror or error}; choose another with --state") from None

    def _program(self, service: Service) -> Program:
        program = self._surroundings.program(service)
        if not _is_postgres(service):
            with contextlib.suppress(InputError):  # Where PostgreSQL is missing, its own service says so.
                program = _with_path(program, postgres.programs())
            return program
        binaries = postgres.programs()
        command = [str(binaries / "postgres"), *program.command[1:], "-D", program.environment["PGDATA"]]
        command += ["-c", f"listen_addresses={LOOPBACK}", "-c", "unix_socket_directories="]
        user = postgres.system_user(service.native.user)
        return replace(_with_path(program, binaries), command=tuple(command), folder="/", user=user)

    def _prepare_postgres(self, programs: dict[str, Program]) -> None:
        for name, program in programs.items():
            if _is_postgres(self.services[name]):
                data = Path(program.environment["PGDATA"])
                binaries = Path(program.command[0]).parent
                password = self.settings.postgres_password.get_secret_value()
                if postgres.prepare_data(data, binaries, program.user, password):
                    self._say(f"{name}: made {data}")

    def _stop_changed(self, programs: dict[str, Program]) -> None:
        for name, program in programs.items():
            process = self._supervisor.process(name)
            started_with = self.state.launched(name)
            if process and process.state not in ENDED and started_with.exists():
                if started_with.read_text() == program.digest():
                    continue
                self._say(f"{name}: its definition has changed, restarting it")
                self._supervisor.stop_service(name)

    def _check_ports(self, names: Iterable[str]) -> None:
        for name in names:
            port, process = self.port(name), self._supervisor.process(name)
            if port is None or (process and process.pid):
                continue
            host = self._surroundings.address(name)
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind((host, port))
                except OSError as error:
                    variable = self.services[name].native.port
                    raise InputError(
                        f"{name} cannot listen on {host}:{port} ({error.strerror}): end what uses it, or set another "
                        f"{variable} in .env"
                    ) from None

    def _start(self, programs: dict[str, Program]) -> None:
        needs = {name: [o for o in self.services[name].depends_on if o in programs] for name in programs}
        Start(self._supervisor, self._surroundings, programs, needs, self.url, self._say).run()

    def _status(self, name: str) -> ServiceStatus:
        service = self.services[name]
        if why := self.left_out(name):
            return ServiceStatus(name, "left out", where=why)
        process = self._supervisor.process(name)
        if process is None or not process.started:
            return ServiceStatus(name, "stopped")
        if service.one_shot:
            ended = "done" if process.status == 0 else "failed"
            return ServiceStatus(name, "starting" if process.state in RUNNING else ended, process.pid)
        if process.state != "RUNNING":
            state = {"STARTING": "starting", "BACKOFF": "unhealthy", "FATAL": "failed"}.get(process.state, "stopped")
            return ServiceStatus(name, state)
        if service.health is None:
            state = "running"
        else:
            well = passes_check(self._surroundings, service, Program.read(self.state.program(name)))
            state = "healthy" if well else "unhealthy"
        return ServiceStatus(name, state, process.pid, process.started, self.url(name))

    def running(self) -> int:
        """How many processes of this stack run, supervisor among them."""
        return sum(1 for _ in processes(self.state))


def down(state: Path) -> int:
    """As `Stack.down`, for a state folder alone: settings that have become unfit since keep nobody from stopping.

    Raises:
        InputError: an `up` is at work.
    """
    folder = StateFolder(state.absolute())
    if not folder.programs.is_dir():
        return 0
    with _alone(folder, "down"):
        Supervisor(folder).shutdown()
        return end_processes(folder)


@contextlib.contextmanager
def _alone(state: StateFolder, purpose: str) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(file_lock(state.root / ".lock", f"stack {purpose}", timeout_s=0))
        except Locked as locked:
            raise InputError(f"state folder {state.root}: in use by {locked.holder}; wait for it") from None
        yield


def _is_postgres(service: Service) -> bool:
    return service.command[:1] == ("postgres",)


def _with_path(program: Program, folder: Path) -> Program:
    path = os.pathsep.join([str(folder), program.inherited.get("PATH", os.defpath)])
    return replace(program, inherited={**program.inherited, "PATH": path})
