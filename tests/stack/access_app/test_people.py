from __future__ import annotations

from pathlib import Path

import requests

from tests.unit.access.server import PASSWORDS, Server


def _logs_in(server: Server, user: str, password: str) -> bool:
    path = "/api/2.0/mlflow/users/current"
    return requests.get(server.url + path, auth=(user, password), timeout=30).status_code == 200


def test_again_it_changes_nothing(server: Server) -> None:
    before = server.provision("list").stdout
    assert "trainer: trainer\n" in before
    done = server.provision()
    assert (done.returncode, done.stderr) == (0, "")
    assert server.provision("list").stdout == before
    assert _logs_in(server, "trainer", PASSWORDS["trainer"])


def test_another_password_is_set_by_running_it_again(server: Server, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("another one of the tests\n")
    done = server.provision(MLFLOW_READER_PASSWORD="", MLFLOW_READER_PASSWORD_FILE=str(tmp_path / "secret"))
    try:
        assert done.returncode == 0, done.stderr
        assert _logs_in(server, "reader", "another one of the tests")
        assert not _logs_in(server, "reader", PASSWORDS["reader"])
    finally:
        assert server.provision().returncode == 0
    assert _logs_in(server, "reader", PASSWORDS["reader"])


def test_a_person_comes_changes_roles_and_goes(server: Server) -> None:
    secret = {"NOTELLM2_USER_PASSWORD": "kim's own password"}
    done = server.provision("add", "kim", "--role", "promoter", "--role", "reader", **secret)
    assert (done.returncode, done.stdout) == (0, "kim: promoter, reader\n"), done.stderr
    assert "kim: promoter, reader\n" in server.provision("list").stdout
    server.provision("add", "kim", "--role", "trainer", **secret)
    assert "kim: trainer\n" in server.provision("list").stdout
    assert server.provision("remove", "kim").returncode == 0
    assert not _logs_in(server, "kim", secret["NOTELLM2_USER_PASSWORD"])
    gone = server.provision("remove", "kim")
    assert gone.returncode == 1
    assert "kim" in gone.stderr


def test_what_is_missing_or_too_short_is_named_and_never_shown(server: Server) -> None:
    short = server.provision(MLFLOW_PROMOTER_PASSWORD="short-pass")
    assert short.returncode == 2
    assert "MLFLOW_PROMOTER_PASSWORD: too short" in short.stderr
    assert "short-pass" not in short.stderr
    assert "MLFLOW_ADMIN_PASSWORD" in server.provision(MLFLOW_ADMIN_PASSWORD="").stderr
    assert "MLFLOW_TRACKING_URI" in server.provision(MLFLOW_TRACKING_URI="").stderr
    wrong = server.provision(MLFLOW_ADMIN_PASSWORD="not the password")
    assert wrong.returncode == 1
    assert "not the password" not in wrong.stderr


def test_the_administrators_password_is_the_one_of_the_servers_last_start(tmp_path: Path) -> None:
    server = Server(tmp_path)
    try:
        server.start()
        server.stop()
        server.variables = {"MLFLOW_ADMIN_PASSWORD": "rotated by a restart"}
        server.start()
        assert _logs_in(server, "admin", "rotated by a restart")
        assert not _logs_in(server, "admin", PASSWORDS["admin"])
        assert "rotated by" not in server.log.read_text()
    finally:
        server.stop()
