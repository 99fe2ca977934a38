"""Fetch language model and vision encoder, or train the tiny ones that the recipe describes."""

from __future__ import annotations

from flows.handoffs import Backbones, Mined
from flows.runtime import show
from flows.runtime.job import Job
from flows.tasks.stage import HOUR, stage


@stage("backbones", timeout_s=6 * HOUR)
def prepare_backbones(job: Job, mined: Mined) -> Backbones:
    """Fetch the language model and the vision encoder, or train the tiny ones the recipe describes."""
    from notellm2.model.backbones.backbones_stage import build_backbones

    recipe = job.recipe
    made = build_backbones(
        job.store,
        mined.data.dataset,
        mined.data.md5,
        mined.artifact,
        recipe.backbones,
        recipe.model,
        recipe.data.images,
        show.Progress(every_s=10),
    )
    return Backbones(artifact=made)
