"""What a person decides by: variants to compare with, saliency, and the page of a run, as Prefect tasks."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.runtime import show
from flows.runtime.job import HOUR, Facts, Job, artifact, stage
from flows.runtime.run import attach
from flows.tasks.datasets import known_version
from notellm2.artifacts import Artifact
from notellm2.notes.dataset import Dataset

if TYPE_CHECKING:
    from notellm2.evaluation.report.report_stage import Champion
    from notellm2.recipe import ModelConfig
    from notellm2.registry.tracking import Tracking


@stage("variants", timeout_s=7 * 24 * HOUR)
def variants(job: Job, data: Facts, mined: Facts, halves: Facts, features: Facts) -> Facts:
    """Train and embed the variants that the recipe wants to see beside the model; usually none."""
    model = job.recipe.model
    made = {
        name: trained_vectors(job, data, mined, halves, features, model.variant(name))
        for name in job.recipe.evaluation.variants
    }
    return {"vectors": {name: vectors.reference() for name, vectors in made.items()}}


def trained_vectors(
    job: Job, data: Facts, mined: Facts, halves: Facts, features: Facts, model: ModelConfig
) -> Artifact:
    """The vectors of a model that is trained to be looked at, not to be registered: it has no run of its own."""
    from notellm2.embedding.vectors_stage import embed
    from notellm2.training.training_stage import TrainingInputs, train

    recipe, dataset = job.recipe, Dataset.open(Path(data["path"]))
    inputs = TrainingInputs(dataset, data["md5"], artifact(mined), artifact(halves), artifact(features))
    trained = train(job.store, inputs, model, recipe.training, recipe.data.images)
    return embed(job.store, dataset, data["md5"], trained, artifact(features))


@stage("saliency", timeout_s=HOUR)
def saliency(job: Job, data: Facts, mined: Facts, features: Facts, trained: Facts) -> Artifact | Facts:
    """Measure what the embeddings listen to, layer by layer; without a key where the recipe asks for no pairs."""
    from notellm2.embedding.saliency_stage import SaliencyInputs, measure_saliency

    count = job.recipe.evaluation.saliency_pairs
    if count == 0:
        return {"layers": 0}
    dataset = Dataset.open(Path(data["path"]))
    inputs = SaliencyInputs(dataset, data["md5"], artifact(mined), artifact(trained), artifact(features))
    return measure_saliency(job.store, inputs, count=count)


@stage("report", timeout_s=HOUR)
def report(
    job: Job,
    data: Facts,
    checked: Facts,
    mined: Facts,
    trained: Facts,
    measured: Facts,
    listened: Facts,
    rival: Facts,
    judged: Facts,
    run_id: str,
) -> Artifact:
    """Write the page a reviewer reads, and file it and its plots with the run."""
    from notellm2.evaluation.cases import MinedData
    from notellm2.evaluation.report.report_stage import RunRecord
    from notellm2.evaluation.report.report_stage import report as write

    run = attach(job, run_id)
    if "key" in listened:
        run.log_figures(artifact(listened))
    record = RunRecord(
        recipe=job.recipe,
        evaluation=artifact(measured),
        training=artifact(trained),
        quality=artifact(checked),
        gate={name: judged[name] for name in ("passed", "rules", "sentence")},
        champion=_champion(job, run.tracking, rival) if rival["comparison"] else None,
        saliency=artifact(listened) if "key" in listened else None,
    )
    page = write(job.store, MinedData(Dataset.open(Path(data["path"])), data["md5"], artifact(mined)), record)
    run.log_file(page.file("report.html"))
    for plot in sorted(page.file("plots").glob("*.png")):
        run.log_file(plot, "plots")
    show.report(page)
    return page


def _champion(job: Job, tracking: Tracking, rival: Facts) -> Champion:
    """What the page says of the champion, its recipe and its data as far as they are known."""
    from notellm2.evaluation.report.report_stage import Champion
    from notellm2.registry import versions
    from notellm2.registry.recipes import recipe_of

    version = versions.get_version(tracking, rival["version"])
    info = known_version(job, version.data_md5)
    facts: dict[str, Any] | None = None if info is None else {"md5": version.data_md5, **info.model_dump(mode="json")}
    return Champion(
        name=f"version {version.version}",
        comparison=artifact(rival["comparison"]),
        recipe=recipe_of(tracking, version.run_id),
        data=facts,
    )
