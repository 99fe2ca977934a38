"""Embed every note of the data set."""

from __future__ import annotations

from flows.handoffs import DataVersion, Features, Trained, Vectors
from flows.runtime.job import Job
from flows.tasks.stage import DAY, stage


@stage("vectors", timeout_s=DAY)
def embed_notes(job: Job, data: DataVersion, trained: Trained, features: Features) -> Vectors:
    """Embed every note: with both inputs, without its image, without its text."""
    from notellm2.embedding.refresh import note_digests
    from notellm2.embedding.vectors_stage import embed

    note_digests(job.store, data.dataset, data.md5)  # What an index refresh will compare later notes with.
    return Vectors(artifact=embed(job.store, data.dataset, data.md5, trained.artifact, features.artifact))
