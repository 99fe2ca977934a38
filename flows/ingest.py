"""Ingest: a new export becomes a data version, if it passes its checks.

    python -m flows.ingest --recipe recipes/team.yaml --data exports/today

The export is imported into the store and checked there; only then it takes the place of the data set (`data.dir` of
the recipe) in one step, is recorded with DVC, and is told as the event ``notellm2.data.version``. An export with
nothing new in it changes nothing and tells nothing. A retraining that is under way keeps to the version it began with.
"""

from __future__ import annotations

from flows import ingest_command

if __name__ == "__main__":
    # Before Prefect is imported below; see flows/retrain.py.
    raise SystemExit(ingest_command.main())

from typing import Any

from prefect import flow
from prefect.client.schemas.objects import State

from flows.ingest_command import ingest_desk
from flows.parameters import IngestSettings
from flows.runtime import events
from flows.runtime.job import Facts, Job, begin, no_export, nothing_yet, recipe_name, turn
from flows.tasks import new_data, stages


def _run_name() -> str:
    return f"ingest {recipe_name()}"


@flow(
    name="ingest",
    flow_run_name=_run_name,
    on_failure=[events.tell_failure],
    persist_result=False,
    result_serializer="json",
)
def ingest(settings: IngestSettings) -> Facts | State[Any]:
    """Import, check, and make it the data set's version if it is a new one.

    Args:
        settings: recipe, export, store, and what DVC is asked to do.

    Returns:
        ``md5`` of the version, whether it is ``new``, and ``text``: what to print at the end. A run of a deployment
        whose export is not there yet ends as Skipped.

    Raises:
        InputError: the recipe or the export is wrong, the checks failed, or DVC refused.
    """
    job = begin(settings)
    missing = no_export(settings.data)
    skipped = None if missing is None else nothing_yet(missing)
    if skipped is not None:
        return skipped
    with turn(job, "an ingest", ingest_desk(job.workspace)):
        return _in_order(job, settings)


def _in_order(job: Job, settings: IngestSettings) -> Facts:
    found = stages.ingest(job, new_data.export(job, settings.data))
    version = stages.data_version(job, found)
    job = job.about(data_md5=version["md5"])
    checked = new_data.quality(job, version)
    placed = new_data.place(job, version)
    pinned = new_data.pin(job, version, settings.pin, settings.push, settings.remote)
    return new_data.summary(job, version, checked, placed, pinned)
