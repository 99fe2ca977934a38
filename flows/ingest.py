"""Ingest: a new export becomes a data version, if it passes its checks.

    notellm2 ingest --recipe recipes/team.yaml --data exports/today

The export is imported into the store and checked there; only then it takes the place of the data set (`data.dir` of
the recipe) in one step, is recorded with DVC, and the event ``notellm2.data.version`` is emitted. An export with
nothing new in it changes nothing. A retraining that is under way keeps to the version it began with.
"""

from __future__ import annotations

if __name__ == "__main__":  # before Prefect is imported below, which reads its settings then
    from flows.deprecated import run_as

    run_as("ingest")

from typing import Any

from prefect import flow
from prefect.client.schemas.objects import State

from flows.handoffs import Outcome
from flows.parameters import IngestSettings
from flows.runtime.events import emit_failure
from flows.runtime.job import Job, hold, missing_export, open_job, recipe_name, skip_if_scheduled
from flows.tasks.data import find_data, name_version
from flows.tasks.new_data import export_to_import, pin_data, place_data, summarise
from flows.tasks.quality import check_quality


def _run_name() -> str:
    return recipe_name("ingest {}")


@flow(
    name="ingest",
    flow_run_name=_run_name,
    on_failure=[emit_failure],
    persist_result=False,
    result_serializer="json",
)
def ingest(settings: IngestSettings) -> Outcome | State[Any]:
    """Import, check, and make it the data set's version if it is a new one.

    Args:
        settings: recipe, export, store, and what DVC is asked to do.

    Returns:
        What to print at the end. A run of a deployment whose export is not there yet ends as Skipped.

    Raises:
        InputError: the recipe or the export is wrong, the checks failed, or DVC refused.
    """
    if (skipped := skip_if_scheduled(missing_export(settings.data))) is not None:
        return skipped
    job = open_job(settings.loaded_recipe, settings.store_path)
    with hold(job, "an ingest", job.workspace.of_flow("ingest")):
        return _run_stages(job, settings)


def _run_stages(job: Job, settings: IngestSettings) -> Outcome:
    source = find_data(job, export_to_import(job, settings.data))
    data = name_version(job, source)
    job = job.about(data_md5=data.md5)
    checked = check_quality(job, data)
    placed = place_data(job, data)
    pinned = pin_data(job, data, settings.pin, settings.push, settings.remote)
    return summarise(job, data, checked, placed, pinned)
