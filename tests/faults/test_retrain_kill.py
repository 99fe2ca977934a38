"""kill -9 in the middle of training, then the same command: nothing is lost, nothing is left behind."""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from flows.runtime import environment
from notellm2.artifacts import Artifact
from notellm2.processes import tagged_process
from notellm2.recipe import RegistryConfig
from tests.conftest import Retrained
from tests.flows.running import Place

TIMES = {"pairs_per_s", "seconds", "eta_s", "elapsed_s"}
KILLED_AT, CHECKPOINT_EVERY, STEPS = 7, 4, 12


def history(training: Artifact) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in training.file("metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if name not in TIMES} for row in rows]


def weights(training: Artifact) -> dict[str, str]:
    entries = training.manifest["files"]
    return {name: entry["sha256"] for name, entry in entries.items() if name.endswith(".safetensors")}


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    """An empty place; no server is left, however the test ends."""
    place = Place(tmp_path)
    yield place
    environment.end_stale_server(place.workspace.prefect_home)


def test_killed_in_training_the_same_command_ends_as_if_nothing_had_happened(
    retrained: Retrained, place: Place
) -> None:
    from notellm2.registry.tracking import Tracking

    killed = place.retrain(die_at_step=KILLED_AT)
    assert killed.returncode == -9, killed.stderr[-6000:]
    before = {a.stage: a.path.stat().st_ino for a in place.store.artifacts()}
    assert set(before) == {"quality", "pairs", "backbones", "vision-features", "texts"}
    assert list((place.store.root / "training").glob(".*.work/*")), "a checkpoint survived"
    home = place.workspace.prefect_home
    orphan = tagged_process(json.loads((home / environment.SERVER_RECORD).read_text())["server"])
    assert orphan is not None, "the embedded server outlives its flow"

    again = place.retrain()
    assert again.returncode == 0, again.stderr[-6000:]

    assert f"process {orphan.pid}" in again.stderr, "it says which server it ended"
    assert not orphan.is_running() or orphan.status() == psutil.STATUS_ZOMBIE
    with sqlite3.connect(home / "prefect.db") as connection:
        states = connection.execute("select state_type from flow_run order by created").fetchall()
    assert states == [("CRASHED",), ("COMPLETED",)]

    after = {a.stage: a.path.stat().st_ino for a in place.store.artifacts()}
    assert {stage: after[stage] for stage in before} == before, "earlier stages are the same directories"
    assert "4 of 10 artifacts were there already, 6 made" in again.stdout
    assert re.search(r"resum\w+ .*\b4\b", again.stderr, re.IGNORECASE), "it says that training resumed, and where"

    ours, theirs = place.artifact("training"), retrained.place.artifact("training")
    assert ours.key == theirs.key
    assert history(ours) == history(theirs)
    assert weights(ours) == weights(theirs)
    assert ours.summary["final_loss"] == theirs.summary["final_loss"]

    tracking = Tracking.at(place.workspace, RegistryConfig())
    (run,) = tracking.client.search_runs([tracking.experiment_id()])
    assert run.info.status == "FINISHED"
    steps = sorted(p.step for p in tracking.client.get_metric_history(run.info.run_id, "training/loss"))
    assert steps == list(range(1, STEPS + 1)), "each step once, those before the kill included"
