from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from flows.runtime import environment
from notellm2.processes import process_tag
from notellm2.workspace import Workspace

# Waits for the end of its standard input; its arguments make it look like Prefect's embedded server, or not.
WAITING = "import sys; print('up', flush=True); sys.stdin.read()"


def start(*arguments: str) -> psutil.Popen:
    process = psutil.Popen(
        [sys.executable, "-c", WAITING, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "up\n"
    return process


@pytest.fixture
def server() -> Iterator[psutil.Popen]:
    process = start(environment.SERVER_MODULE)
    yield process
    with contextlib.suppress(psutil.NoSuchProcess):
        process.kill()
    process.communicate()


def record(home: Path, owner: str, server: str) -> Path:
    path = home / environment.SERVER_RECORD
    path.write_text(json.dumps({"owner": owner, "server": server}))
    return path


@pytest.fixture
def dead() -> str:
    process = start()
    tag = process_tag(process)
    process.communicate("")
    return tag


@pytest.fixture
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [*environment.QUIET, *environment.EMBEDDED, *environment.RUNS, "PREFECT_HOME", "PREFECT_API_URL"]:
        monkeypatch.setenv(name, "x")  # so that the test's end restores it
        monkeypatch.delenv(name)


@pytest.mark.usefixtures("clean")
def test_prefect_lives_in_the_store_and_nothing_calls_home(tmp_path: Path) -> None:
    assert environment.prepare(Workspace.at(tmp_path / "store"))
    assert os.environ["PREFECT_HOME"] == str(tmp_path / "store" / "_prefect")
    assert (tmp_path / "store" / "_prefect").is_dir()
    assert os.environ["PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS"] == "120"
    assert os.environ["PREFECT_SERVER_ANALYTICS_ENABLED"] == "false"
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"
    assert os.environ["PREFECT_RESULTS_PERSIST_BY_DEFAULT"] == "false"


@pytest.mark.usefixtures("clean")
def test_a_server_the_user_names_stays_in_charge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:4200/api")
    monkeypatch.setenv("PREFECT_HOME", "elsewhere")
    monkeypatch.setenv("DO_NOT_TRACK", "no")
    assert not environment.prepare(Workspace.at(tmp_path / "store"))
    assert os.environ["PREFECT_HOME"] == "elsewhere"
    assert os.environ["DO_NOT_TRACK"] == "no"
    assert "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE" not in os.environ
    assert not (tmp_path / "store").exists()


def test_the_server_of_a_dead_run_is_ended(tmp_path: Path, server: psutil.Popen, dead: str) -> None:
    path = record(tmp_path, dead, process_tag(server))
    assert environment.end_stale_server(tmp_path) == server.pid
    assert not server.is_running()
    assert not path.exists()


def test_the_server_of_a_living_run_is_left_alone(tmp_path: Path, server: psutil.Popen) -> None:
    path = record(tmp_path, process_tag(), process_tag(server))
    assert environment.end_stale_server(tmp_path) is None
    assert server.is_running()
    assert path.exists()


def test_a_process_that_got_the_number_later_is_left_alone(tmp_path: Path, server: psutil.Popen, dead: str) -> None:
    host, number, created = process_tag(server).rsplit(":", 2)
    record(tmp_path, dead, f"{host}:{number}:{int(created) - 60}")
    assert environment.end_stale_server(tmp_path) is None
    assert server.is_running()


def test_a_process_that_is_no_server_is_left_alone(tmp_path: Path, dead: str) -> None:
    other = start("something else")
    record(tmp_path, dead, process_tag(other))
    assert environment.end_stale_server(tmp_path) is None
    assert other.is_running()
    other.communicate("")


def test_no_record_a_torn_one_and_one_of_the_dead(tmp_path: Path, dead: str) -> None:
    assert environment.end_stale_server(tmp_path) is None
    for torn in ('{"owner": ', "[]", "{}", '{"owner": {"pid": 1}, "server": 7}'):
        (tmp_path / environment.SERVER_RECORD).write_text(torn)
        assert environment.end_stale_server(tmp_path) is None
        assert not (tmp_path / environment.SERVER_RECORD).exists()
    record(tmp_path, dead, dead)
    assert environment.end_stale_server(tmp_path) is None


def test_the_server_is_recorded_when_it_starts(tmp_path: Path) -> None:
    with environment.recorded_server(tmp_path):
        server = start(environment.SERVER_MODULE)
        path = tmp_path / environment.SERVER_RECORD
        for _ in range(200):
            if path.exists():
                break
            psutil.wait_procs([server], timeout=0.05)
        recorded = json.loads(path.read_text())
    assert recorded["server"] == process_tag(server)
    assert recorded["owner"] == process_tag()
    server.communicate("")


def test_nothing_is_watched_where_the_user_has_a_server(tmp_path: Path) -> None:
    with environment.recorded_server(tmp_path / "missing", watch=False):
        pass
    assert not (tmp_path / "missing").exists()
