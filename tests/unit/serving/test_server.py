"""The service as a process: it starts before anything is published, and ends when it is told to, in order."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any, Self

import pytest

from notellm2.artifacts import Artifact
from notellm2.errors import InputError
from notellm2.publication.opening import open_location
from notellm2.serving.pointer_follower import Follower
from notellm2.serving.server import _listen, serve
from tests.unit.index.examples import publish

FOLLOW_S = "0.05"
PLAIN = "from notellm2.cli import main; main()"
SLOW = (
    """
import sys
from notellm2.publication.reader import OpenVersion
search = OpenVersion.similar

def slow(self, *arguments):
    print("searching", flush=True)
    sys.stdin.read()
    return search(self, *arguments)

OpenVersion.similar = slow
"""
    + PLAIN
)
"""The service with a search that lasts until standard input ends."""


class Process:
    """`notellm2 serve` as a process on a free port, ready when something is published."""

    def __init__(self, published: Path | str, code: str = PLAIN, environment: dict[str, str] | None = None) -> None:
        self.log: str | None = None
        command = [sys.executable, "-c", code, "serve", "--published", str(published), "--port", "0"]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(
            [*command, "--follow", FOLLOW_S], stdin=pipe, stdout=pipe, stderr=pipe, text=True, env=environment
        )
        assert self.process.stdout is not None
        self.first_line = self.process.stdout.readline()
        found = re.match(r"(http://127\.0\.0\.1:\d+) serves ", self.first_line)
        assert found is not None, self.stop()
        self.url = found[1]

    def __enter__(self) -> Self:
        try:
            self.wait(lambda: self.get("/healthz")[0] == 200)
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def get(self, path: str) -> tuple[int, Any]:
        try:
            with urllib.request.urlopen(self.url + path, timeout=30) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)
        except OSError:
            return 0, None

    def wait(self, condition: Any) -> None:
        deadline = time.monotonic() + 60
        while not condition():
            assert self.process.poll() is None, self.stop()
            assert time.monotonic() < deadline
            threading.Event().wait(0.02)

    def stop(self, number: int = signal.SIGTERM) -> str:
        """End it; returns what it logged."""
        if self.log is None:
            self.process.send_signal(number)
            with self.process:
                assert self.process.stderr is not None
                self.log = self.process.stderr.read()
        return self.log


def test_it_starts_before_the_first_publication_follows_and_ends(published: Path, indexes: list[Artifact]) -> None:
    with Process(published) as service:
        status, told = service.get("/readyz")
        assert (status, told["ready"]) == (503, False)
        first = publish(published, indexes[0], model_version="1")
        service.wait(lambda: service.get("/readyz")[0] == 200)
        second = publish(published, indexes[1], model_version="2")
        service.wait(lambda: service.get("/readyz")[1]["publication"] == second.version)
        assert service.get("/similar/asked?k=3")[1]["served_by"]["model_version"] == "2"
        log = service.stop()
    assert service.process.returncode == 0
    assert f"{published}" in service.first_line
    assert f"serving {first.version}: model notes version 1" in log
    assert f"serving {second.version}: model notes version 2" in log
    assert "Traceback" not in log


def test_a_request_in_flight_is_finished_at_a_stop(published: Path, indexes: list[Artifact]) -> None:
    publish(published, indexes[0])
    answers = list[tuple[int, Any]]()
    with Process(published, code=SLOW) as service:
        service.wait(lambda: service.get("/readyz")[0] == 200)
        asking = threading.Thread(target=lambda: answers.append(service.get("/similar/asked?k=3")))
        asking.start()
        assert service.process.stdout is not None
        assert service.process.stdout.readline() == "searching\n"
        service.process.send_signal(signal.SIGINT)
        service.wait(lambda: service.get("/healthz")[0] == 0)  # It takes no more requests,
        assert service.process.stdin is not None
        service.process.stdin.close()  # and only now goes the search on.
        asking.join()
        assert service.process.wait(timeout=60) == 0
    assert [status for status, _ in answers] == [200]
    assert len(answers[0][1]["similar"]) == 3


def test_the_service_loads_neither_torch_nor_the_registry(published: Path, indexes: list[Artifact]) -> None:
    publish(published, indexes[0])
    probe = f"""
import sys
from starlette.testclient import TestClient
from notellm2.publication.location import Location
from notellm2.publication.opening import open_location
from notellm2.serving.api import application
from notellm2.serving.pointer_follower import Follower
import notellm2.serving.server, uvicorn
follower = Follower(open_location({str(published)!r}), every_s=60)
with TestClient(application(follower)) as client:
    follower.first_look.wait(60)
    assert client.get("/similar/asked").status_code == 200
    assert client.get("/metrics").status_code == 200
print(*sorted(sys.modules))
"""
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True, timeout=60)
    loaded = set(done.stdout.split())
    heavy = {"torch", "transformers", "mlflow", "pandas", "sklearn", "prefect", "pyarrow", "notellm2.registry"}
    assert loaded.isdisjoint(heavy)


def test_an_address_in_use_is_told(published: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(InputError, match=rf"cannot listen on 127\.0\.0\.1 port {port}: .*--port"):
            serve(open_location(published), "127.0.0.1", port)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_answers_are_not_held_back_by_nagle(host: str) -> None:
    with _listen(host, 0) as listening:
        assert listening.proto == socket.IPPROTO_TCP, "asyncio sets TCP_NODELAY for these alone"
        client = socket.create_connection(listening.getsockname()[:2], timeout=30)
        with client, listening.accept()[0] as accepted:
            assert accepted.proto == socket.IPPROTO_TCP


def test_a_pace_is_above_zero(published: Path) -> None:
    with pytest.raises(InputError, match="0 seconds between two looks"):
        Follower(open_location(published), every_s=0)
