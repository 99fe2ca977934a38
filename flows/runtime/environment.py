"""The one place that says where Prefect lives and how its embedded server behaves.

Prefect reads its settings when it is imported, so `prepare` must run first; this module imports neither Prefect nor
anything heavy. Facts it deals with (measured with Prefect 3.8):

- The embedded server is a child process. After ``kill -9`` of a flow it stays, and the run stays "Running" for good.
  So the server's process id is recorded as soon as it exists, and the next start ends the recorded process if its
  owner is dead (`end_stale_server`), and marks that owner's runs as crashed (`flows.runtime.recovery`).
- It loses its last events at exit, so it is no audit trail: the artifact store is the truth. Its event store and
  triggers are off; they were half of its writes, and its SQLite file has been seen locked for a minute by them.
- Its first start migrates a database, which takes longer than the default timeout on a small machine.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil

from notellm2.artifacts import write_atomic
from notellm2.processes import process_tag, tagged_process
from notellm2.threads import PASSIVE
from notellm2.workspace import Workspace

QUIET = {
    "DO_NOT_TRACK": "true",
    "DVC_NO_ANALYTICS": "1",
    "GX_ANALYTICS_ENABLED": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TOKENIZERS_PARALLELISM": "false",
    # Bars of milliseconds and reports of unused weights would bury the log.
    "TQDM_DISABLE": "1",
    "TRANSFORMERS_VERBOSITY": "error",
}
"""No library calls home or talks of itself; unset variables only, so that a user's own choice stands."""

EMBEDDED = {
    "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "true",
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
    "PREFECT_SERVER_SERVICES_EVENT_PERSISTER_ENABLED": "false",
    "PREFECT_SERVER_SERVICES_TRIGGERS_ENABLED": "false",
}
RUNS = {
    "PREFECT_RESULTS_PERSIST_BY_DEFAULT": "false",
    "PREFECT_RESULTS_DEFAULT_SERIALIZER": "json",
    "PREFECT_LOGGING_EXTRA_LOGGERS": "notellm2",
    "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
}

DEPLOYED = {**QUIET, **RUNS, **PASSIVE, "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30"}
"""What a run of a deployment has in its environment; prefect.yaml says the same. Heartbeats: seconds between them, so
that an automation can tell a run that has fallen silent from one that trains for hours. Idle threads sleep, because a
worker shares its cores with others."""

SERVER_MODULE = "prefect.server.api.server:create_app"
SERVER_RECORD = "server.json"
_STARTUP_S = 130.0
_POLL_S = 0.1


def uses_embedded_server() -> bool:
    """Return whether the user names no server by ``PREFECT_API_URL``, so that one lives as long as the flow."""
    return not os.environ.get("PREFECT_API_URL")


def prepare(workspace: Workspace) -> bool:
    """Set the environment for Prefect and the quiet switches of everything else.

    Returns:
        True when the embedded server will be used: the user names no server by ``PREFECT_API_URL``.
    """
    embedded = uses_embedded_server()
    for name, value in {**QUIET, **RUNS, **(EMBEDDED if embedded else {})}.items():
        os.environ.setdefault(name, value)
    if embedded:
        workspace.prefect_home.mkdir(parents=True, exist_ok=True)
        os.environ["PREFECT_HOME"] = str(workspace.prefect_home)
    return embedded


@contextlib.contextmanager
def recorded_server(home: Path, *, watch: bool = True) -> Iterator[None]:
    """Write the embedded server's identity into Prefect's home the moment it starts; does nothing if not `watch`.

    Prefect starts it in its own time, so a thread watches our children for it. Prefect also stops it at exit; the
    record then names a process that is gone, and the next start drops it.
    """
    if not watch:
        yield
        return
    stop = threading.Event()
    watcher = threading.Thread(target=_record_when_started, args=(home, stop), daemon=True, name="server-record")
    watcher.start()
    try:
        yield
    finally:
        stop.set()
        watcher.join()


def _record_when_started(home: Path, stop: threading.Event) -> None:
    waited = 0.0
    while waited < _STARTUP_S and not stop.wait(_POLL_S):
        waited += _POLL_S
        for child in psutil.Process().children():
            if _is_server(child):
                record = {"owner": process_tag(), "server": process_tag(child)}
                write_atomic(home / SERVER_RECORD, json.dumps(record) + "\n")
                return


def end_stale_server(home: Path) -> int | None:
    """End the server that a killed run of ours left behind.

    Only the recorded process is ended, and only if it is still that process (number and time of creation), still a
    Prefect server by its command line, and its owner is dead.

    Returns:
        The ended server's process id, or None where there was nothing to end.
    """
    path = home / SERVER_RECORD
    try:
        record = json.loads(path.read_text())
        owner, server = tagged_process(str(record["owner"])), tagged_process(str(record["server"]))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, KeyError):
        path.unlink()  # A torn record names no process that could be ended safely.
        return None
    if owner is not None:
        return None
    ended = None
    if server is not None and _is_server(server):
        server.terminate()
        try:
            server.wait(timeout=10)
        except psutil.TimeoutExpired:
            server.kill()
            server.wait(timeout=10)
        ended = server.pid
    path.unlink()
    return ended


def _is_server(process: psutil.Process) -> bool:
    try:
        return SERVER_MODULE in process.cmdline()
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return False
