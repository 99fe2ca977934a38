"""Refuse a run that cannot end well before it begins, by the cheap ones of the checks of ``notellm2 doctor``."""

from __future__ import annotations

from pathlib import Path

from flows.runtime import show, snapshots
from flows.runtime.job import Job


def require_ready(job: Job, data: str | None) -> None:
    """Check what a later stage could not work with; what may go wrong is a warning in the run's log.

    Args:
        job: the run; one that comes back to data it began with is not asked for them again.
        data: the setting: a data set or export in place of the recipe's.

    Raises:
        InputError: a check failed; says what to do.
    """
    from notellm2.doctor import all_checks

    kept = snapshots.data_of_run(job)
    named = kept or (None if data is None else Path(data))
    for line in all_checks.require_ready(job.recipe, job.workspace, named):
        show.warn(line)
