"""Fetch language model and vision encoder, or train the tiny ones that the recipe describes."""

from __future__ import annotations

from flows.handoffs import Backbones, Mined
from flows.runtime import show
from flows.runtime.job import Job
from flows.tasks.stage import HOUR, stage


@stage("backbones", timeout_s=6 * HOUR)
def prepare_backbones(job: Job, mined: Mined) -> Backbones:
    """Fetch the language model and the vision encoder, or train the tiny ones the recipe describes."""
    from notellm2.model.backbones.backbones_stage import Corpus, build_backbones

    recipe, data = job.recipe, mined.data
    corpus = Corpus(data.dataset, data.md5, mined.artifact, recipe.data.images)
    made = build_backbones(job.store, corpus, recipe.backbones, recipe.model, show.Progress(every_s=10))
    return Backbones(artifact=made)
