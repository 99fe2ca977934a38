"""Tune the model on the pairs, and variants of it where the recipe asks for them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flows.handoffs import Backbones, Features, Mined, Trained, Variants, Vectors
from flows.runtime import show
from flows.runtime.job import Job
from flows.runtime.run import attach_run
from flows.tasks.stage import DAY, stage
from notellm2.artifacts import Artifact

if TYPE_CHECKING:
    from notellm2.recipe import ModelConfig
    from notellm2.training.training_stage import TrainingInputs


@stage("training", timeout_s=7 * DAY)
def train_model(job: Job, mined: Mined, backbones: Backbones, features: Features) -> Trained:
    """Tune the model on the pairs; a killed run resumes at its last checkpoint."""
    from notellm2.training.training_stage import train

    recipe, run = job.recipe, attach_run(job)
    inputs = training_inputs(job, mined, backbones, features)
    trained = train(job.store, inputs, recipe.model, recipe.training, recipe.data.images, on_metrics=run.on_metrics)
    run.log_history(trained)
    show.training(trained)
    return Trained(artifact=trained)


def training_inputs(job: Job, mined: Mined, backbones: Backbones, features: Features) -> TrainingInputs:
    """Collect what the recipe's training reads, the published vectors too where hard negatives come from them."""
    published = _published_vectors(job) if job.recipe.training.hard_negatives else None
    return _inputs(mined, backbones, features, published)


@stage("variants", timeout_s=7 * DAY)
def train_variants(job: Job, mined: Mined, backbones: Backbones, features: Features) -> Variants:
    """Train and embed the variants that the recipe wants to see beside the model; usually none."""
    model, names = job.recipe.model, job.recipe.evaluation.variants
    return Variants(
        vectors={name: _train_and_embed(job, mined, backbones, features, model.variant(name)) for name in names}
    )


@stage("window model", timeout_s=7 * DAY)
def train_for_window(job: Job, mined: Mined, backbones: Backbones, features: Features) -> Vectors:
    """Train on the pairs before a window of time, and embed all notes."""
    return Vectors(artifact=_train_and_embed(job, mined, backbones, features, job.recipe.model))


def _train_and_embed(job: Job, mined: Mined, backbones: Backbones, features: Features, model: ModelConfig) -> Artifact:
    """The vectors of a model that is trained to be looked at, not to be registered: it has no run of its own."""
    from notellm2.embedding.vectors_stage import embed
    from notellm2.training.training_stage import train

    inputs = _inputs(mined, backbones, features)
    trained = train(job.store, inputs, model, job.recipe.training, job.recipe.data.images)
    return embed(job.store, inputs.dataset, inputs.data_md5, trained, features.artifact)


def _inputs(
    mined: Mined, backbones: Backbones, features: Features, published: Artifact | None = None
) -> TrainingInputs:
    from notellm2.training.training_stage import TrainingInputs

    return TrainingInputs(
        dataset=mined.data.dataset,
        data_md5=mined.data.md5,
        pairs=mined.artifact,
        backbones=backbones.artifact,
        features=features.artifact,
        published=published,
    )


def _published_vectors(job: Job) -> Artifact | None:
    """What the published index was built from: hard negatives come from there; None, with a warning: not known."""
    from notellm2.index.index_stage import STAGE, vectors_of
    from notellm2.publication.pointer import NothingPublished, read_pointer

    try:
        index = job.store.find(STAGE, read_pointer(job.workspace.published).index_key)
    except NothingPublished:
        index = None
    vectors = None if index is None else vectors_of(job.store, index)
    if vectors is None:
        show.warn("no hard negatives: nothing is published yet, or its vectors are gone from the store")
    return vectors
