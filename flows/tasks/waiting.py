"""Settle what was decided, or not decided, while no flow ran: every flow that begins looks.

A run that is suspended until a person decides has no process. Prefect ends it when its time is over, and nobody is
there to tell: the run in MLflow still waits, and so does the version. Whoever comes next ends them, aloud.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING
from uuid import UUID

from prefect.settings import get_current_settings

from flows.runtime.job import Job
from flows.runtime.run import tracking
from flows.tasks.promotion import promoter, report_changes

if TYPE_CHECKING:
    from prefect.client.schemas.objects import FlowRun

    from notellm2.registry.decisions import Entry

logger = logging.getLogger("notellm2.promotion")

_SILENT_END = "never resumed"
"""In what Prefect says of a run that was suspended for too long."""


def settle_decisions(job: Job) -> None:
    """Settle what a killed promotion left and what the alias asks for; end waits that are over, tell what was decided.

    A process that is no promoter, a training say, leaves the first to the next that is.
    """
    from notellm2.promotion.completion import Workshop
    from notellm2.promotion.requests import follow
    from notellm2.registry.identities import Forbidden

    try:
        follow(promoter(job), Workshop.at(job.store))
    except Forbidden as error:
        logger.warning("what a promotion left, or the alias asks for, stays until a promoter looks: %s", error)
    settle_waits(job)


def settle_waits(job: Job) -> None:
    """End every wait whose run has ended, and emit an event for each line of the ledger that has none."""
    from notellm2.promotion.ledger import Ledger
    from notellm2.promotion.waiting import unsettled
    from notellm2.publication.opening import open_location

    for entry in unsettled(Ledger(open_location(job.workspace.published)).entries()):
        if get_current_settings().api.url is None:
            break  # No server is named: whoever knows it looks.
        run = _flow_run(str(entry.flow_run))
        if run is None or run.state is None or run.state.is_final():
            _settle(job, entry, run)
    report_changes(job)


def _settle(job: Job, entry: Entry, run: FlowRun | None) -> None:
    from notellm2.promotion.transaction import Why, this_actor
    from notellm2.promotion.waiting import Notice, record
    from notellm2.registry.decided import end_waiting_run

    silent = run is not None and run.state is not None and _SILENT_END in (run.state.message or "")
    cancelled = run is not None and run.state is not None and run.state.is_cancelled()
    reason = "its run was cancelled" if cancelled else f"nobody decided by {entry.until}"
    again = f"start the run again to be asked again, or `notellm2 promote {entry.to.version}`"
    end_waiting_run(tracking(job), str(entry.to.version), "KILLED" if cancelled else "FAILED")
    if run is not None and silent:
        _say_why(run, f"version {entry.to.version} is not promoted: {reason}; {again}")
    notice = Notice(str(entry.to.version), entry.bundle, [entry.id], link=entry.link, flow_run=entry.flow_run)
    told = entry.model_dump(include={"mode", "verdict", "compared_with"})
    record(promoter(job), "expire", notice, Why(by=this_actor(), reason=f"{reason}; {again}", **told))


def _flow_run(number: str) -> FlowRun | None:
    from prefect.client.orchestration import get_client
    from prefect.exceptions import ObjectNotFound

    with get_client(sync_client=True) as client:
        try:
            return client.read_flow_run(UUID(number))
        except ObjectNotFound:
            return None


def _say_why(run: FlowRun, message: str) -> None:
    """Let the run's page say what happened, in place of Prefect's own words."""
    from prefect.client.orchestration import get_client
    from prefect.states import Failed

    with get_client(sync_client=True) as client:
        client.set_flow_run_state(run.id, Failed(message=message), force=True)
