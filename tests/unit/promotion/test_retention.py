from __future__ import annotations

import dataclasses
import time
from pathlib import Path

import pytest

from notellm2.artifacts import Artifact
from notellm2.errors import InputError
from notellm2.promotion import retention
from notellm2.registry import names, versions
from notellm2.registry.tracking import Tracking
from notellm2.workspace import PUBLISHED, Workspace
from tests.unit.registry.world import WHY, A, B, World


@pytest.fixture
def workspace(store_root: Path, world: World, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    monkeypatch.setenv(PUBLISHED, str(world.published))
    return Workspace.at(store_root)


def ended(tracking: Tracking, status: str = "FINISHED") -> str:
    run = str(tracking.client.create_run(tracking.experiment_id()).info.run_id)
    if status != "RUNNING":
        tracking.client.set_terminated(run, status)
    return run


def tick() -> None:
    """Let MLflow's clock, which counts milliseconds, go on."""
    started = time.time_ns() // 1_000_000
    while time.time_ns() // 1_000_000 <= started + 1:
        pass


def registered(world: World, bundle: str, run: str) -> str:
    client, name = world.tracking.client, world.tracking.model_name
    versions._ensure_registered_model(world.tracking)
    tags = {names.BUNDLE: bundle, names.GATE: "passed", names.DATA_MD5: "d" * 32 + ".dir"}
    made = client.create_model_version(name, "file:///nowhere", run, tags=tags, await_creation_for=0)
    return str(made.version)


def test_what_nothing_in_use_rests_on_goes_and_the_rest_stays(
    world: World, workspace: Workspace, indexes: dict[str, Artifact]
) -> None:
    tracking = world.tracking
    runs = [ended(tracking) for _ in range(5)]
    first, second, refused, candidate = (
        registered(world, bundle, run) for bundle, run in zip((A, B, A, A), runs, strict=False)
    )
    world.promote(first, indexes[A], expected=None)
    world.promote(second, indexes[B], expected=first)
    versions.move_alias(tracking, names.CHALLENGER, candidate)
    waiting = ended(tracking, "RUNNING")
    failed = ended(tracking, "FAILED")
    tick()

    assert retention.expire(tracking, workspace, older_than_s=3600) == retention.Expired(), "all are young"
    planned = retention.expire(tracking, workspace, older_than_s=0, dry_run=True)
    assert planned.versions == [refused]
    assert set(planned.runs) == {runs[2], runs[4], failed}
    assert tracking.client.get_run(failed).info.lifecycle_stage == "active", "only said so"

    assert retention.expire(tracking, workspace, older_than_s=0) == planned
    with pytest.raises(InputError, match="not in"):
        versions.get_version(tracking, refused)
    for kept in (first, second, candidate):
        assert versions.get_version(tracking, kept).version == kept
    stages = {run: tracking.client.get_run(run).info.lifecycle_stage for run in [*runs, waiting, failed]}
    assert {run for run, stage in stages.items() if stage == "deleted"} == set(planned.runs)
    assert world.in_use() == second
    assert retention.expire(tracking, workspace, older_than_s=0) == retention.Expired(), "again: nothing is left to do"
    world.promoter().rollback(WHY)
    assert world.in_use() == first, "a rollback finds what it needs"


def test_a_user_who_may_not_delete_is_told_what_to_do(
    world: World, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException
    from mlflow.protos.databricks_pb2 import PERMISSION_DENIED

    def refused(*_: object) -> None:
        raise MlflowException("Permission denied", PERMISSION_DENIED)

    ended(world.tracking)
    tick()
    monkeypatch.setattr(MlflowClient, "delete_run", refused)
    with pytest.raises(InputError, match="MLFLOW_TRACKING_USERNAME"):
        retention.expire(world.tracking, workspace, older_than_s=0)


def test_a_server_s_deleted_runs_are_left_to_the_server(world: World) -> None:
    served = dataclasses.replace(world.tracking, uri="http://127.0.0.1:9", artifacts=None)
    told = retention.purge(served, older_than_days=30)
    assert told is not None
    assert "mlflow gc --older-than 30d" in told


def test_nothing_recorded_is_nothing_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    workspace = Workspace.at(tmp_path / "empty")
    tracking = Tracking.at(workspace)
    assert retention.expire(tracking, workspace, older_than_s=0) == retention.Expired()
    assert retention.purge(tracking, older_than_days=1) is None
    assert not workspace.root.exists(), "looking makes no store"


def test_deleted_runs_are_purged_from_our_own_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    workspace = Workspace.at(tmp_path / "a store")
    tracking = Tracking.at(workspace)
    gone, kept = ended(tracking), ended(tracking)
    tracking.client.log_text(gone, "words", "note.txt")
    files = list(workspace.mlflow_artifacts.rglob("note.txt"))
    assert len(files) == 1
    tracking.client.delete_run(gone)
    assert retention.purge(tracking, older_than_days=1) is None
    assert tracking.client.get_run(gone).info.lifecycle_stage == "deleted", "too young"
    assert retention.purge(tracking, older_than_days=0) is None
    assert not files[0].exists()
    assert tracking.client.get_run(kept).info.lifecycle_stage == "active"
