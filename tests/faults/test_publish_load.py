"""Readers under constant load while the pointer moves a hundred times: no query fails, no answer is of two versions."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest

from notellm2.artifacts import Artifact, Store
from notellm2.publication.location import Location
from notellm2.publication.opening import open_location
from notellm2.publication.pointer import Publication
from notellm2.publication.publish import point, prepare, retain, versions
from tests.conftest import ROOT
from tests.faults import index_readers
from tests.unit.index.examples import DATA_MD5, clustered, index_artifact

KEPT = 4
READERS = 2


@pytest.fixture(scope="module")
def indexes(tmp_path_factory: pytest.TempPathFactory) -> list[Artifact]:
    """Four indexes of notes of their own; only the note "asked" is in all of them."""
    store = Store(tmp_path_factory.mktemp("store"))
    return [
        index_artifact(store, clustered(60, seed=i), ids=["asked", *(f"m{i}-{row}" for row in range(1, 60))])
        for i in range(4)
    ]


def storm(place: Location, indexes: list[Artifact], moves: int) -> None:
    """Publish and roll back; each move is waited for until the readers answer from it."""
    dice = random.Random(7)

    def store(step: int) -> Publication:
        i = step % len(indexes)
        return prepare(place, indexes[i], model_name=f"m{i}", model_version=str(step), data_md5=DATA_MD5)

    current = point(place, store(0), expected=None)
    rollbacks = 0
    command = [sys.executable, index_readers.__file__, str(place), str(READERS)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT) as readers:
        assert readers.stdin is not None
        assert readers.stdout is not None
        for step in range(1, moves + 1):
            earlier = [p for p in versions(place).values() if p.version != current.version][: KEPT - 1]
            back = bool(earlier) and dice.random() < 0.4
            rollbacks += back
            current = point(place, dice.choice(earlier) if back else store(step), expected=current.version)
            retain(place, list(versions(place))[:KEPT], older_than_s=0)
            # A reader says which version it answers from whenever that changes; the end of its output is a failure.
            assert any(line.strip() == current.version for line in readers.stdout), f"step {step}: the readers ended"
        readers.stdin.close()
        told = json.loads(readers.stdout.read().splitlines()[-1])
    assert told.pop("answers") > 10 * moves
    assert told == {"faults": [], "problem": None, "served": current.version}
    assert rollbacks > moves // 5


def test_a_hundred_publications_and_rollbacks_under_load(tmp_path: Path, indexes: list[Artifact]) -> None:
    storm(open_location(tmp_path / "published"), indexes, moves=100)


def test_publications_and_rollbacks_on_s3_under_load(s3_place: str, indexes: list[Artifact]) -> None:
    storm(open_location(s3_place), indexes, moves=10)
