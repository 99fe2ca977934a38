"""One server of our app for all tests of who may do what (10 s), with the users that the stack has."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.unit.registry.access.server import Server


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    started = Server(tmp_path_factory.mktemp("mlflow-server"))
    started.start()
    try:
        done = started.provision()
        assert done.returncode == 0, done.stderr
        yield started
    finally:
        started.stop()
