"""Runs that a kill left in state "Running": found by the tag that names their process, and marked as crashed."""

from __future__ import annotations

import socket

import psutil
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterState, FlowRunFilterStateType
from prefect.client.schemas.objects import StateType
from prefect.states import Crashed

from flows.environment import alive, identity

_PREFIX = "process"


def process_tag() -> str:
    """The tag every run of this process carries: host, process id, time of creation."""
    me = identity(psutil.Process())
    return f"{_PREFIX}:{socket.gethostname()}:{me['pid']}:{me['created']}"


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
            if any(_dead(tag) for tag in run.tags):
                client.set_flow_run_state(
                    run.id, Crashed(message="its process ended without a word (killed?)"), force=True
                )
                crashed.append(run.name)
    return crashed


def _dead(tag: str) -> bool:
    prefix, _, rest = tag.partition(":")
    host, _, process = rest.partition(":")
    pid, _, created = process.partition(":")
    if prefix != _PREFIX or host != socket.gethostname() or not (pid.isdigit() and created.isdigit()):
        return False
    return alive({"pid": int(pid), "created": int(created)}) is None
