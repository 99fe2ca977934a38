"""Who decides on a challenger that passed the gate: the flow, a person in Prefect's pages, or a person at a terminal.

A person may take days, so nothing is held meanwhile: the promotion's own check finds a champion that changed.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Literal
from uuid import UUID

from prefect.exceptions import FlowPauseTimeout
from prefect.flow_runs import pause_flow_run, suspend_flow_run
from prefect.input import RunInput
from prefect.runtime import deployment, flow_run
from pydantic import Field

from flows.handoffs import Decision, Judged, Registered, Report
from flows.runtime import events, show
from flows.runtime.job import Job
from flows.tasks.promotion import promoter, report_changes
from notellm2.errors import InputError

if TYPE_CHECKING:
    from notellm2.promotion.waiting import Notice
    from notellm2.registry.decisions import Action, Entry, Mode

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
    """Nobody decided in time: it stays challenger, and the same command asks again."""


def decide(job: Job, registered: Registered, judged: Judged, report: Report) -> Decision:
    """Decide whether to promote, who says so, and why. Not a task: a run that waits for a person may be suspended here.

    Raises:
        NotApproved: nobody decided in time.
    """
    mode, number = job.recipe.gate.mode, registered.version
    by, sentence = _this_run(), judged.verdict.sentence
    if not judged.verdict.passed:
        return Decision(promote=False, by=by, reason=sentence)
    if judged.in_use:
        return Decision(promote=True, by=by, reason=sentence)
    if against := _refusal(job, registered):
        instead = f"if it is right now: notellm2 promote {number}"
        reason = f"{against.by} refused it on {against.at}: {against.reason}; {instead}"
        return Decision(promote=False, by=by, reason=reason)
    if mode == "manual":
        return _leave(job, registered, judged)
    if mode == "automatic" and judged.rolled_back:
        reason = f"version {number} was rolled back; if it is right now: notellm2 promote {number}"
        return Decision(promote=False, by=by, reason=reason)
    if mode == "approval":
        return _ask(job, registered, judged, report)
    return Decision(promote=True, by=by, reason=sentence)


def _leave(job: Job, registered: Registered, judged: Judged) -> Decision:
    """Leave it to a person at a terminal, and say so."""
    by, number = _this_run(), registered.version
    key = [judged.champion, judged.verdict.sentence]
    # Where it is looked at: in MLflow.
    _record(job, "wait", _notice(registered, key, link=registered.page or None), judged, by, judged.verdict.sentence)
    report_changes(job)
    return Decision(promote=False, by=by, reason=f"it waits for a person: notellm2 promote {number}")


def _ask(job: Job, registered: Registered, judged: Judged, report: Report) -> Decision:
    """Ask a person on the run's page in Prefect."""
    number, timeout_s = registered.version, job.recipe.gate.approval_timeout_s
    form = Approval.with_initial_data(description=show.question(number, judged, report))
    # With the champion in it: a suspended run that comes back to another champion asks anew.
    question = f"approve-version-{number}-over-{judged.champion or 'none'}"
    times = _times_expired(job, registered, judged, question)
    key = _key(question, times)
    until = (datetime.now(UTC) + timedelta(seconds=timeout_s)).isoformat(timespec="seconds")
    page, run = show.flow_run_page(), flow_run.get_id()
    notice = _notice(registered, [key, run], until=until, link=page, flow_run=run)
    # Not again when the run comes back with the answer.
    if _record(job, "wait", notice, judged, _this_run(), judged.verdict.sentence):
        show.waiting(number, timeout_s)
    report_changes(job)
    if deployment.get_id() is not None:
        # The process ends here; the run comes back, with the answer, when a person has given it.
        answer = suspend_flow_run(wait_for_input=form, timeout=timeout_s, key=key)
    else:
        try:
            answer = pause_flow_run(wait_for_input=form, timeout=timeout_s, poll_interval=POLL_S, key=key)
        except FlowPauseTimeout:
            reason = f"nobody approved it within {timeout_s} s"
            notice = _notice(registered, [key, run], link=page, flow_run=run)
            _record(job, "expire", notice, judged, _this_run(), reason)
            report_changes(job)
            events.explains_failure()
            raise NotApproved(
                f"version {number} is not promoted: {reason}; it stays challenger: the same command asks again, and "
                f"`notellm2 promote {number}` promotes it"
            ) from None
    reason = answer.reason or f"{answer.decision}d in Prefect"
    if answer.decision != "approve":
        _record(job, "refuse", _notice(registered, [key, run], link=page), judged, answer.name, reason)
        report_changes(job)
        return Decision(promote=False, by=answer.name, reason=f"refused by {answer.name}: {reason}")
    return Decision(promote=True, by=answer.name, reason=reason)


def _times_expired(job: Job, registered: Registered, judged: Judged, question: str) -> int:
    """How often nobody answered this run's question: the next time it is a new one, and heard as such."""
    from notellm2.promotion.ledger import Ledger

    run, number = flow_run.get_id(), registered.version
    about = (number, run, judged.champion)
    entries = Ledger(promoter(job).location).entries()
    entries = tuple(e for e in entries if (e.to.version, e.flow_run, e.compared_with) == about)
    expired = sum(entry.action == "expire" for entry in entries)
    asked = [entry for entry in entries if entry.action == "wait"]
    if run is None or len(asked) <= expired or _is_answered(run, _key(question, expired)):
        return expired
    # Its time was over, and somebody has started it again before anybody looked.
    notice = _notice(registered, [_key(question, expired), run], link=asked[-1].link, flow_run=run)
    _record(job, "expire", notice, judged, _this_run(), "nobody had decided when its run was started again")
    return expired + 1


def _key(question: str, times: int) -> str:
    return f"{question}-again-{times}" if times else question


def _is_answered(run: str, key: str) -> bool:
    """Whether a suspended run comes back with a person's answer."""
    from prefect.client.orchestration import get_client
    from prefect.exceptions import PrefectHTTPStatusError
    from prefect.input.run_input import keyset_from_paused_state
    from prefect.states import Suspended

    response = keyset_from_paused_state(Suspended(pause_key=key))["response"]
    with get_client(sync_client=True) as client:
        try:
            client.read_flow_run_input(UUID(run), response)
        except PrefectHTTPStatusError as error:
            if error.response.status_code != 404:
                raise
            return False
    return True


def _record(job: Job, action: Action, notice: Notice, judged: Judged, by: str, reason: str) -> bool:
    """Add a line to the ledger; whether it is a new one."""
    from notellm2.promotion.transaction import Why
    from notellm2.promotion.waiting import record

    mode: Mode = job.recipe.gate.mode
    why = Why(by=by, reason=reason, mode=mode, verdict=judged.verdict.sentence, compared_with=judged.champion)
    return record(promoter(job), action, notice, why)[1]


def _notice(registered: Registered, key: Sequence[str | None], **facts: str | None) -> Notice:
    from notellm2.promotion.waiting import Notice

    return Notice(version=registered.version, bundle=registered.bundle, key=key, **facts)


def _refusal(job: Job, registered: Registered) -> Entry | None:
    from notellm2.promotion.ledger import Ledger, refused

    return refused(Ledger(promoter(job).location).entries(), registered.version, registered.bundle)


def _this_run() -> str:
    return f"flow run {flow_run.get_name() or 'without a name'}"
