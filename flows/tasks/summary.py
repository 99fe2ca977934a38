"""Say at the end of a retraining how long each stage took, and where to look."""

from __future__ import annotations

from flows.handoffs import DataVersion, HandOff, Judged, Outcome, Promoted, Report
from flows.runtime import show
from flows.runtime.job import Job
from flows.tasks.examples import examples
from flows.tasks.stage import MINUTE, stage


@stage("summary", timeout_s=10 * MINUTE)
def summarise(
    job: Job, data: DataVersion, done: list[HandOff], judged: Judged, report: Report, promoted: Promoted
) -> Outcome:
    """Compose what to print at the end: how long each stage took, and where to look."""
    reused = [stage.reused for stage in done if stage.artifact is not None]
    lines = ["", "Stages:", show.timeline(done), ""]
    lines.append(f"{sum(reused)} of {len(reused)} artifacts were there already, {len(reused) - sum(reused)} made")
    lines.append(f"Model:   {judged.verdict.sentence}")
    lines.append(f"Report:  {report.artifact.path / 'report.html'}")
    lines.append(f"MLflow:  make ui STORE={job.root}  (then http://127.0.0.1:5000)")
    if promoted.promoted:
        lines += examples(job, data.dataset)
    else:
        lines.append(f"Nothing was published: {promoted.reason}")
    return Outcome(text="\n".join(lines))
