"""Check the data; a critical failure ends the flow."""

from __future__ import annotations

from flows.handoffs import Checked, DataVersion
from flows.runtime import events, show, snapshots
from flows.runtime.events import Event
from flows.runtime.job import Job
from flows.runtime.run import attach_run
from flows.tasks.datasets import previous_version, remember_version
from flows.tasks.stage import HOUR, stage
from notellm2.artifacts import Artifact
from notellm2.notes.dataset import Dataset


@stage("quality", timeout_s=HOUR)
def check_quality(job: Job, data: DataVersion, *, remember: bool = True) -> Checked:
    """Check the data; a critical failure ends the flow here.

    Args:
        job: its run, if it has one, gets the outcome.
        data: to check.
        remember: whether later versions are compared with this one.
    """
    from notellm2.quality.quality_stage import require_quality

    dataset = data.dataset
    checked = _check(job, data, dataset)
    show.quality(checked)
    if not checked.summary["success"]:
        _report_failure(job, data, dataset, checked)
    if job.mlflow_run is not None:
        attach_run(job).log_quality(checked)
    require_quality(checked)
    if remember:
        remember_version(job, data.md5, dataset.info)
    return Checked(artifact=checked)


def _check(job: Job, data: DataVersion, dataset: Dataset) -> Artifact:
    from notellm2.quality.quality_stage import QualityRules, check_quality

    recipe = job.recipe
    rules = QualityRules(recipe.quality, recipe.data.images, recipe.pairs.source_events, recipe.pairs.target_events)
    return check_quality(job.store, dataset, data.md5, rules, previous_version(job, data.md5, dataset.info))


def _report_failure(job: Job, data: DataVersion, dataset: Dataset, checked: Artifact) -> None:
    snapshots.release(job)  # "Retry" on the run's page is then a try with the data that was mended
    payload = {
        "data_md5": data.md5,
        "failed": ", ".join(checked.summary["critical_failed"]),
        "report": str(checked.path / "summary.md"),
        "recipe": job.recipe.name,
    }
    # An hourly refresh meets the same refused export again and again.
    events.emit_once(job, [data.md5, checked.key], Event.DATA_REFUSED, "data", dataset.info.name, payload)
    events.explains_failure()
