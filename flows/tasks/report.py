"""Write the page a reviewer reads."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flows.handoffs import Candidate, Incumbent, Judged, Mined, Report, Saliency
from flows.runtime import show
from flows.runtime.job import Job
from flows.runtime.run import attach_run
from flows.tasks.datasets import known_version
from flows.tasks.stage import HOUR, stage

if TYPE_CHECKING:
    from notellm2.evaluation.report.report_stage import Champion
    from notellm2.registry.tracking import Tracking


@stage("report", timeout_s=HOUR)
def write_report(
    job: Job, mined: Mined, candidate: Candidate, saliency: Saliency, incumbent: Incumbent, judged: Judged
) -> Report:
    """Write the page a reviewer reads, and file it and its plots with the run."""
    from notellm2.evaluation.report.report_stage import RunRecord, report

    run = attach_run(job)
    if saliency.artifact is not None:
        run.log_figures(saliency.artifact)
    record = RunRecord(
        recipe=job.recipe,
        evaluation=candidate.evaluated.artifact,
        training=candidate.trained.artifact,
        quality=candidate.checked.artifact,
        gate=judged.verdict.model_dump(mode="json"),
        champion=_champion(job, run.tracking, incumbent),
        saliency=saliency.artifact,
        choice=candidate.chosen.artifact,
    )
    page = report(job.store, mined.measured_on, record)
    run.log_file(page.file("report.html"))
    for plot in sorted(page.file("plots").glob("*.png")):
        run.log_file(plot, "plots")
    show.report(page)
    return Report(artifact=page)


def _champion(job: Job, tracking: Tracking, incumbent: Incumbent) -> Champion | None:
    """What the page says of the champion, its recipe and its data as far as they are known."""
    from notellm2.evaluation.report.report_stage import Champion
    from notellm2.registry import versions
    from notellm2.registry.recipes import recipe_of

    if incumbent.version is None or incumbent.comparison is None:
        return None
    version = versions.get_version(tracking, incumbent.version)
    info = known_version(job, version.data_md5)
    data: dict[str, Any] | None = None if info is None else {"md5": version.data_md5, **info.model_dump(mode="json")}
    return Champion(
        name=f"version {version.version}",
        comparison=incumbent.comparison,
        recipe=recipe_of(tracking, version.run_id),
        data=data,
    )
