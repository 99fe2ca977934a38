"""Refresh: bring the published index up to date with the notes, with the champion as it is.

    python -m flows.refresh_index --store store

Embeds what is new or changed, drops what is gone, validates and publishes; schedule it more often than a retraining. A
finished stage is an artifact in the store, so the same command continues a killed refresh.
"""

from __future__ import annotations

from flows import refresh_command

if __name__ == "__main__":
    # Before Prefect is imported below: it reads its settings then, and `refresh_command.main` decides them.
    raise SystemExit(refresh_command.main())

from pathlib import Path
from typing import Any

from prefect import flow
from prefect.client.schemas.objects import State

from flows.parameters import RefreshSettings
from flows.refresh_command import refresh_desk
from flows.runtime import events
from flows.runtime.job import Facts, Job, begun, no_export, nothing_yet, recipe_name, turn
from flows.tasks import refresh, stages


@flow(
    name="refresh-index",
    flow_run_name=recipe_name,
    on_failure=[events.tell_failure],
    persist_result=False,
    result_serializer="json",
)
def refresh_index(settings: RefreshSettings) -> Facts | State[Any]:
    """Run every stage in order; ends early where the published index has these very notes.

    Args:
        settings: store, data and recipe.

    Returns:
        What changed and what is published, and ``text``: what to print at the end. A run of a deployment ends as
        Skipped before the first export and before the first promotion.

    Raises:
        InputError: nothing is published yet, or the recipe, the data or a setting is wrong.
    """
    missing = no_export(settings.data) or refresh.nothing_published(Path(settings.store))
    skipped = None if missing is None else nothing_yet(missing)
    if skipped is not None:
        return skipped
    recipe = None if settings.recipe is None else Path(settings.recipe)
    job = begun(refresh.open_refresh(Path(settings.store), recipe, tuple(settings.overrides)))
    with turn(job, "an index refresh", refresh_desk(job.workspace)):
        return _in_order(job, settings)


def _in_order(job: Job, settings: RefreshSettings) -> Facts:
    in_use = refresh.in_use(job)
    found = stages.ingest(job, settings.data)
    version = stages.data_version(job, found)
    job = job.about(data_md5=version["md5"])
    changes = refresh.changes(job, version, in_use)
    if changes["nothing_to_do"]:
        return refresh.summary(job, in_use, changes, None, None)
    refresh.quality(job, version)
    vectors = refresh.vectors(job, version, in_use, changes)
    indexed = refresh.index(job, changes, vectors)
    published = refresh.publish(job, version, in_use, changes, indexed)
    return refresh.summary(job, in_use, changes, indexed, published)
