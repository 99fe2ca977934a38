"""The app by itself, on SQLite: what it decides does not depend on what else runs."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.unit.access.server import Server, provisioned


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One for the session (10 s)."""
    with provisioned(tmp_path_factory.mktemp("mlflow-server")) as started:
        yield started
