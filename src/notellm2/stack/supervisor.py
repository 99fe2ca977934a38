"""Supervisor as the process manager of the native stack: its configuration, and the calls to it.

Supervisor starts, restarts, stops and logs; order and health are `notellm2.stack.native`'s. Its configuration holds the
services' environments, and it answers on a Unix socket of the state folder: both are for their owner alone.
"""

from __future__ import annotations

import contextlib
import io
import os
import pwd
import re
import shlex
import subprocess
import sys
import time
import xmlrpc.client
from collections.abc import Mapping
from configparser import RawConfigParser
from typing import Any, NamedTuple, cast

import psutil

from notellm2.errors import InputError
from notellm2.stack import processes
from notellm2.stack.compose import Service
from notellm2.stack.processes import SERVICE_MARK, STACK_MARK
from notellm2.stack.programs import Program
from notellm2.stack.settings import write_private
from notellm2.stack.state import StateFolder

_START_S = 30.0
_STOP_S = 180.0
"""Seconds that all services together may take to stop."""
_POLL_S = 0.05
_ALREADY_STARTED = 60
"""Supervisor's fault of that name."""

ENDED = ("STOPPED", "EXITED", "FATAL")


class Process(NamedTuple):
    """What supervisor says of a service.

    Attributes:
        state: its word: STOPPED, STARTING, RUNNING, BACKOFF, STOPPING, EXITED, FATAL.
        pid: process id; 0 where none runs.
        status: exit status of the last process.
        started: seconds since 1970.
    """

    state: str
    pid: int
    status: int
    started: int


def configuration(state: StateFolder, services: Mapping[str, Service], programs: Mapping[str, Program]) -> str:
    """Compose supervisor's configuration; nothing starts by itself.

    Args:
        state: the state folder.
        services: of the compose file.
        programs: their native forms, in the order in which they depend on each other, the reverse of which they are
            stopped in.

    Raises:
        InputError: a value has a character that supervisor's file cannot hold.
    """
    parser = RawConfigParser()
    parser["unix_http_server"] = {"file": _literal(state.socket), "chmod": "0700"}
    parser["supervisord"] = {
        "logfile": _literal(state.log("supervisord")),
        "pidfile": _literal(state.root / "supervisord.pid"),
        "childlogdir": _literal(state.logs),
        "nocleanup": "true",
        **({"user": "root"} if os.geteuid() == 0 else {}),
    }
    parser["rpcinterface:supervisor"] = {
        "supervisor.rpcinterface_factory": "supervisor.rpcinterface:make_main_rpcinterface"
    }
    for order, (name, program) in enumerate(programs.items()):
        # Supervisor stops the last first, each after the one before it has ended.
        parser[f"program:{name}"] = {"priority": str(order), **_section(state, services[name], program)}
    text = io.StringIO()
    parser.write(text)
    return text.getvalue()


def _section(state: StateFolder, service: Service, program: Program) -> dict[str, str]:
    environment, command = {**program.environment, SERVICE_MARK: service.name}, program.command
    if program.user:
        entry = pwd.getpwnam(program.user)
        environment |= {"HOME": entry.pw_dir, "USER": program.user, "LOGNAME": program.user}
    else:
        # Not where another user runs it, who may not read our programs: PostgreSQL leaves nothing behind.
        command = (sys.executable, "-P", processes.__file__, str(state.root), service.name, *command)
    return {
        "command": _literal(shlex.join(command)),
        "environment": ",".join(f"{key}={_quoted(service, key, value)}" for key, value in environment.items()),
        "directory": _literal(program.folder),
        **({"user": program.user} if program.user else {}),
        "autostart": "false",
        "autorestart": "false" if service.one_shot else "true",
        # A one-shot may end at once; a server that ends within a second has not started.
        "startsecs": "0" if service.one_shot else "1",
        # As Docker does it: tried again for ever, at growing intervals. `up` itself waits for a few tries only.
        "startretries": "1000000",
        "stopsignal": service.stop_signal.removeprefix("SIG"),
        "stopwaitsecs": f"{service.stop_grace_period:.0f}",
        "stopasgroup": "false" if service.native.stop_alone else "true",
        "killasgroup": "true",
        "redirect_stderr": "true",
        "stdout_logfile": _literal(state.log(service.name)),
        "stdout_logfile_maxbytes": "20MB",
        "stdout_logfile_backups": "3",
    }


def _literal(text: object) -> str:
    """A text as supervisor's own formatting leaves it."""
    return str(text).replace("%", "%%")


def _quoted(service: Service, name: str, value: str) -> str:
    if re.search(r"[\"\n]|\s[;#]|^'|'$", value):
        raise InputError(
            f"service {service.name}: {name} holds a quote, a line end or a comment, which supervisor cannot read"
        )
    return f'"{_literal(value)}"'


class Supervisor:
    """One supervisor, of one state folder."""

    def __init__(self, state: StateFolder):
        self.state = state

    def is_running(self) -> bool:
        """Return whether it answers a request."""
        try:
            self._call("getState")
        except (OSError, xmlrpc.client.Error):
            return False
        return True

    def start(self, text: str, environment: Mapping[str, str]) -> set[str]:
        """Start it, or let a running one take up what has changed.

        Args:
            text: its configuration.
            environment: its own, which all services inherit.

        Returns:
            The services that ran and had to be stopped, since their definition has changed.

        Raises:
            ChildProcessError: it does not come up; says why.
        """
        write_private(self.state.supervisor_file, text)
        if self.is_running():
            return self._take_up_changes()
        started = subprocess.run(
            [sys.executable, "-m", "supervisor.supervisord", "-c", str(self.state.supervisor_file)],
            env={**environment, STACK_MARK: str(self.state.root), SERVICE_MARK: ""},
            cwd="/",
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        deadline = time.monotonic() + _START_S
        while started.returncode == 0 and time.monotonic() < deadline:
            if self.is_running():
                return set()
            time.sleep(_POLL_S)
        raise ChildProcessError(f"supervisor does not start: {(started.stderr or started.stdout).strip()[-800:]}")

    def shutdown(self) -> None:
        """Stop all services, then supervisor itself; does nothing where it does not run."""
        with contextlib.suppress(OSError, xmlrpc.client.Error, psutil.NoSuchProcess):
            supervisor = psutil.Process(cast("int", self._call("getPID")))
            self._call("shutdown")
            with contextlib.suppress(psutil.TimeoutExpired):
                supervisor.wait(timeout=_STOP_S)

    def process(self, name: str) -> Process | None:
        """Return what it says of a service; None where it does not know it or does not run."""
        try:
            answer = cast("dict[str, Any]", self._call("getProcessInfo", name))
        except (OSError, xmlrpc.client.Error):  # Nobody there, shutting down, or no such service.
            return None
        return Process(answer["statename"], answer["pid"], answer["exitstatus"], answer["start"])

    def start_service(self, name: str) -> None:
        """Start a service; does nothing where supervisor has just started it again by itself."""
        try:
            self._call("startProcess", name, False)
        except xmlrpc.client.Fault as fault:
            if fault.faultCode != _ALREADY_STARTED:
                raise

    def stop_service(self, name: str) -> None:
        """Stop a service and wait until it has; does nothing where it does not run."""
        process = self.process(name)
        if process is not None and process.state not in ENDED:
            # It may end meanwhile, or be stopping already.
            with contextlib.suppress(xmlrpc.client.Fault):
                self._call("stopProcess", name, True)

    def _take_up_changes(self) -> set[str]:
        added, changed, removed = cast("list[list[list[str]]]", self._call("reloadConfig"))[0]
        ran = {name for name in changed if (process := self.process(name)) and process.state not in ENDED}
        for group in [*changed, *removed]:
            self._call("stopProcessGroup", group, True)
            self._call("removeProcessGroup", group)
        for group in [*added, *changed]:
            self._call("addProcessGroup", group)
        return ran

    def _call(self, method: str, *arguments: object) -> object:
        # Supervisor is imported here, not on top: the command line shows its help without it.
        try:
            from supervisor.xmlrpc import SupervisorTransport
        except ModuleNotFoundError:
            raise InputError(
                "the native stack needs supervisor: pip install -c constraints.txt -e '.[stack,serve]'"
            ) from None

        transport = SupervisorTransport(None, None, serverurl=f"unix://{self.state.socket}")
        try:
            proxy = xmlrpc.client.ServerProxy("http://127.0.0.1", transport=transport)
            return getattr(proxy.supervisor, method)(*arguments)
        finally:
            transport.close()
