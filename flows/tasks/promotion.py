"""Make the challenger champion and its index the published one, if it was so decided."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flows.handoffs import Candidate, DataVersion, Decision, Judged, Promoted
from flows.runtime import events, show
from flows.runtime.job import Job
from flows.runtime.run import attach_run, tracking
from flows.tasks.stage import DAY, stage

if TYPE_CHECKING:
    from notellm2.promotion.transaction import Promoter


@stage("promotion", timeout_s=DAY, retries=2)
def promote(job: Job, data: DataVersion, candidate: Candidate, judged: Judged, decision: Decision) -> Promoted:
    """Make the challenger champion and its index the published one, together, if it was so decided."""
    number, run = candidate.registered.version, attach_run(job)
    if not decision.promote:
        show.warn(f"not promoted: {decision.reason}")
        if judged.verdict.passed:
            run.conclude("not promoted", f"**Passed the gate, not in use**: {decision.reason}")
        else:
            run.conclude("refused", f"**Refused by the gate**: version {number} stays challenger.")
        return Promoted(promoted=False, reason=decision.reason)
    from notellm2.promotion.completion import Complete, Workshop, promote_complete
    from notellm2.promotion.transaction import Why

    done = promote_complete(
        promoter(job),
        number,
        Complete(candidate.indexed.artifact, data.md5, added=0),
        judged.champion,
        workshop=Workshop.at(job.store),
        why=Why(
            by=decision.by,
            reason=decision.reason,
            mode=job.recipe.gate.mode,
            verdict=judged.verdict.sentence,
            compared_with=judged.champion,
        ),
    )
    if done.entry is not None:
        run.log_publication(done.entry, promoter(job).location)
        show.promotion(done.entry)
    run.conclude("promoted", f"**In use**: version {number}, decided by {decision.by} ({job.recipe.gate.mode}).")
    report_changes(job)
    return Promoted(promoted=True)


def promoter(job: Job) -> Promoter:
    """Make what moves the alias and the pointer of this job's model and store."""
    from notellm2.promotion.transaction import Promoter
    from notellm2.publication.opening import open_location

    registry, recipe = tracking(job), job.recipe
    return Promoter(
        registry,
        open_location(job.workspace.published),
        keep=recipe.index.keep,
        lease_s=recipe.registry.lease_s,
        wait_s=recipe.registry.lease_wait_s,
    )


def report_changes(job: Job) -> None:
    """Emit an event for every change of what is in use that has none yet."""
    from notellm2.promotion.ledger import Ledger

    events.emit_changes(job, Ledger(promoter(job).location).entries())
