"""Build and validate the FAISS index."""

from __future__ import annotations

from flows.handoffs import Indexed, Vectors
from flows.runtime.job import Job
from flows.tasks.stage import HOUR, MINUTE, stage
from notellm2.artifacts import Artifact


@stage("index", timeout_s=6 * HOUR)
def build_index(job: Job, vectors: Vectors, base: Artifact | None = None) -> Indexed:
    """Build and validate the index, on an earlier one as its kind allows, in a process that never sees torch."""
    from notellm2.index.process import build_index_in_subprocess

    made = build_index_in_subprocess(
        job.store, vectors.artifact, job.recipe.index, base=base, timeout_s=6 * HOUR - MINUTE
    )
    return Indexed(artifact=made)
