"""Runs that a kill left in state "Running": found by the tag that names their process, and marked as crashed."""

from __future__ import annotations

from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterState, FlowRunFilterStateType
from prefect.client.schemas.objects import StateType
from prefect.states import Crashed

from notellm2.processes import has_ended, process_tag

_PREFIX = "process:"


def run_tag() -> str:
    """Return the tag every run of this process carries: which process it is."""
    return _PREFIX + process_tag()


def crash_orphaned_runs() -> list[str]:
    """Mark this host's unfinished runs whose process is dead as crashed; returns their names.

    Starts the embedded server where there is none yet.
    """
    unfinished = FlowRunFilter(
        state=FlowRunFilterState(
            type=FlowRunFilterStateType(any_=[StateType.RUNNING, StateType.PENDING, StateType.CANCELLING])
        )
    )
    crashed = []
    with get_client(sync_client=True) as client:
        for run in client.read_flow_runs(flow_run_filter=unfinished):
            if any(tag.startswith(_PREFIX) and has_ended(tag.removeprefix(_PREFIX)) for tag in run.tags):
                client.set_flow_run_state(
                    run.id, Crashed(message="the process exited without a result (killed?)"), force=True
                )
                crashed.append(run.name)
    return crashed
