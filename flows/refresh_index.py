"""Refresh: bring the published index up to date with the notes, with the champion as it is.

    notellm2 refresh-index --store store

Embeds what is new or changed, drops what is gone, validates and publishes; schedule it more often than a retraining. A
finished stage is an artifact in the store, so the same command continues a killed refresh.
"""

from __future__ import annotations

if __name__ == "__main__":  # before Prefect is imported below, which reads its settings then
    from flows.deprecated import run_as

    run_as("refresh-index")

from typing import Any

from prefect import flow
from prefect.client.schemas.objects import State

from flows.handoffs import Outcome
from flows.parameters import RefreshSettings
from flows.runtime.events import emit_failure
from flows.runtime.job import Job, hold, missing_export, open_job, recipe_name, skip_if_scheduled
from flows.tasks.data import find_data, name_version
from flows.tasks.index import build_index
from flows.tasks.quality import check_quality
from flows.tasks.refresh import (
    embed_changes,
    find_changes,
    find_in_use,
    nothing_published,
    publish,
    recipe_of_champion,
    summarise,
)


@flow(
    name="refresh-index",
    flow_run_name=recipe_name,
    on_failure=[emit_failure],
    persist_result=False,
    result_serializer="json",
)
def refresh_index(settings: RefreshSettings) -> Outcome | State[Any]:
    """Run every stage in order; ends early where the published index has these very notes.

    Args:
        settings: store, data and recipe.

    Returns:
        What to print at the end. A run of a deployment ends as Skipped before the first export and before the first
        promotion.

    Raises:
        InputError: nothing is published yet, or the recipe, the data or a setting is wrong.
    """
    store = settings.store_path
    skipped = skip_if_scheduled(missing_export(settings.data) or nothing_published(store))
    if skipped is not None:
        return skipped
    job = open_job(settings.loaded_recipe or recipe_of_champion(store, tuple(settings.overrides)), store)
    with hold(job, "an index refresh", job.workspace.of_flow("refresh")):
        return _run_stages(job, settings)


def _run_stages(job: Job, settings: RefreshSettings) -> Outcome:
    in_use = find_in_use(job)
    source = find_data(job, settings.data)
    data = name_version(job, source)
    job = job.about(data_md5=data.md5)
    changes = find_changes(job, data, in_use)
    if changes.nothing_to_do:
        return summarise(job, in_use, changes)
    check_quality(job, data, remember=False)
    vectors = embed_changes(job, data, in_use, changes)
    indexed = build_index(job, vectors, changes.index)
    published = publish(job, data, in_use, changes, indexed)
    return summarise(job, in_use, changes, indexed, published)
