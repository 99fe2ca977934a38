"""Run every image once through the frozen vision encoder."""

from __future__ import annotations

from flows.handoffs import Backbones, DataVersion, Features
from flows.runtime.job import Job
from flows.tasks.stage import HOUR, stage


@stage("vision features", timeout_s=12 * HOUR)
def compute_features(job: Job, data: DataVersion, backbones: Backbones) -> Features:
    """Run every image once through the frozen vision encoder."""
    from notellm2.embedding.vectors_stage import vision_features

    config = job.recipe.data
    made = vision_features(
        job.store, data.dataset, data.md5, backbones.artifact, config.images, cache_gb=config.feature_cache_gb
    )
    return Features(artifact=made)
