"""Write the page a reviewer reads."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from flows.handoffs import Candidate, Incumbent, Judged, Mined, Registered, Report, Saliency
from flows.runtime import show
from flows.runtime.job import Job
from flows.runtime.run import attach_run, origin
from flows.tasks.datasets import known_version
from flows.tasks.stage import HOUR, stage

if TYPE_CHECKING:
    from notellm2.evaluation.report.report_stage import Champion, RunRecord
    from notellm2.registry.runs import Run
    from notellm2.registry.tracking import Tracking


@stage("report", timeout_s=HOUR)
def write_report(
    job: Job, mined: Mined, candidate: Candidate, saliency: Saliency, incumbent: Incumbent, judged: Judged
) -> Report:
    """Write the page a reviewer reads, and file it and its plots with the run."""
    from notellm2.evaluation.report.report_stage import RunRecord, report

    run = attach_run(job)
    run.log_tables(candidate.evaluated.artifact, *filter(None, (incumbent.comparison, saliency.artifact)))
    if saliency.artifact is not None:
        run.log_stage(saliency.artifact)
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
    _describe(job, mined, record, run, candidate.registered)
    return Report(artifact=page)


def _describe(job: Job, mined: Mined, record: RunRecord, run: Run, registered: Registered) -> None:
    """Write what the page says at its top into the descriptions of run and version."""
    from notellm2.evaluation.report.summary import summarise
    from notellm2.registry import versions
    from notellm2.registry.descriptions import run_found, version_found

    summary, tracking, made = summarise(record), run.tracking, [record.training, record.evaluation, record.quality]
    number = registered.version
    report_page = {"Report": tracking.run_page(run.run_id, "artifacts/report.html")}
    start = origin(job, mined.data, report_page | {f"Version {number}": tracking.version_page(number)})
    on_version = origin(job, mined.data, report_page | {"Run": tracking.run_page(run.run_id)})
    seconds = {artifact.stage: artifact.manifest["seconds"] for artifact in [mined.artifact, *made] if artifact}
    run.log_summary({**asdict(summary), "version": number, **asdict(start)})
    run.describe(run_found(summary, start, seconds))
    text = job.recipe.model.text
    reads = (
        f"{text.title_chars} characters of a title, {text.topics} topics, {text.content_chars} characters of the text, "
        f"{'and the image where there is one' if job.recipe.model.reads_images else 'no image'}"
    )
    versions.describe(tracking, number, version_found(summary, on_version, registered.model, number, reads))


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
