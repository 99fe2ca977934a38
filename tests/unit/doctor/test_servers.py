"""Servers and remotes that are configured: there, away, unwell, or with another clock."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from notellm2.doctor.check import Check
from notellm2.doctor.servers import check_remote, check_servers
from notellm2.errors import InputError
from notellm2.notes import versions
from notellm2.workspace import Workspace


class Health(BaseHTTPRequestHandler):
    status = 200
    date: str | None = None

    def do_GET(self) -> None:
        self.send_response(self.status)
        self.end_headers()

    def date_time_string(self, timestamp: float | None = None) -> str:
        return self.date or super().date_time_string(timestamp)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), Health) as listening:
        thread = threading.Thread(target=listening.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listening.server_port}"
        listening.shutdown()
        thread.join()


def checks(tmp_path: Path) -> dict[str, Check]:
    return {check.name: check for check in check_servers(None, Workspace.at(tmp_path))}


def test_without_servers_there_is_nothing_to_ask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    assert {check.status for check in checks(tmp_path).values()} == {"ok"}
    assert list(tmp_path.iterdir()) == []


def test_servers_that_answer_are_ok_and_others_say_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: str
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    monkeypatch.setenv("PREFECT_API_URL", f"{server}/api")
    assert {check.status for check in checks(tmp_path).values()} == {"ok"}
    monkeypatch.setattr(Health, "status", 503)
    unwell = checks(tmp_path)["Prefect"]
    assert (unwell.status, unwell.found) == ("failed", f"{server}/api/health answers 503 Service Unavailable")
    monkeypatch.setattr(Health, "status", 200)
    monkeypatch.setattr(Health, "date", "Tue, 01 Jan 2030 00:00:00 GMT")
    skewed = checks(tmp_path)["MLflow"]
    assert skewed.status == "warning"
    assert "its clock is +" in skewed.found


def test_servers_that_are_away_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "postgresql://u:secret@127.0.0.1:1/mlflow")
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:1/api")
    away = checks(tmp_path)
    assert {check.status for check in away.values()} == {"failed"}
    assert "secret" not in away["MLflow"].line()
    assert "Connection refused" in away["MLflow"].found
    assert "mend PREFECT_API_URL" in away["Prefect"].advice
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "mlruns")
    assert "expected a server" in checks(tmp_path)["MLflow"].found


def test_the_remote_is_asked_where_the_data_are_pinned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = tmp_path / "data"
    assert check_remote(data).status == "ok"
    (tmp_path / "data.dvc").write_text("outs:\n- md5: 0a.dir\n")
    assert check_remote(data).found == "none: the pinned version is on this machine only"
    monkeypatch.setattr(versions, "remotes", lambda directory: ["team"])
    monkeypatch.setattr(versions, "is_stored", lambda directory: False)
    assert check_remote(data).line() == "warning  DVC remote: team lacks the pinned version; `notellm2 data push`"
    monkeypatch.setattr(versions, "is_stored", lambda directory: True)
    assert check_remote(data).status == "ok"

    def away(directory: Path) -> bool:
        raise InputError("DVC: connection refused")

    monkeypatch.setattr(versions, "is_stored", away)
    assert check_remote(data) == Check("DVC remote", "failed", "DVC: connection refused")
