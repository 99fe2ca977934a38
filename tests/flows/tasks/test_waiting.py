"""A suspended run that nobody answered has no process: whoever looks next ends what it left, aloud."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from flows.handoffs import Decision
from flows.runtime.events import LOG_VARIABLE
from flows.tasks.waiting import settle_waits
from notellm2.promotion.ledger import Ledger
from notellm2.publication.opening import open_location
from notellm2.registry import names, versions
from notellm2.registry.runs import Run
from notellm2.registry.tracking import URI_VARIABLE, Tracking
from tests.flows.tasks.test_approval import decided, job, prefect

__all__ = ["prefect"]


def deployed_run(client: Any, flow: Any, name: str) -> Any:
    deployment = client.create_deployment(flow_id=client.create_flow(flow), name=name)
    return client.create_flow_run_from_deployment(deployment)


def waiting_version(root: Path) -> Run:
    """Version 3 of a run that waits."""
    tracking = Tracking.at(job(root).workspace)
    run = Run.open(tracking, "key", name="sample")
    versions._ensure_registered_model(tracking)
    for _ in range(3):
        tracking.client.create_model_version("notellm2", "s3://nowhere", run.run_id, await_creation_for=0)
    run.suspend()
    return run


@pytest.mark.parametrize(
    ("message", "kind", "status", "reason"),
    [
        ("The flow was paused and never resumed.", "Failed", "FAILED", "nobody decided by 20"),
        ("Cancelled by Kim", "Cancelled", "KILLED", "its run was cancelled"),
    ],
)
def test_an_approval_that_expired_ends_its_runs_and_can_be_taken_up_again(
    tmp_path: Path, prefect: None, monkeypatch: pytest.MonkeyPatch, message: str, kind: str, status: str, reason: str
) -> None:
    from prefect import flow, states
    from prefect.client.orchestration import get_client
    from prefect.exceptions import Pause
    from prefect.flow_engine import run_flow

    log = tmp_path / "events.jsonl"
    monkeypatch.setenv(LOG_VARIABLE, str(log))
    monkeypatch.delenv(URI_VARIABLE, raising=False)
    run = waiting_version(tmp_path)

    @flow(persist_result=False)
    def nightly() -> Decision:
        return decided(tmp_path, "gate.mode=approval")

    def ledger() -> list[Any]:
        return list(Ledger(open_location(tmp_path / "_published")).entries())

    with get_client(sync_client=True) as client:
        started = deployed_run(client, nightly, f"nightly-{kind}")
        with pytest.raises(Pause):
            run_flow(nightly, flow_run=started)
        settle_waits(job(tmp_path))
        assert [entry.action for entry in ledger()] == ["wait"], "it still waits"
        # As Prefect's server does when the time is over, or a person on the run's page.
        client.set_flow_run_state(started.id, getattr(states, kind)(message=message), force=True)
        settle_waits(job(tmp_path))
        settle_waits(job(tmp_path))
        asked, expired = ledger()
        assert (expired.action, expired.to.version, expired.flow_run) == ("expire", "3", asked.flow_run)
        assert expired.reason.startswith(reason)
        assert "notellm2 promote 3" in expired.reason
        client_of_mlflow = run.tracking.client
        assert client_of_mlflow.get_run(run.run_id).info.status == status
        told = client.read_flow_run(started.id).state
        assert told is not None
        assert "version 3 is not promoted: nobody decided" in str(told.message) or kind == "Cancelled"
        tags = client_of_mlflow.get_model_version("notellm2", "3").tags
        assert tags[names.DECISION].startswith("nobody decided by")
        events = [json.loads(line)["event"] for line in log.read_text().splitlines()]
        assert events == ["notellm2.approval.waiting", "notellm2.approval.expired"]
        # "Retry" on the run's page: asked anew, and heard as such.
        client.set_flow_run_state(started.id, states.AwaitingRetry(), force=True)
        with pytest.raises(Pause):
            run_flow(nightly, flow_run=client.read_flow_run(started.id))
    assert [entry.action for entry in ledger()] == ["wait", "expire", "wait"]
    events = [json.loads(line)["event"] for line in log.read_text().splitlines()]
    assert events == ["notellm2.approval.waiting", "notellm2.approval.expired", "notellm2.approval.waiting"]


def test_a_run_that_was_started_again_before_anybody_looked_is_heard_too(
    tmp_path: Path, prefect: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    from prefect import flow, states
    from prefect.client.orchestration import get_client
    from prefect.exceptions import Pause
    from prefect.flow_engine import run_flow

    monkeypatch.delenv(URI_VARIABLE, raising=False)

    @flow(persist_result=False)
    def weekly() -> Decision:
        return decided(tmp_path, "gate.mode=approval")

    with get_client(sync_client=True) as client:
        started = deployed_run(client, weekly, "weekly")
        with pytest.raises(Pause):
            run_flow(weekly, flow_run=started)
        (asked,) = Ledger(open_location(tmp_path / "_published")).entries()
        client.set_flow_run_state(started.id, states.Failed(message="paused and never resumed"), force=True)
        client.set_flow_run_state(started.id, states.AwaitingRetry(), force=True)
        with pytest.raises(Pause):
            run_flow(weekly, flow_run=client.read_flow_run(started.id))
    entries = Ledger(open_location(tmp_path / "_published")).entries()
    assert [entry.action for entry in entries] == ["wait", "expire", "wait"]
    assert asked.flow_run == entries[-1].flow_run
