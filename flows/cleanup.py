"""Cleanup: what is old and nothing rests on goes; and a word if the champion is old too.

    python -m flows.cleanup --recipe recipes/team.yaml --dry-run

What was freed is in the run's log and its artifact. A store that a retraining holds is left for the next day.
"""

from __future__ import annotations

from flows import cleanup_command

if __name__ == "__main__":
    # Before Prefect is imported below; see flows/retrain.py.
    raise SystemExit(cleanup_command.main())

from prefect import flow

from flows.parameters import CleanupSettings
from flows.runtime import events
from flows.runtime.job import Facts, begin, recipe_name
from flows.tasks import retention


def _run_name() -> str:
    return f"cleanup {recipe_name()}"


@flow(
    name="cleanup",
    flow_run_name=_run_name,
    on_failure=[events.tell_failure],
    persist_result=False,
    result_serializer="json",
)
def cleanup(settings: CleanupSettings) -> Facts:
    """Remove what is old, each in a task of its own, and tell if the champion is stale.

    Args:
        settings: recipe, store, and for how many days things stay.

    Returns:
        ``text``: what to print at the end.

    Raises:
        InputError: the recipe is wrong, or MLflow does not let this user delete.
    """
    job = begin(settings)
    done = [
        retention.artifacts(job, settings.artifacts_keep, settings.artifacts_days, settings.dry_run),
        retention.data_versions(job, settings.data_days, settings.dry_run),
        retention.flow_runs(job, settings.flow_runs_days, settings.dry_run),
        retention.mlflow_runs(job, settings.mlflow_days, settings.mlflow_deleted_days, settings.dry_run),
        retention.staleness(job),
    ]
    return retention.summary(job, done, settings.dry_run)
