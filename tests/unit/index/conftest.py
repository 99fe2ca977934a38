"""What the tests of this room share."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from notellm2.artifacts import Artifact, Store
from notellm2.index.location import Location
from tests.unit.index import s3_server
from tests.unit.index.examples import clustered, index_artifact


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store", {"recipe": "test"})


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> list[Artifact]:
    """Three indexes of the same notes by three models; not to be changed by a test."""
    store = Store(tmp_path_factory.mktemp("built"))
    return [index_artifact(store, clustered(120, seed=seed)) for seed in range(3)]


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    """An S3 server on loopback with a bucket."""
    with pytest.MonkeyPatch.context() as patch, s3_server.serving() as endpoint:
        s3_server.use(patch, endpoint)
        s3_server.client().create_bucket(Bucket=s3_server.BUCKET)
        yield endpoint


@pytest.fixture
def s3_place(s3_endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URL of an empty place on S3."""
    s3_server.use(monkeypatch, s3_endpoint)
    monkeypatch.setenv("NOTELLM2_CACHE", str(tmp_path / "cache"))
    return f"s3://{s3_server.BUCKET}/{uuid.uuid4().hex}"


@pytest.fixture(params=["local", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Location:
    """An empty place of each kind."""
    return Location.at(request.getfixturevalue("s3_place") if request.param == "s3" else tmp_path / "place")
