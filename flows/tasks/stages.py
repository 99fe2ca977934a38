"""The stages of a retraining as Prefect tasks: each calls one function of the library and shows what came of it.

What a task takes and gives is small JSON (see `flows.runtime.job`); heavy libraries are imported by the room that
needs them, when its task runs. Timeouts are for hangs, not for slowness: a recipe may ask for hours of training.
"""

from __future__ import annotations

from pathlib import Path

from flows.runtime import events, show, snapshots
from flows.runtime.events import News
from flows.runtime.job import HOUR, MINUTE, Facts, Job, artifact, stage, test_set
from flows.runtime.run import attach
from flows.tasks.datasets import ALREADY_THERE, BEGUN, data_folder, previous_version, remember_version
from flows.tasks.examples import examples
from notellm2.artifacts import Artifact
from notellm2.notes.dataset import Dataset


@stage("ingest", timeout_s=6 * HOUR, retries=2)
def ingest(job: Job, given: str | None) -> Facts:
    """Find the data set, or make it from the sample or an export."""
    kept = snapshots.begun_with(job)
    folder, origin = (kept, BEGUN) if kept else data_folder(job, None if given is None else Path(given))
    dataset = Dataset.open(folder)
    show.data(dataset.info, origin)
    return {"path": str(folder.absolute()), "origin": origin, "reused": origin in ALREADY_THERE}


@stage("data version", timeout_s=HOUR)
def data_version(job: Job, ingested: Facts) -> Facts:
    """Name the data by its digest, and say so if it is not the one that git pins."""
    from notellm2.notes import versions

    folder = Path(ingested["path"])
    kept, md5 = snapshots.keep(job, folder)
    pinned = versions.pinned_md5(folder)
    if pinned is not None and pinned != md5:
        show.warn(
            f"{folder} is {md5}, but {folder.name}.dvc pins {pinned}: `notellm2 data pin` records the new version"
        )
    return {"path": str(kept.absolute()), "md5": md5, "pinned": pinned}


@stage("quality", timeout_s=HOUR)
def quality(job: Job, data: Facts, run_id: str) -> Artifact:
    """Check the data; a critical failure ends the flow here."""
    from notellm2.quality.quality_stage import require_quality

    checked = check_data(job, data)
    attach(job, run_id).log_quality(checked)
    require_quality(checked)
    remember_version(job, data["md5"], _dataset(data).info)
    return checked


def check_data(job: Job, data: Facts) -> Artifact:
    """The data's checks, shown; whether they passed is in the summary."""
    from notellm2.quality.quality_stage import QualityRules, check_quality

    dataset, recipe = _dataset(data), job.recipe
    rules = QualityRules(recipe.quality, recipe.data.images, recipe.pairs.source_events, recipe.pairs.target_events)
    checked = check_quality(job.store, dataset, data["md5"], rules, previous_version(job, data["md5"], dataset.info))
    show.quality(checked)
    if not checked.summary["success"]:
        snapshots.release(job)  # "Retry" on the run's page is then a try with the data that was mended
        failed = ", ".join(checked.summary["critical_failed"])
        facts = {
            "data_md5": data["md5"],
            "failed": failed,
            "report": str(checked.path / "summary.md"),
            "recipe": recipe.name,
        }
        # An hourly refresh meets the same refused export again and again.
        events.tell_once(job, [data["md5"], checked.key], News.DATA_REFUSED, "data", dataset.info.name, facts)
    return checked


@stage("pairs", timeout_s=6 * HOUR)
def pairs(job: Job, data: Facts) -> Artifact:
    """Split the notes and mine training pairs from behaviour."""
    from notellm2.pairs.pairs_stage import mine

    mined = mine(job.store, _dataset(data), data["md5"], job.recipe.pairs)
    show.pairs(mined)
    return mined


@stage("backbones", timeout_s=6 * HOUR)
def backbones(job: Job, data: Facts, mined: Facts) -> Artifact:
    """Fetch the language model and the vision encoder, or train the tiny ones the recipe describes."""
    from notellm2.model.backbones.backbones_stage import Corpus, build_backbones

    recipe = job.recipe
    return build_backbones(
        job.store,
        Corpus(_dataset(data), data["md5"], artifact(mined), recipe.data.images),
        recipe.backbones,
        recipe.model,
        show.Progress(every_s=10),
    )


@stage("vision features", timeout_s=12 * HOUR)
def vision_features(job: Job, data: Facts, halves: Facts) -> Artifact:
    """Run every image once through the frozen vision encoder."""
    from notellm2.embedding.vectors_stage import vision_features as compute

    recipe = job.recipe
    return compute(
        job.store,
        _dataset(data),
        data["md5"],
        artifact(halves),
        recipe.data.images,
        cache_gb=recipe.data.feature_cache_gb,
    )


@stage("training", timeout_s=7 * 24 * HOUR)
def training(job: Job, data: Facts, mined: Facts, halves: Facts, features: Facts, run_id: str) -> Artifact:
    """Tune the model on the pairs; a killed run resumes at its last checkpoint."""
    from notellm2.training.training_stage import TrainingInputs, train

    recipe = job.recipe
    run = attach(job, run_id)
    inputs = TrainingInputs(
        dataset=_dataset(data),
        data_md5=data["md5"],
        pairs=artifact(mined),
        backbones=artifact(halves),
        features=artifact(features),
        published=_published_vectors(job) if recipe.training.hard_negatives else None,
    )
    trained = train(
        job.store,
        inputs,
        recipe.model,
        recipe.training,
        recipe.data.images,
        on_metrics=run.on_metrics,
    )
    run.log_history(trained)
    show.training(trained)
    return trained


@stage("vectors", timeout_s=24 * HOUR)
def vectors(job: Job, data: Facts, trained: Facts, features: Facts) -> Artifact:
    """Embed every note: with both inputs, without its image, without its text."""
    from notellm2.embedding.refresh import note_digests
    from notellm2.embedding.vectors_stage import embed

    note_digests(job.store, _dataset(data), data["md5"])  # What an index refresh will compare later notes with.
    return embed(job.store, _dataset(data), data["md5"], artifact(trained), artifact(features))


@stage("evaluation", timeout_s=6 * HOUR)
def evaluation(job: Job, data: Facts, mined: Facts, embedded: Facts, variants: Facts, run_id: str) -> Artifact:
    """Measure exact recall of the model and of the baselines on the whole pool."""
    from notellm2.evaluation.cases import MinedData
    from notellm2.evaluation.evaluation_stage import evaluate

    recipe = job.recipe
    measured = evaluate(
        job.store,
        MinedData(_dataset(data), data["md5"], artifact(mined)),
        artifact(embedded),
        recipe.evaluation,
        recipe.model.text,
        variants={name: artifact(of_variant) for name, of_variant in variants["vectors"].items()},
    )
    show.metrics(measured)
    attach(job, run_id).log_evaluation(measured)
    return measured


@stage("index", timeout_s=6 * HOUR)
def index(job: Job, embedded: Facts) -> Artifact:
    """Build and validate the FAISS index, in a process that never sees torch."""
    from notellm2.index.process import build_index_in_subprocess

    return build_index_in_subprocess(job.store, artifact(embedded), job.recipe.index, timeout_s=6 * HOUR - MINUTE)


@stage("register", timeout_s=HOUR, retries=2)
def register(job: Job, data: Facts, mined: Facts, trained: Facts, run_id: str, made: list[Facts]) -> Facts:
    """Record in the run what the model was made from, and register it as a challenger."""
    from notellm2.registry import versions

    run = attach(job, run_id)
    for facts in [mined, *made]:
        run.log_stage(artifact(facts))
    version = versions.register(
        run, artifact(trained).file("bundle"), data_md5=data["md5"], test_set=test_set(artifact(mined))
    )
    show.model_version(version, run.tracking)
    return {"model": version.name, "version": version.version}


@stage("summary", timeout_s=10 * MINUTE)
def summary(job: Job, data: Facts, done: list[Facts]) -> Facts:
    """What to print at the end: how long each stage took, and where to look."""
    by_name = {facts["name"]: facts for facts in done}
    lines = ["", "Stages:", show.timeline(done), ""]
    reused = [facts["name"] for facts in done if "key" in facts and facts["reused"]]
    total = sum("key" in facts for facts in done)
    lines.append(f"{len(reused)} of {total} artifacts were there already, {total - len(reused)} made")
    lines.append(f"Model:   {by_name['gate']['sentence']}")
    lines.append(f"Report:  {Path(by_name['report']['path']) / 'report.html'}")
    lines.append(f"MLflow:  make ui STORE={job.root}  (then http://127.0.0.1:5000)")
    promoted = by_name["promotion"]
    if promoted["promoted"]:
        lines += examples(job, _dataset(data))
    else:
        lines.append(f"Nothing was published: {promoted['reason']}")
    return {"text": "\n".join(lines)}


def _published_vectors(job: Job) -> Artifact | None:
    """What the published index was built from: hard negatives come from there; None, said so, before the first."""
    from notellm2.index.index_stage import STAGE, vectors_of
    from notellm2.publication.pointer import NothingPublished, read_pointer

    try:
        index = job.store.find(STAGE, read_pointer(job.workspace.published).index_key)
    except NothingPublished:
        index = None
    found = None if index is None else vectors_of(job.store, index)
    if found is None:
        show.warn("no hard negatives: nothing is published yet, or its vectors are gone from the store")
    return found


def _dataset(data: Facts) -> Dataset:
    return Dataset.open(Path(data["path"]))
