"""The version a challenger must beat, with figures on the challenger's own test pairs.

Figures that were stored earlier may be of another test set, or measured in another way: the champion is embedded and
measured with the challenger, on the same data, in the same run. That costs nothing where it was done before. It may
have been trained on notes that are held out today, which flatters it: the gate errs on the side of the version in use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from flows.handoffs import Evaluated, Incumbent, Mined, Registered
from flows.runtime import show
from flows.runtime.job import Job
from flows.runtime.run import attach_run
from flows.tasks.stage import DAY, stage
from flows.tasks.waiting import settle_decisions
from notellm2.artifacts import Artifact, ArtifactError
from notellm2.errors import InputError

if TYPE_CHECKING:
    from notellm2.registry.tracking import Tracking
    from notellm2.registry.versions import Version


@stage("champion", timeout_s=DAY, retries=2)
def compare_with_champion(job: Job, mined: Mined, evaluated: Evaluated, registered: Registered) -> Incumbent:
    """Settle what a killed promotion left, name the version to beat, and compare with it query by query."""
    from notellm2.evaluation.comparison import compare

    settle_decisions(job)
    run = attach_run(job)
    version = version_to_beat(run.tracking, registered.version)
    if version is None:
        return Incumbent(version=None)
    evaluation = evaluate_version(job, mined, version)
    comparison = None
    if evaluation is not None:
        comparison = compare(job.store, evaluated.artifact, evaluation, job.recipe.evaluation)
        run.log_figures(comparison)
    return Incumbent(version=version.version, evaluation=evaluation, comparison=comparison)


def version_to_beat(tracking: Tracking, challenger: str) -> Version | None:
    """Name the champion; if that is the challenger itself, promoted by an earlier run of the job, the one before."""
    from notellm2.registry import versions

    current = versions.champion(tracking)
    if current is None or current.version != challenger:
        return current
    over = current.promoted_over
    return None if over in (None, "none") else versions.get_version(tracking, over)


def evaluate_version(job: Job, mined: Mined, version: Version) -> Artifact | None:
    """Evaluate a version on these test pairs; None, with a warning, where what it was made of is gone or damaged.

    The gate then has nothing to compare with, and refuses the challenger.
    """
    from notellm2.embedding.vectors_stage import embed, vision_features
    from notellm2.evaluation.evaluation_stage import evaluate
    from notellm2.model.bundle.bundle import BundleError

    store, recipe, data = job.store, job.recipe, mined.measured_on
    images, cache_gb = recipe.data.images, recipe.data.feature_cache_gb
    try:
        trained, backbones = (
            store.get(f"{stage}/{version.artifacts.get(stage)}") for stage in ("training", "backbones")
        )
        features = vision_features(store, data.dataset, data.md5, backbones, images, cache_gb=cache_gb)
        vectors = embed(store, data.dataset, data.md5, trained, features)
        return evaluate(store, data, vectors, recipe.evaluation, recipe.model.text)
    except (InputError, ArtifactError, BundleError) as error:
        show.warn(f"version {version.version} cannot be measured on this test set: {error}")
        return None
