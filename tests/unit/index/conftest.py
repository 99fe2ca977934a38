"""What the tests of this room share."""

from __future__ import annotations

from pathlib import Path

import pytest

from notellm2.artifacts import Artifact, Store
from notellm2.publication.location import Location
from notellm2.publication.opening import open_location
from tests.unit.index.examples import clustered, index_artifact


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store", {"recipe": "test"})


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> list[Artifact]:
    """Three indexes of the same notes by three models; not to be changed by a test."""
    store = Store(tmp_path_factory.mktemp("built"))
    return [index_artifact(store, clustered(120, seed=seed)) for seed in range(3)]


@pytest.fixture(params=["local", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Location:
    """An empty place of each kind."""
    return open_location(request.getfixturevalue("s3_place") if request.param == "s3" else tmp_path / "place")
