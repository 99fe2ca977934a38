"""A real published index, and a client of the service over it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from notellm2.artifacts import Artifact, Store
from notellm2.publication.opening import open_location
from notellm2.serving.api import application
from notellm2.serving.pointer_follower import Follower
from tests.unit.index.examples import clustered, index_artifact

NOTES = 60
ODD = "a/b ?#é<b>"
"""An id with characters that mean something in addresses and in HTML."""


class Service(TestClient):
    """A client, and the follower of the service it asks. The follower looks when a test tells it to."""

    def __init__(self, follower: Follower) -> None:
        super().__init__(application(follower), raise_server_exceptions=False)
        self.follower = follower


@pytest.fixture(scope="session")
def indexes(tmp_path_factory: pytest.TempPathFactory) -> list[Artifact]:
    """Indexes of notes of their own by four models; only "asked" and `ODD` are in all of them."""
    store = Store(tmp_path_factory.mktemp("served"))

    def ids(model: int) -> list[str]:
        return ["asked", ODD, *(f"m{model}-{row}" for row in range(2, NOTES))]

    return [index_artifact(store, clustered(NOTES, seed=model), ids=ids(model)) for model in range(4)]


@pytest.fixture
def published(tmp_path: Path) -> Path:
    return tmp_path / "published"


@pytest.fixture
def open_service(published: Path) -> Iterator[Callable[..., Service]]:
    """Open a service over the published place; by itself it looks at the pointer once, at its start."""
    with ExitStack() as stack:

        def service(*, every_s: float = 3600.0) -> Service:
            follower = Follower(open_location(published), every_s=every_s)
            client = stack.enter_context(Service(follower))
            first_look = follower.first_look.wait(timeout=60)
            assert first_look
            return client

        yield service
