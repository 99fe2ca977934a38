"""Split the notes and mine training pairs from behaviour."""

from __future__ import annotations

from flows.handoffs import DataVersion, Mined
from flows.runtime import show
from flows.runtime.job import Job
from flows.tasks.stage import HOUR, stage


@stage("pairs", timeout_s=6 * HOUR)
def mine_pairs(job: Job, data: DataVersion) -> Mined:
    """Split the notes and mine training pairs from behaviour."""
    from notellm2.pairs.pairs_stage import mine

    mined = mine(job.store, data.dataset, data.md5, job.recipe.pairs)
    show.pairs(mined)
    return Mined(artifact=mined, data=data)
