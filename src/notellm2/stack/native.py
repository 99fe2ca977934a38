"""The stack as plain processes: up, down, status. What runs, and with what, is docker-compose.yml's to say."""

from __future__ import annotations

import contextlib
import socket
import subprocess
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

from notellm2.errors import InputError
from notellm2.stack import postgres
from notellm2.stack.compose import LOOPBACK, Service, read_compose
from notellm2.stack.processes import end_processes, processes
from notellm2.stack.programs import Machine, Program, inherited_environment
from notellm2.stack.settings import Settings
from notellm2.stack.start import ServiceFailed, ServiceStatus, last_lines, start_in_order
from notellm2.stack.state import StateFolder
from notellm2.stack.supervisor import Supervisor, configuration
from notellm2.workspace import Locked, file_lock

__all__ = ["ServiceFailed", "ServiceStatus", "Stack", "down", "last_lines"]

_STATES = {"STARTING": "starting", "RUNNING": "starting", "BACKOFF": "unhealthy", "FATAL": "failed"}
"""What supervisor's words mean while a service is not up."""


class Stack:
    """The services of one compose file, with one state folder.

    Args:
        settings: from ``.env``.
        compose: docker-compose.yml; its folder is the project.
        state: where data, logs and supervisor's files lie; made by `up`.
        say: called with each step in a line.

    Raises:
        InputError: the compose file is unfit.
    """

    def __init__(self, settings: Settings, compose: Path, state: Path, say: Callable[[str], None] = lambda _: None):
        self.settings = settings
        self.state = StateFolder(state.absolute())
        self.machine = Machine(
            project=compose.absolute().parent,
            volumes=self.state.volumes,
            bind=settings.variables.get("NOTELLM2_BIND") or LOOPBACK,
            objects=bool(settings.variables.get("S3_ENDPOINT_URL")),
        )
        self.services = read_compose(compose, {**settings.variables, **self.machine.variables})
        self._say = say
        self._supervisor = Supervisor(self.state)
        try:
            order = TopologicalSorter({name: service.depends_on for name, service in self.services.items()})
            self._order = tuple(order.static_order())
        except CycleError as error:
            raise InputError(f"{compose}: services depend on each other in a circle: {error.args[1]}") from None

    # What there is.

    def left_out(self, name: str) -> str:
        """Say why a service does not run natively; empty where it does."""
        native = self.services[name].native
        if native.needs_objects and not self.machine.objects:
            return "no object store is named (S3_ENDPOINT_URL): plain folders are used"
        return native.skip

    def names(self, wanted: Iterable[str] | None = None) -> list[str]:
        """List the services that run natively, in the order of their dependencies.

        Args:
            wanted: only these and what they depend on; None: all without a profile.

        Raises:
            InputError: one of the wanted is not in the file, or has no native form.
        """
        todo = [name for name, service in self.services.items() if not service.profiles]
        if wanted is not None:
            todo = [self._known(name).name for name in wanted]
            for name in todo:
                if why := self.left_out(name):
                    raise InputError(f"{name} does not run natively: {why}")
        chosen: set[str] = set()
        while todo:
            name = todo.pop()
            if name not in chosen and not self.left_out(name):
                chosen.add(name)
                todo.extend(self.services[name].depends_on)
        return [name for name in self._order if name in chosen]

    def url(self, name: str) -> str:
        """Return the URL of a service on this machine; empty where it listens nowhere."""
        return self.machine.url(self._known(name))

    def environment(self, name: str) -> dict[str, str]:
        """Return what docker-compose.yml gives a service, in its native form, for a client that is to see the same."""
        return self.machine.environment(self._known(name))

    def log_path(self, name: str) -> Path:
        """Return the path of a service's log."""
        return self.state.log(self._known(name).name)

    def pid(self, name: str) -> int:
        """Return the process id of a service; 0 where it does not run."""
        process = self._supervisor.process(self._known(name).name)
        return process.pid if process else 0

    def status(self) -> list[ServiceStatus]:
        """Ask now how each service is."""
        return [self._status(name) for name in self._order if not self.services[name].profiles]

    def running(self) -> int:
        """Count the processes of this stack that run, supervisor among them."""
        return sum(1 for _ in processes(self.state.root))

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
        everything = list(dict.fromkeys([*self.names(), *names]))
        self._make_folders(everything)
        with _alone(self.state, "up"):
            if not self._supervisor.is_running() and (ended := end_processes(self.state.root)):
                self._say(f"ended {ended} processes that a killed supervisor left behind")
            text = configuration(self.state, self.services, self._programs(everything, names))
            changed = self._supervisor.start(text, inherited_environment(_postgres_programs()))
            for name in changed:
                self._say(f"{name}: its definition has changed, restarting it")
            names = [name for name in everything if name in {*names, *changed}]
            self._check_ports(names)
            self._start(names)

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
            self._start([name])

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
        try:
            self.state.make()
            for service in (self.services[name] for name in names):
                for source in service.mounts.values():
                    folder = self.machine.folder(source)
                    if source.startswith("/"):
                        folder.mkdir(parents=True, exist_ok=True)
                    elif not source.startswith((".", "~")):
                        # For us alone, or for another user to pass through, whatever the umask.
                        folder.mkdir(mode=0o700, exist_ok=True)
                        if service.native.user:
                            folder.chmod(folder.stat().st_mode | 0o011)
        except OSError as error:
            why = error.strerror or error
            raise InputError(f"state folder {self.state.root}: {why}; choose another with --state") from None

    def _programs(self, names: Iterable[str], needed: Iterable[str]) -> dict[str, Program]:
        """Native forms; PostgreSQL's is left out where it is missing and not needed now."""
        programs = {name: self.machine.program(self.services[name]) for name in names}
        for name in [name for name in programs if self.services[name].command[:1] == ("postgres",)]:
            try:
                programs[name] = self._postgres(self.services[name], programs[name])
            except InputError:
                if name in needed:
                    raise
                del programs[name]
        return programs

    def _postgres(self, service: Service, program: Program) -> Program:
        binaries, data = postgres.programs(), Path(program.environment["PGDATA"])
        user = postgres.system_user(service.native.user)
        if postgres.prepare_data(data, binaries, user, program.environment["POSTGRES_PASSWORD"]):
            self._say(f"postgres: made {data}")
        command = [str(binaries / "postgres"), *program.command[1:], "-D", str(data)]
        command += ["-c", f"listen_addresses={LOOPBACK}", "-c", "unix_socket_directories="]
        return replace(program, command=tuple(command), folder=Path("/"), user=user)

    def _check_ports(self, names: Iterable[str]) -> None:
        settings: dict[str, str] = {}
        for name in names:
            native, process = self.services[name].native, self._supervisor.process(name)
            if not native.port:
                continue
            port, setting = native.port, native.port_setting
            if settings.setdefault(port, setting) != setting:
                raise InputError(f"{settings[port]} and {setting} are both {port}: they must differ")
            if process and process.pid:
                continue
            host = self.machine.address(self.services[name])
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind((host, int(port)))
                except OSError as error:
                    raise InputError(
                        f"{name} cannot listen on {host}:{port} ({error.strerror}): end what uses it, or set another "
                        f"{setting} in .env"
                    ) from None

    def _start(self, names: Iterable[str]) -> None:
        services = {name: self.services[name] for name in names}
        start_in_order(services, self._status, self._supervisor.start_service, self.state.log, self._say)

    def _status(self, name: str) -> ServiceStatus:
        service = self.services[name]
        if why := self.left_out(name):
            return ServiceStatus(name, "left out", where=why)
        process = self._supervisor.process(name)
        if process is None or not process.started:
            return ServiceStatus(name, "stopped")
        if service.one_shot and process.state == "EXITED":
            done = process.status == 0
            return ServiceStatus(name, "done" if done else "failed", where="" if done else f"status {process.status}")
        if service.one_shot or process.state != "RUNNING":
            return ServiceStatus(name, _STATES.get(process.state, "stopped"), process.pid)
        return ServiceStatus(name, self._health(service), process.pid, process.started, self.url(name))

    def _health(self, service: Service) -> str:
        check = service.healthcheck
        if check is None:
            return "running"
        try:
            done = subprocess.run(
                self.machine.command(check.test),
                env={**inherited_environment(_postgres_programs()), **self.machine.environment(service)},
                cwd="/",
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=check.timeout,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return "unhealthy"
        return "unhealthy" if done.returncode else "healthy"


def down(state: Path) -> int:
    """Stop a stack as `Stack.down` does, by its state folder alone: settings that became unfit keep nobody from it.

    Raises:
        InputError: an `up` is at work.
    """
    folder = StateFolder(state.absolute())
    if not folder.logs.is_dir():
        return 0
    with _alone(folder, "down"):
        Supervisor(folder).shutdown()
        return end_processes(folder.root)


@contextlib.contextmanager
def _alone(state: StateFolder, purpose: str) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(file_lock(state.root / ".lock", f"stack {purpose}", timeout_s=0))
        except Locked as locked:
            raise InputError(f"state folder {state.root}: in use by {locked.holder}; wait for it") from None
        yield


def _postgres_programs() -> Path | None:
    """For PATH; where they are missing, PostgreSQL's own service says so."""
    with contextlib.suppress(InputError):
        return postgres.programs()
    return None
