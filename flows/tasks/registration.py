"""Register the model as a challenger."""

from __future__ import annotations

from flows.handoffs import Made, Mined, Registered, Trained
from flows.runtime import show
from flows.runtime.job import Job
from flows.runtime.run import attach_run
from flows.tasks.stage import HOUR, stage
from notellm2.artifacts import Artifact, digest_json


@stage("register", timeout_s=HOUR, retries=2)
def register_model(job: Job, mined: Mined, trained: Trained, made_from: list[Made]) -> Registered:
    """Record in the run what the model was made from, and register it as a challenger."""
    from notellm2.registry import versions

    run = attach_run(job)
    for stage_output in [mined, *made_from]:
        run.log_stage(stage_output.artifact)
    version = versions.register(
        run, trained.artifact.file("bundle"), data_md5=mined.data.md5, test_set=test_set(mined.artifact)
    )
    show.model_version(version, run.tracking)
    return Registered(
        model=version.name,
        version=version.version,
        bundle=version.bundle,
        page=run.tracking.version_page(version.version),
    )


def test_set(mined: Artifact) -> str:
    """Digest the data, the test pairs, their pool and the way they are measured.

    Figures compare only where it is equal: the same pairs of notes whose text or images changed are another test.
    """
    from notellm2.evaluation.evaluation_stage import EVALUATION_VERSION

    manifest = mined.manifest
    files = [manifest["files"][name]["sha256"] for name in ("test.parquet", "pool.parquet")]
    return digest_json([manifest["inputs"]["data"], files, EVALUATION_VERSION])[:20]
