"""An MLflow server of our app on loopback with a SQLite file: start, stop and start again as the same place."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.conftest import free_ports

PASSWORDS = {user: f"{user}-of-the-tests" for user in ("admin", "trainer", "promoter", "reader")}
STARTED_WITHIN_S = 120


@dataclass
class Server:
    """One place: database, files, port."""

    root: Path
    port: int = field(default_factory=lambda: free_ports(1)[0])
    process: subprocess.Popen[bytes] | None = None
    variables: Mapping[str, str] = field(default_factory=dict)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def log(self) -> Path:
        return self.root / "server.log"

    def start(self) -> None:
        command = [sys.executable, "-m", "mlflow", "server", "--app-name", "notellm2", "--workers", "1"]
        command += ["--host", "127.0.0.1", "--port", str(self.port)]
        command += ["--artifacts-destination", str(self.root / "files")]
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "PYTEST"))}
        environment |= {
            "MLFLOW_BACKEND_STORE_URI": f"sqlite:///{self.root / 'mlflow.db'}",
            "MLFLOW_ADMIN_PASSWORD": PASSWORDS["admin"],
            "MLFLOW_FLASK_SERVER_SECRET_KEY": "a key of the tests",
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            **self.variables,
        }
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                command, env=environment, stdout=log, stderr=log, cwd=self.root, start_new_session=True
            )
        deadline = time.monotonic() + STARTED_WITHIN_S
        while not self.answers():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the server did not start:\n{self.log.read_text()[-4000:]}")
            time.sleep(0.1)

    def answers(self) -> bool:
        with contextlib.suppress(OSError), urllib.request.urlopen(f"{self.url}/health", timeout=5) as answer:
            return bool(answer.status == 200)
        return False

    def stop(self) -> None:
        """End the server and what it started: MLflow serves from a child."""
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGTERM)
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait(20)
            self.process = None

    def as_user(self, user: str) -> dict[str, str]:
        """What a client's environment says."""
        return {
            "MLFLOW_TRACKING_URI": self.url,
            "MLFLOW_TRACKING_USERNAME": user,
            "MLFLOW_TRACKING_PASSWORD": PASSWORDS[user],
        }

    def provision(self, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run ``python -m notellm2.access`` against this server."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
        environment |= {f"MLFLOW_{user.upper()}_PASSWORD": password for user, password in PASSWORDS.items()}
        environment |= {"MLFLOW_TRACKING_URI": self.url, **variables}
        return subprocess.run(
            [sys.executable, "-m", "notellm2.access", *arguments],
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
        )


@contextlib.contextmanager
def provisioned(root: Path) -> Iterator[Server]:
    """A server of our app with the users that the stack has."""
    started = Server(root)
    started.start()
    try:
        done = started.provision()
        assert done.returncode == 0, done.stderr
        yield started
    finally:
        started.stop()
