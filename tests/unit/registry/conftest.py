"""One real SQLite store for all tests of the room (making it takes 2-9 s); names of its own for each test."""

from __future__ import annotations

import dataclasses
import json
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from notellm2.artifacts import Artifact, Store
from notellm2.registry.tracking import URI_VARIABLE, Tracking
from notellm2.workspace import Workspace
from tests.unit.access.server import Server, provisioned
from tests.unit.registry.world import A, B, World, index_of

METRICS: dict[str, Any] = {
    "both": {"all": {"recall@10": 0.4, "mrr": 0.2, "n": 200}, "short_query": {"recall@10": 0.35, "mrr": None, "n": 0}},
    "text_only": {"all": {"recall@10": 0.3}},
    "image_only": {"all": {"recall@10": 0.2}},
    "linear": {"all": {"recall@10": 0.25}},
    "vision": {"all": {"recall@10": 0.1}},
    "tfidf": {"all": {"recall@10": 0.15}},
}


@pytest.fixture(scope="session")
def store_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    # A space in the name: URIs of SQLite and of files write it differently.
    return tmp_path_factory.mktemp("a workspace")


@pytest.fixture
def tracking(store_root: Path, monkeypatch: pytest.MonkeyPatch) -> Tracking:
    monkeypatch.delenv(URI_VARIABLE, raising=False)
    name = f"t-{uuid.uuid4().hex[:10]}"
    return dataclasses.replace(Tracking.at(Workspace.at(store_root)), experiment=name, model_name=name)


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One for the session (10 s)."""
    with provisioned(tmp_path_factory.mktemp("mlflow-server")) as started:
        yield started


@pytest.fixture(scope="session")
def indexes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Artifact]:
    """An index of either bundle, and another of the first."""
    store = Store(tmp_path_factory.mktemp("indexes"))
    return {bundle: index_of(store, bundle, seed) for seed, bundle in enumerate((A, B))} | {
        "refreshed": index_of(store, A, seed=7)
    }


@pytest.fixture
def world(tracking: Tracking, tmp_path: Path) -> World:
    return World(tracking, tmp_path / "published")


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    path = tmp_path / "bundle"
    path.mkdir()
    (path / "config.json").write_text('{"dim": 4}')
    (path / "heads.safetensors").write_bytes(b"\x08\x00\x00\x00\x00\x00\x00\x00{}      ")
    return path


@pytest.fixture
def evaluation(tmp_path: Path) -> Callable[..., Artifact]:
    """Make an evaluation artifact; other keyword arguments, another key."""

    def make(metrics: dict[str, Any] = METRICS, **config: Any) -> Artifact:
        def write(directory: Path) -> None:
            (directory / "metrics.json").write_text(json.dumps(metrics))
            (directory / "intervals.json").write_text('{"both": {"all": {"mrr": {"low": 0.1, "high": 0.3}}}}')
            (directory / "space.json").write_text('{"both": {"effective_rank": 6.5, "young_share": null}}')
            ranks = {"both_rank": [1.0, 7.5], "both_ties": [0, 1], "tfidf_rank": [2.0, 9.0], "random_rank": [4.0, 4.0]}
            table = pa.table({"query_id": ["a", "b"], "target_id": ["b", "c"], **ranks})
            pq.write_table(table, directory / "queries.parquet")

        return Store(tmp_path / "store").build("evaluation", 1, config, {}, write)

    return make


@pytest.fixture
def training(tmp_path: Path) -> Callable[[list[str]], Artifact]:
    """Make a training artifact with these lines in its metrics.jsonl."""

    def make(lines: list[str]) -> Artifact:
        def write(directory: Path) -> None:
            (directory / "metrics.jsonl").write_text("\n".join(lines) + "\n")

        return Store(tmp_path / "store").build("training", 1, {"lines": lines}, {}, write)

    return make
