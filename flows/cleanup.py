"""Cleanup: remove what is old and nothing in use rests on, and warn if the champion is old too.

    notellm2 cleanup --recipe recipes/team.yaml --dry-run

What was freed is in the run's log and its artifact. A store that a retraining holds is left for the next day.
"""

from __future__ import annotations

if __name__ == "__main__":  # before Prefect is imported below, which reads its settings then
    from flows.deprecated import run_as

    run_as("cleanup")

from prefect import flow

from flows.handoffs import Outcome
from flows.parameters import CleanupSettings
from flows.runtime.events import emit_failure
from flows.runtime.job import open_job, recipe_name
from flows.tasks.retention import (
    check_staleness,
    remove_artifacts,
    remove_data_versions,
    remove_flow_runs,
    remove_mlflow_runs,
    summarise,
)
from flows.tasks.waiting import settle_decisions


def _run_name() -> str:
    return recipe_name("cleanup {}")


@flow(
    name="cleanup",
    flow_run_name=_run_name,
    on_failure=[emit_failure],
    persist_result=False,
    result_serializer="json",
)
def cleanup(settings: CleanupSettings) -> Outcome:
    """Remove what is old, each kind in a task of its own, and warn if the champion is stale.

    Args:
        settings: recipe, store, and for how many days things stay.

    Returns:
        What to print at the end.

    Raises:
        InputError: the recipe is wrong, or MLflow does not let this user delete.
    """
    job = open_job(settings.loaded_recipe, settings.store_path)
    settle_decisions(job)
    done = [
        remove_artifacts(job, settings.artifacts_keep, settings.artifacts_days, settings.dry_run),
        remove_data_versions(job, settings.data_days, settings.dry_run),
        remove_flow_runs(job, settings.flow_runs_days, settings.dry_run),
        remove_mlflow_runs(job, settings.mlflow_days, settings.mlflow_deleted_days, settings.dry_run),
        check_staleness(job),
    ]
    return summarise(job, done, settings.dry_run)
