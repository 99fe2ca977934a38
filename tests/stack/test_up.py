"""The stack comes up from docker-compose.yml and .env alone, asks who one is, survives what dies, and goes down."""

from __future__ import annotations

import os
import signal
import subprocess
import time
import urllib.error
import urllib.request
from base64 import b64encode
from collections.abc import Callable

import psutil
import pytest

from notellm2.stack.processes import processes
from tests.stack.conftest import RunningStack

PATIENCE_S = 60.0


def status_of(url: str, user: str = "", body: bytes | None = None) -> int:
    """The HTTP status of a request, as this ``user:password``."""
    request = urllib.request.Request(url, data=body, headers={"Content-Type": "application/json"})
    if user:
        request.add_header("Authorization", f"Basic {b64encode(user.encode()).decode()}")
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code


def wait_until(holds: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline, f"not within {PATIENCE_S:.0f} s: {what}"
        time.sleep(0.2)


def states(stack: RunningStack) -> dict[str, str]:
    return {row.name: row.state for row in stack.native.status()}


def test_every_service_that_has_a_native_form_is_well(stack: RunningStack) -> None:
    found = states(stack)
    assert {name for name, state in found.items() if state == "left out"} == {"check-settings", "objects"}
    for name in ("postgres", "mlflow", "prefect-server", "worker", "serving"):
        assert found[name] == "healthy", (name, stack.log(name)[-2000:])
    for name in ("databases", "bucket", "mlflow-migrate", "mlflow-users", "prefect-migrate"):
        assert found[name] == "done", (name, stack.log(name)[-2000:])


def test_mlflow_admits_nobody_without_a_password(stack: RunningStack) -> None:
    url = f"{stack.mlflow_url}/api/2.0/mlflow/experiments/search?max_results=1"
    assert status_of(url) == 401
    assert status_of(url, "admin:" + "x" * 20) == 401
    assert status_of(url, f"admin:{stack.password('admin')}") == 200


def test_prefect_admits_nobody_without_a_password(stack: RunningStack) -> None:
    url = f"{stack.prefect_url}/flows/count"
    assert status_of(url, body=b"{}") == 401
    assert status_of(url, "notellm2:" + "x" * 20, body=b"{}") == 401
    assert status_of(url, stack.settings.variables["PREFECT_AUTH"], body=b"{}") == 200


@pytest.mark.parametrize("name", ["mlflow", "prefect-server"])
def test_a_killed_server_is_started_again(stack: RunningStack, name: str) -> None:
    before = stack.pid(name)
    os.kill(before, signal.SIGKILL)
    wait_until(lambda: stack.pid(name) not in (0, before), f"{name} has a new process")
    wait_until(lambda: states(stack)[name] == "healthy", f"{name} is healthy again")


def test_servers_recover_from_a_restart_of_the_database(stack: RunningStack) -> None:
    before = {name: stack.pid(name) for name in ("mlflow", "prefect-server")}
    stack.restart("postgres")

    def both_answer() -> bool:
        admin = f"admin:{stack.password('admin')}"
        runs = status_of(f"{stack.mlflow_url}/api/2.0/mlflow/experiments/search?max_results=1", admin)
        auth = stack.settings.variables["PREFECT_AUTH"]
        return runs == status_of(f"{stack.prefect_url}/flows/count", auth, body=b"{}") == 200

    wait_until(both_answer, "MLflow and Prefect answer from the database")
    assert {name: stack.pid(name) for name in before} == before, "neither had to be restarted"


def test_no_secret_shows_in_a_command_line_or_a_log(stack: RunningStack) -> None:
    variables = stack.settings.variables
    secrets = {name: variables[name] for name in variables if name.endswith(("PASSWORD", "AUTH", "KEY"))}
    secrets["half of PREFECT_AUTH"] = variables["PREFECT_AUTH"].partition(":")[2]
    assert len(secrets) >= 11
    texts = {f"log {path.name}": path.read_text(errors="replace") for path in stack.native.state.logs.iterdir()}
    for process in processes(stack.native.state.root):
        try:
            texts[f"command line of {process.pid}"] = " ".join(process.cmdline())
        except psutil.NoSuchProcess:
            continue
    assert sum(name.startswith("command line") for name in texts) > 5
    found = [(where, name) for where, text in texts.items() for name, secret in secrets.items() if secret in text]
    assert found == []


def test_the_databases_are_closed_to_each_other(stack: RunningStack) -> None:
    variables = stack.settings.variables
    environment = {
        **os.environ,
        "PGHOST": "127.0.0.1",
        "PGPORT": variables["POSTGRES_PORT"],
        "PGUSER": "mlflow",
        "PGPASSWORD": variables["MLFLOW_DB_PASSWORD"],
    }

    def ask(database: str) -> subprocess.CompletedProcess[str]:
        command = ["psql", "--no-psqlrc", "--tuples-only", "--command", "SELECT 1", "--dbname", database]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    assert ask("mlflow").returncode == 0
    for database in ("prefect", "postgres"):
        assert "permission denied" in ask(database).stderr
