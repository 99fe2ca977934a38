"""The version a challenger must beat, with figures on the challenger's own test pairs.

Figures that were stored earlier may be of another test set, or measured in another way: the champion is embedded and
measured with the challenger, on the same data, in the same run. That costs nothing where it was done before. It may
have been trained on notes that are held out today, which flatters it: the gate errs on the side of the version in use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from flows.runtime import show
from flows.runtime.job import Facts, Job, artifact
from notellm2.artifacts import Artifact, ArtifactError
from notellm2.errors import InputError
from notellm2.notes.dataset import Dataset

if TYPE_CHECKING:
    from notellm2.registry.tracking import Tracking
    from notellm2.registry.versions import Version


def version_to_beat(tracking: Tracking, challenger: str) -> Version | None:
    """The champion; if that is the challenger itself, promoted by an earlier run of the same job, the one before it."""
    from notellm2.registry import versions

    current = versions.champion(tracking)
    if current is None or current.version != challenger:
        return current
    over = current.promoted_over
    return None if over in (None, "none") else versions.get_version(tracking, over)


def measured_today(job: Job, dataset: Dataset, data: Facts, mined: Facts, version: Version) -> Artifact | None:
    """A version's evaluation on these test pairs; None, with a warning, where what it was made of is gone or damaged.

    The gate then has nothing to compare with, and refuses the challenger.
    """
    from notellm2.embedding.vectors_stage import embed, vision_features
    from notellm2.evaluation.cases import MinedData
    from notellm2.evaluation.evaluation_stage import evaluate
    from notellm2.model.bundle.bundle import BundleError

    store, recipe = job.store, job.recipe
    try:
        trained, halves = (store.get(f"{stage}/{version.artifacts.get(stage)}") for stage in ("training", "backbones"))
        features = vision_features(
            store, dataset, data["md5"], halves, recipe.data.images, cache_gb=recipe.data.feature_cache_gb
        )
        vectors = embed(store, dataset, data["md5"], trained, features)
        measured_on = MinedData(dataset, data["md5"], artifact(mined))
        return evaluate(store, measured_on, vectors, recipe.evaluation, recipe.model.text)
    except (InputError, ArtifactError, BundleError) as error:
        show.warn(f"version {version.version} cannot be measured on this test set: {error}")
        return None
