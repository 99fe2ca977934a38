"""What a person decides by: the page of a run, as a Prefect task."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows import show
from flows.ingest import known_version
from flows.job import HOUR, Facts, Job, artifact, stage
from flows.tracked import attach
from notellm2.artifacts import Artifact
from notellm2.notes.dataset import Dataset

if TYPE_CHECKING:
    from notellm2.evaluation.review import Champion
    from notellm2.registry.tracking import Tracking


@stage("report", timeout_s=HOUR)
def report(
    job: Job,
    data: Facts,
    checked: Facts,
    mined: Facts,
    trained: Facts,
    measured: Facts,
    rival: Facts,
    compared: Facts,
    judged: Facts,
    run_id: str,
) -> Artifact:
    """Write the page a reviewer reads, and file it with the run."""
    from notellm2.evaluation.review import report as write

    run = attach(job, run_id)
    page = write(
        job.store,
        Dataset.open(Path(data["path"])),
        data["md5"],
        job.recipe,
        evaluation=artifact(measured),
        pairs=artifact(mined),
        training=artifact(trained),
        quality=artifact(checked),
        gate={name: judged[name] for name in ("passed", "rules", "sentence")},
        images=job.recipe.data.images,
        champion=_champion(job, run.tracking, rival, compared) if "key" in compared else None,
    )
    run.log_file(page.file("report.html"))
    for plot in sorted(page.file("plots").glob("*.png")):
        run.log_file(plot, "plots")
    show.links(page, run)
    return page


def _champion(job: Job, tracking: Tracking, rival: Facts, compared: Facts) -> Champion:
    """What the page says of the champion, its recipe and its data as far as they are known."""
    from notellm2.evaluation.review import Champion
    from notellm2.registry import versions
    from notellm2.registry.recipes import recipe_of

    version = versions.get_version(tracking, rival["version"])
    info = known_version(job, version.data_md5)
    facts: dict[str, Any] | None = None if info is None else {"md5": version.data_md5, **info.model_dump(mode="json")}
    return Champion(
        name=f"version {version.version}",
        evaluation=artifact(rival["evaluation"]),
        comparison=artifact(compared),
        recipe=recipe_of(tracking, version.run_id),
        data=facts,
    )
