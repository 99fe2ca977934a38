"""Who decides on a challenger that passed the gate: the flow, a person in Prefect's pages, or a person at a terminal.

A person may take days, so nothing is held meanwhile: the promotion's own check finds a champion that changed.
"""

from __future__ import annotations

from typing import Literal

from prefect.exceptions import FlowPauseTimeout
from prefect.flow_runs import pause_flow_run, suspend_flow_run
from prefect.input import RunInput
from prefect.runtime import deployment, flow_run
from pydantic import Field

from flows.handoffs import Decision, Judged, Registered, Report
from flows.runtime import events, show
from flows.runtime.events import Event
from flows.runtime.job import Job
from notellm2.errors import InputError

POLL_S = 5
"""Seconds between looks at whether a person has decided."""


class Approval(RunInput):
    """What a person fills in."""

    decision: Literal["approve", "refuse"] = Field(
        description="approve: champion and index change now; refuse: it stays challenger"
    )
    name: str = Field(min_length=1, description="who decides, for the ledger")
    reason: str = Field("", description="why, for the ledger")


class NotApproved(InputError):
    """Nobody decided in time: that is a refusal."""


def decide(job: Job, registered: Registered, judged: Judged, report: Report) -> Decision:
    """Decide whether to promote, who says so, and why. Not a task: a run that waits for a person may be suspended here.

    Raises:
        NotApproved: nobody decided in time.
    """
    mode, number = job.recipe.gate.mode, registered.version
    by, sentence = f"flow run {flow_run.get_name() or 'without a name'}", judged.verdict.sentence
    if not judged.verdict.passed:
        return Decision(promote=False, by=by, reason=sentence)
    if mode == "manual" and not judged.in_use:
        return Decision(promote=False, by=by, reason=f"it waits for a person: notellm2 promote {number}")
    if mode == "automatic" and judged.rolled_back:
        reason = f"version {number} was rolled back; if it is right now: notellm2 promote {number}"
        return Decision(promote=False, by=by, reason=reason)
    if mode == "approval" and not judged.in_use:
        return _ask(job, number, judged, report)
    return Decision(promote=True, by=by, reason=sentence)


def _ask(job: Job, number: str, judged: Judged, report: Report) -> Decision:
    form = Approval.with_initial_data(description=show.question(number, judged, report))
    timeout_s = job.recipe.gate.approval_timeout_s
    # With the champion in it: a suspended run that comes back to another champion asks anew.
    key = f"approve-version-{number}-over-{judged.champion or 'none'}"
    verdict = judged.verdict.sentence
    payload = {"version": number, "champion": judged.champion, "verdict": verdict, "timeout_s": timeout_s}
    once = [key, flow_run.get_id()]
    # Not again when the run comes back with the answer.
    if events.emit_once(job, once, Event.APPROVAL_WAITING, "model", job.recipe.registry.model_name, payload):
        show.waiting(number, timeout_s)
    if deployment.get_id() is not None:
        # The process ends here; the run comes back, with the answer, when a person has given it.
        answer = suspend_flow_run(wait_for_input=form, timeout=timeout_s, key=key)
    else:
        try:
            answer = pause_flow_run(wait_for_input=form, timeout=timeout_s, poll_interval=POLL_S, key=key)
        except FlowPauseTimeout:
            raise NotApproved(
                f"version {number} is not promoted: nobody approved it within {timeout_s} s; it stays challenger, and "
                f"`notellm2 promote {number}` still promotes it"
            ) from None
    reason = answer.reason or f"{answer.decision}d in Prefect"
    if answer.decision != "approve":
        return Decision(promote=False, by=answer.name, reason=f"refused by {answer.name}: {reason}")
    return Decision(promote=True, by=answer.name, reason=reason)
