"""Make a function of this project a Prefect task: timed, retried where that helps, its result typed.

Prefect caches nothing and keeps no results: the content-addressed store is the truth.
"""

from __future__ import annotations

import errno
import functools
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

from prefect import Task, get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun

from flows.handoffs import HandOff
from flows.runtime.job import Job
from notellm2.errors import InputError

P = ParamSpec("P")
H = TypeVar("H", bound=HandOff)

MINUTE = 60.0
HOUR = 60 * MINUTE
DAY = 24 * HOUR


def stage(
    name: str, *, timeout_s: float, retries: int = 0
) -> Callable[[Callable[Concatenate[Job, P], H]], Task[Concatenate[Job, P], H]]:
    """Make a function a task that says what it made, how long it took, and whether it was reused.

    Timeouts are for hangs, not for slowness: a recipe may ask for hours of training.

    Args:
        name: as shown everywhere.
        timeout_s: seconds until it is given up.
        retries: for stages that talk to disks or servers; wrong input, and a promotion that was refused, are never
            tried again.
    """

    def decorate(function: Callable[Concatenate[Job, P], H]) -> Task[Concatenate[Job, P], H]:
        @functools.wraps(function)
        def timed(job: Job, *args: P.args, **kwargs: P.kwargs) -> H:
            started = time.monotonic()
            try:
                outcome = function(job, *args, **kwargs)
            except OSError as error:
                if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                    raise
                raise OSError(error.errno, _no_room(name, job, error), error.filename) from error
            said: dict[str, Any] = {"name": name, "seconds": round(time.monotonic() - started, 2)}
            if (artifact := outcome.artifact) is not None:
                said["reused"] = artifact.reused
                verb = "reused" if artifact.reused else "made"
                get_run_logger().info("%s %s/%s", verb, artifact.stage, artifact.key)
            return outcome.model_copy(update=said)

        return task(
            name=name,
            task_run_name=name,
            retries=retries,
            retry_delay_seconds=[2.0 * 2**i for i in range(retries)] or None,
            retry_condition_fn=_worth_retrying,
            timeout_seconds=timeout_s,
            cache_policy=NO_CACHE,
            persist_result=False,
            result_serializer="json",
        )(timed)

    return decorate


def _no_room(name: str, job: Job, error: OSError) -> str:
    """What to say of a full disk: which stage, where, how much is free, and how much the stage took last time."""
    folder = Path(error.filename) if isinstance(error.filename, str | os.PathLike) else job.root
    while not folder.is_dir() and folder != folder.parent:
        folder = folder.parent
    disk = shutil.disk_usage(folder)
    sizes = [sum(f["bytes"] for f in a.manifest["files"].values()) for a in job.store.artifacts() if a.stage == name]
    need = f"; its largest artifact so far takes {max(sizes) / 1e9:.2f} GB" if sizes else ""
    return (
        f"{error.strerror}: stage {name}, disk of {folder}: {disk.free / 1e9:.2f} of {disk.total / 1e9:.2f} GB are free"
        f"{need}; make room (`notellm2 artifacts gc --dry-run` says what would go) and start it again, it goes on from "
        "there"
    )


def _worth_retrying(_task: Task[..., Any], _run: TaskRun, state: State[Any]) -> bool:
    from notellm2.promotion.transaction import Refused

    error = state.result(raise_on_failure=False)
    return not isinstance(error, InputError | Refused)
