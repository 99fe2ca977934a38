"""Retrain: from notes and behaviour to a registered model and a published index.

    python -m flows.retrain --recipe recipes/sample.yaml

Each line of `retrain` is a task (`flows.tasks`); each finished stage is an
artifact in the store, found again by what it was made from. So the same command continues a killed run, and a second
run with nothing changed does nothing.
"""

from __future__ import annotations

from flows import command

if __name__ == "__main__":
    # Before Prefect is imported below: it reads its settings then, and `command.main` decides them. The flow itself
    # is imported by name, so that it is the same flow when a deployment runs it.
    raise SystemExit(command.main())

from prefect import flow

from flows.parameters import RetrainSettings
from flows.runtime import events
from flows.runtime.job import Facts, Job, begin, recipe_name, turn
from flows.runtime.run import tracked_run
from flows.tasks import promotion, review, stages
from flows.tasks.approval import decide


@flow(
    name="retrain",
    flow_run_name=recipe_name,
    on_failure=[events.tell_failure],
    persist_result=False,
    result_serializer="json",
)
def retrain(settings: RetrainSettings) -> Facts:
    """Run every stage in order; finished ones are reused.

    Args:
        settings: recipe, data and store.

    Returns:
        Seconds of each stage, whether it was reused, and ``text``: what to print at the end.

    Raises:
        InputError: the recipe, the data or a setting is wrong.
    """
    job = begin(settings)
    with turn(job, "a retraining"):
        return _in_order(job, settings)


def _in_order(job: Job, settings: RetrainSettings) -> Facts:
    found = stages.ingest(job, settings.data)
    version = stages.data_version(job, found)
    job = job.about(data_md5=version["md5"])
    with tracked_run(job, version) as run:
        checked = stages.quality(job, version, run)
        mined = stages.pairs(job, version)
        backbones = stages.backbones(job, version, mined)
        features = stages.vision_features(job, version, backbones)
        trained = stages.training(job, version, mined, backbones, features, run)
        vectors = stages.vectors(job, version, trained, features)
        variants = review.variants(job, version, mined, backbones, features)
        measured = stages.evaluation(job, version, mined, vectors, variants, run)
        listened = review.saliency(job, version, mined, features, trained)
        registered = stages.register(job, version, mined, trained, run, [backbones, features, vectors])
        indexed = stages.index(job, vectors)
        rival = promotion.champion(job, version, mined, measured, registered, run)
        loaded = promotion.canary(job, registered)
        judged = promotion.gate(job, checked, measured, indexed, registered, rival, loaded, run)
        page = review.report(job, version, checked, mined, trained, measured, listened, rival, judged, run)
        decided = decide(job, registered, judged, page)
        promoted = promotion.promote(job, version, indexed, registered, judged, decided, run)
    done = [found, version, checked, mined, backbones, features, trained, vectors]
    done += [variants, measured, listened, registered, indexed, rival, loaded, judged, page, promoted]
    return stages.summary(job, version, done)
