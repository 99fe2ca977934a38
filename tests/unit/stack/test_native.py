"""The native stack on small services: order, health, failures told, and that nothing stays behind."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from notellm2.errors import InputError
from notellm2.stack.native import ServiceFailed, Stack
from notellm2.stack.settings import Settings, write_secrets
from notellm2.stack.state import StateFolder
from tests.conftest import ROOT, free_ports

WEB = """
services:
  web:
    command: ["python", "-m", "http.server", "--bind", "${NATIVE_LISTEN}", "${SERVING_PORT}"]
    environment: {COLOUR: "${COLOUR:-blue}"}
    volumes: ["site:/site"]
    healthcheck:
      test: ["CMD", "python", "-m", "notellm2.stack.health", "http://${NATIVE_ADDRESS}:${SERVING_PORT}/"]
      interval: 10s
      timeout: 10s
      retries: 3
    restart: unless-stopped
    x-native: {port: "${SERVING_PORT}"}
"""
ONCE = """
  once:
    command: ["python", "-c", "print('once ran')"]
    depends_on: {web: {condition: service_healthy}}
    restart: "no"
"""
BROKEN = """
  broken:
    command: ["python", "-c", "import sys; print('the reason why'); sys.exit(3)"]
    depends_on: {web: {condition: service_healthy}}
    restart: "no"
"""
# Its child outlives it, and holds the port, when it is killed.
PARENT = """
  parent:
    command:
      - python
      - -c
      - |
        import subprocess, sys
        subprocess.run([sys.executable, "-m", "http.server", "--bind", "127.0.0.1", "${MLFLOW_PORT}"])
    healthcheck:
      test: ["CMD", "python", "-m", "notellm2.stack.health", "http://${NATIVE_LOOPBACK}:${MLFLOW_PORT}/"]
      interval: 10s
      timeout: 10s
      retries: 3
    restart: unless-stopped
    x-native: {port: "${MLFLOW_PORT}"}
"""


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def stack_of(tmp_path: Path, said: list[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Stack]]:
    """Makes a stack of these services in the test's folder; what it left running is ended."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    env_file = tmp_path / ".env"
    write_secrets(env_file, ROOT / ".env.example")
    ports = dict(zip(("SERVING_PORT", "MLFLOW_PORT"), free_ports(2), strict=True))
    made = []

    def make(services: str, state: str = "state", **values: object) -> Stack:
        lines = [line for line in env_file.read_text().splitlines() if line.split("=")[0] not in {**ports, **values}]
        lines += [f"{name}={value}" for name, value in {**ports, **values}.items()]
        env_file.write_text("\n".join(lines) + "\n")
        compose = tmp_path / "docker-compose.yml"
        compose.write_text(services)
        made.append(Stack(Settings.load(env_file), compose, tmp_path / state, say=said.append))
        return made[-1]

    yield make
    for stack in made:
        stack.down()
        assert stack.running() == 0


def states(stack: Stack) -> dict[str, str]:
    return {row.name: row.state for row in stack.status()}


def wait_until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_up_waits_in_order_status_tells_down_leaves_nothing(stack_of: Callable[..., Stack], said: list[str]) -> None:
    stack = stack_of(WEB + ONCE)
    assert states(stack) == {"web": "stopped", "once": "stopped"}
    stack.up()
    assert states(stack) == {"web": "healthy", "once": "done"}
    assert said[0] == "web: starting"
    assert said[1].startswith("web: healthy after")
    assert said[1].endswith(stack.url("web"))
    assert said[2] == "once: starting"
    assert stack.log_path("once").read_text() == "once ran\n"
    web = next(row for row in stack.status() if row.name == "web")
    assert web.pid == stack.pid("web") != 0
    assert abs(web.since - psutil.Process(web.pid).create_time()) < 5
    assert stack.down() == 0, "supervisor stopped them all"
    assert states(stack)["web"] == "stopped"
    assert stack.running() == 0
    assert stack.down() == 0, "down of what is down is fine"


def test_up_again_leaves_running_what_has_not_changed(stack_of: Callable[..., Stack], said: list[str]) -> None:
    first = stack_of(WEB)
    first.up()
    pid = first.pid("web")
    again = stack_of(WEB)
    again.up()
    assert again.pid("web") == pid
    changed = stack_of(WEB, COLOUR="red")
    changed.up()
    assert changed.pid("web") != pid
    assert "web: its definition has changed, restarting it" in said
    assert psutil.Process(changed.pid("web")).environ()["COLOUR"] == "red"


def test_up_of_one_leaves_none_of_the_others_stopped(stack_of: Callable[..., Stack]) -> None:
    """Of the other supervisor itself knows something else now, so it has to stop it."""
    stack_of(WEB + PARENT).up()
    later = stack_of(WEB + PARENT.replace("restart:", "stop_grace_period: 9s\n    restart:"))
    later.up(["web"])
    assert states(later) == {"web": "healthy", "parent": "healthy"}


def test_a_server_that_came_back_by_itself_meanwhile_is_no_failure(stack_of: Callable[..., Stack]) -> None:
    stack = stack_of(WEB)
    stack.up()
    pid = stack.pid("web")
    stack._supervisor.start_service("web")
    assert stack.pid("web") == pid


def test_another_shell_is_no_change(stack_of: Callable[..., Stack], monkeypatch: pytest.MonkeyPatch) -> None:
    stack = stack_of(WEB)
    stack.up()
    pid = stack.pid("web")
    monkeypatch.setenv("LANG", "C.UTF-8")
    monkeypatch.setenv("PATH", f"/somewhere:{os.environ['PATH']}")
    stack_of(WEB).up()
    assert stack.pid("web") == pid


def test_a_service_gets_no_setting_of_the_shell(
    stack_of: Callable[..., Stack], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://elsewhere")
    monkeypatch.setenv("AWS_PROFILE", "mine")
    stack = stack_of(WEB)
    stack.up()
    process = psutil.Process(stack.pid("web"))
    assert not {"MLFLOW_TRACKING_URI", "AWS_PROFILE"} & process.environ().keys()
    assert process.cwd() == str(tmp_path), "the project's folder"
    assert "127.0.0.1" in process.cmdline(), "it listens where .env says, not everywhere"


def test_a_failure_shows_the_end_of_the_log_and_down_still_cleans_up(stack_of: Callable[..., Stack]) -> None:
    stack = stack_of(WEB + BROKEN)
    with pytest.raises(ServiceFailed, match="broken failed with status 3") as failed:
        stack.up()
    assert failed.value.tail == ["the reason why"]
    assert failed.value.log == stack.log_path("broken")
    assert states(stack) == {"web": "healthy", "broken": "failed"}, "the others stay, so that one can look"
    stack.down()
    assert stack.running() == 0


def test_a_server_that_ends_at_once_is_given_up(stack_of: Callable[..., Stack]) -> None:
    stack = stack_of(WEB.replace('"http.server", "--bind", "${NATIVE_LISTEN}", "${SERVING_PORT}"', '"no_such_module"'))
    with pytest.raises(ServiceFailed, match=r"web (ended 3 times before|does not start)") as failed:
        stack.up()
    assert "No module named no_such_module" in "".join(failed.value.tail)


def test_a_killed_server_comes_back_although_its_child_held_the_port(stack_of: Callable[..., Stack]) -> None:
    stack = stack_of("services:" + PARENT)
    stack.up()
    parent = psutil.Process(stack.pid("parent"))
    [child] = parent.children()
    parent.kill()
    wait_until(lambda: stack.pid("parent") not in (0, parent.pid))
    wait_until(lambda: states(stack)["parent"] == "healthy")
    assert not child.is_running()


def test_down_and_up_find_what_a_killed_supervisor_left(stack_of: Callable[..., Stack], said: list[str]) -> None:
    stack = stack_of(WEB)
    stack.up()
    web, supervisor = psutil.Process(stack.pid("web")), int((stack.state.root / "supervisord.pid").read_text())
    os.kill(supervisor, signal.SIGKILL)
    wait_until(lambda: states(stack)["web"] == "stopped")
    assert web.is_running()
    assert stack.down() == 1
    assert not web.is_running()

    stack.up()
    os.kill(int((stack.state.root / "supervisord.pid").read_text()), signal.SIGKILL)
    wait_until(lambda: states(stack)["web"] == "stopped")
    stack.up()
    assert "ended 1 processes that a killed supervisor left behind" in said
    assert states(stack)["web"] == "healthy"


def test_down_needs_no_settings(stack_of: Callable[..., Stack], tmp_path: Path) -> None:
    stack = stack_of(WEB)
    stack.up()
    (tmp_path / ".env").unlink()
    command = [sys.executable, "-m", "notellm2", "stack", "down", "--state", str(tmp_path / "state")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, "down\n")
    assert stack.running() == 0


def test_restart_makes_a_new_process(stack_of: Callable[..., Stack], tmp_path: Path) -> None:
    stack = stack_of(WEB)
    stack.up()
    pid = stack.pid("web")
    command = [sys.executable, "-m", "notellm2", "stack", "restart", "web", "--state", str(tmp_path / "state")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("web: starting\nweb: healthy after")
    assert stack.pid("web") not in (0, pid)


def test_a_killed_up_can_be_taken_down(stack_of: Callable[..., Stack], tmp_path: Path) -> None:
    never = '\n  never:\n    command: ["python", "-c", "import time; time.sleep(600)"]\n    restart: "no"\n'
    stack = stack_of(WEB + never)
    command = [sys.executable, "-m", "notellm2", "stack", "up", "--state", str(tmp_path / "state")]
    command += ["--env", str(tmp_path / ".env"), "--compose", str(tmp_path / "docker-compose.yml")]
    up = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert up.stdout is not None
    for line in up.stdout:
        if line.startswith("web: healthy"):
            break
    up.kill()
    up.wait(timeout=30)
    assert states(stack) == {"web": "healthy", "never": "starting"}
    stack.down()
    assert stack.running() == 0


def test_a_port_in_use_names_the_setting(stack_of: Callable[..., Stack]) -> None:
    stack = stack_of(WEB)
    port = int(stack.settings.variables["SERVING_PORT"])
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", port))
        taken.listen()
        with pytest.raises(
            InputError, match=rf"web cannot listen on .*:{int(stack.settings.variables['SERVING_PORT'])} .*SERVING_PORT"
        ):
            stack.up()


def test_a_port_that_another_took_meanwhile_is_told_too(stack_of: Callable[..., Stack]) -> None:
    """Supervisor goes on trying, for as long as it takes."""
    stack = stack_of(WEB)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", int(stack.settings.variables["SERVING_PORT"])))
        stack.up([])
        stack._supervisor.start_service("web")
        taken.listen()
        wait_until(lambda: "already in use" in stack.log_path("web").read_text())
        wait_until(lambda: stack.pid("web") == 0)
        with pytest.raises(InputError, match="web cannot listen on"):
            stack.up()
    wait_until(lambda: states(stack)["web"] == "healthy")


def test_volumes_are_ours_alone_but_for_another_users_way(stack_of: Callable[..., Stack]) -> None:
    """PostgreSQL's user passes through, whatever the umask of who says `up`."""
    theirs = (
        WEB.replace("services:\n  web:", "  db:")
        .replace("site:", "base:")
        .replace("x-native: {", "x-native: {user: x, ")
    )
    stack = stack_of(WEB + theirs)
    before = os.umask(0o077)
    try:
        stack._make_folders(["web", "db"])
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode & 0o777 for path in stack.state.volumes.iterdir()}
    assert modes == {"site": 0o700, "base": 0o711}
    assert stack.state.root.stat().st_mode & stack.state.volumes.stat().st_mode & 0o777 == 0o711


def test_without_supervisor_it_is_said_what_to_install(
    stack_of: Callable[..., Stack], monkeypatch: pytest.MonkeyPatch
) -> None:
    stack = stack_of(WEB)
    with monkeypatch.context() as without:
        without.setitem(sys.modules, "supervisor.xmlrpc", None)
        for ask in (stack.up, stack.status):
            with pytest.raises(InputError, match=r"needs supervisor: pip install .*\[stack,serve\]"):
                ask()


def test_a_folder_with_something_else_in_it_is_no_state_folder(stack_of: Callable[..., Stack], tmp_path: Path) -> None:
    stack = stack_of(WEB)
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "thesis.tex").write_text("x")
    with pytest.raises(InputError, match="holds something else"):
        stack.up()
    assert [path.name for path in (tmp_path / "state").iterdir()] == ["thesis.tex"]


def test_one_up_at_a_time(stack_of: Callable[..., Stack], tmp_path: Path) -> None:
    from notellm2.workspace import file_lock

    stack = stack_of(WEB)
    stack.up()
    with file_lock(stack.state.root / ".lock", "stack up", timeout_s=0):
        for another in (stack.up, stack.down, lambda: stack.restart("web")):
            with pytest.raises(InputError, match="in use by stack up"):
                another()


def test_services_that_do_not_exist_or_not_here_are_told(stack_of: Callable[..., Stack]) -> None:
    stack = stack_of(WEB + '\n  far:\n    command: ["true"]\n    x-native: {skip: it flies}\n')
    with pytest.raises(InputError, match="no service wbe; there are web, far"):
        stack.up(["wbe"])
    with pytest.raises(InputError, match="far does not run natively: it flies"):
        stack.up(["far"])
    with pytest.raises(InputError, match="no service wbe"):
        stack.log_path("wbe")
    with pytest.raises(InputError, match="web does not run here"):
        stack.restart("web")
    assert states(stack) == {"web": "stopped", "far": "left out"}


def test_services_in_a_circle_are_told(stack_of: Callable[..., Stack]) -> None:
    on = "{%s: {condition: service_healthy}}"
    circle = (
        f"services:\n  a: {{command: [x], depends_on: {on % 'b'}}}\n  b: {{command: [x], depends_on: {on % 'a'}}}\n"
    )
    with pytest.raises(InputError, match="in a circle"):
        stack_of(circle)


def test_a_long_state_folder_still_has_a_socket(tmp_path: Path) -> None:
    short, long = StateFolder(Path("/s")), StateFolder(tmp_path / ("x" * 120))
    assert short.socket == Path("/s/supervisor.sock")
    assert len(os.fsencode(long.socket)) <= 100
    assert long.socket != StateFolder(tmp_path / ("y" * 120)).socket


def test_a_folder_may_have_nearly_any_name(stack_of: Callable[..., Stack]) -> None:
    stack = stack_of(WEB, state="a \\ ${HOME} (1), my \u6587")
    stack.up()
    assert states(stack)["web"] == "healthy"
    assert stack.log_path("web").exists()
    with pytest.raises(InputError, match="cannot read '%' in a path"):
        stack_of(WEB, state="50%").up()


def test_secrets_lie_only_where_their_owner_reads_them(stack_of: Callable[..., Stack]) -> None:
    stack = stack_of(WEB.replace("{COLOUR: ", "{TOKEN: '${S3_SECRET_KEY}', COLOUR: ", 1))
    stack.up()
    secret = stack.settings.variables["S3_SECRET_KEY"]
    holding = [p for p in stack.state.root.rglob("*") if p.is_file() and secret in p.read_text(errors="replace")]
    assert holding == [stack.state.supervisor_file]
    assert holding[0].stat().st_mode & 0o777 == 0o600
