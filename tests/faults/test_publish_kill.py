"""A publisher killed anywhere, or many at once: the pointer always names one complete version."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from notellm2.artifacts import Artifact, Store
from notellm2.index.layout import damage
from notellm2.publication.pointer import read_pointer
from tests.faults import publish_crashes
from tests.unit.index.examples import clustered, index_artifact

PUBLISHER = """
import json, sys
from pathlib import Path
from notellm2.artifacts import Artifact
from notellm2.publication.pointer import NothingPublished, read_pointer
from notellm2.publication.publish import PointerMoved, point, prepare
folder, index, first, count = Path(sys.argv[1]), json.loads(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
sys.stdin.read()
for version in range(first, first + count):
    publication = prepare(folder, Artifact.from_reference(index), model_name="notes", model_version=str(version),
                          data_md5="0123456789abcdef0123456789abcdef.dir")
    while True:
        try:
            seen = read_pointer(folder).version
        except NothingPublished:
            seen = None
        try:
            point(folder, publication, expected=seen)
            break
        except PointerMoved:
            continue
    print(seen, publication.version)
"""


@pytest.fixture(scope="module")
def indexes(tmp_path_factory: pytest.TempPathFactory) -> tuple[Artifact, Artifact]:
    store = Store(tmp_path_factory.mktemp("store"))
    return index_artifact(store, clustered(60, seed=1)), index_artifact(store, clustered(60, seed=2))


def crash_everywhere(folder: Path, old: Artifact | None, new: Artifact) -> list[dict[str, Any]]:
    program = [sys.executable, publish_crashes.__file__, str(folder)]
    references = [json.dumps(index.reference() if index else None) for index in (old, new)]
    done = subprocess.run([*program, *references], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    outcomes: list[dict[str, Any]] = json.loads(done.stdout)
    return outcomes


@pytest.mark.parametrize("before", ["1", None], ids=["over an old index", "the first index"])
def test_killed_before_any_file_operation_readers_have_the_old_index_or_the_new(
    tmp_path: Path, indexes: tuple[Artifact, Artifact], before: str | None
) -> None:
    outcomes = crash_everywhere(tmp_path, indexes[0] if before else None, indexes[1])
    # Eleven at least: lock, temporary directory, seven files, rename, pointer; far more with every flush.
    assert len(outcomes) > 30, "the audit hook saw too few operations to mean anything"
    assert all(outcome["killed"] for outcome in outcomes[:-1])
    assert not outcomes[-1]["killed"]
    assert all(outcome["problems"] == [] for outcome in outcomes)
    assert all(outcome["incomplete"] == [] for outcome in outcomes)
    served = [outcome["version"] for outcome in outcomes]
    moved = served.index("2")
    assert served == [before] * moved + ["2"] * (len(served) - moved), "once moved, the pointer never moves back"
    assert 0 < moved < len(served)
    for outcome in outcomes:
        assert outcome["then"] == {"version": "2", "problems": []}, "the next publisher finishes the work"
        assert len(outcome["versions"]) == 1, "and clears away what was left"
        assert outcome["left"] == outcomes[-1]["left"]


def test_many_publishers_at_once_take_turns(tmp_path: Path, indexes: tuple[Artifact, Artifact]) -> None:
    folder = tmp_path / "published"
    command = [sys.executable, "-c", PUBLISHER, str(folder), json.dumps(indexes[0].reference())]
    publishers = [
        subprocess.Popen(
            [*command, str(first), "5"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for first in (10, 20, 30, 40)
    ]
    for publisher in publishers:
        assert publisher.stdin is not None
        publisher.stdin.close()
        publisher.stdin = None
    moves: dict[str, str] = {}
    for publisher in publishers:
        output, complaint = publisher.communicate(timeout=60)
        assert publisher.returncode == 0, complaint
        for line in output.splitlines():
            seen, moved_to = line.split()
            assert seen not in moves, "two publishers moved the pointer from the same place"
            moves[seen] = moved_to
    pointer = read_pointer(folder)
    assert damage(folder / pointer.folder, pointer.files) == []
    assert {p.name for p in (folder / "versions").iterdir()} == set(moves.values())
    at = "None"
    for _ in range(20):
        at = moves.pop(at)
    assert (at, moves) == (pointer.version, {}), "every move began where the one before it ended"
