"""The stages of a cleanup as Prefect tasks. Each says what it freed in a sentence."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path

from flows.handoffs import Cleaned, Outcome
from flows.runtime import events, show, snapshots
from flows.runtime.events import Event
from flows.runtime.job import Job
from flows.runtime.run import tracking
from flows.tasks.stage import DAY, HOUR, MINUTE, stage
from notellm2.errors import InputError

_PAGE = 200


@stage("artifacts", timeout_s=6 * HOUR)
def remove_artifacts(job: Job, keep: int, days: float, dry_run: bool) -> Cleaned:
    """Remove artifacts that neither a recent one nor a model in use was made from."""
    from notellm2.promotion.retention import artifacts_to_keep

    try:
        with job.workspace.exclusive("a cleanup"):
            kept, age_s = artifacts_to_keep(job.workspace, newest=keep), days * DAY
            old = job.store.gc(kept, older_than_s=age_s, dry_run=True)
            size = _bytes(old)
            if not dry_run:
                old = job.store.gc(kept, older_than_s=age_s)
    except InputError as busy:  # Only what works in the store now rests on what might go.
        show.warn(f"artifacts: left for the next time: {busy}")
        return Cleaned(summary="artifacts: left for the next time, the store is in use")
    return Cleaned(summary=f"artifacts: {len(old)} folder(s), {size / 1e9:.2f} GB")


@stage("data versions", timeout_s=HOUR)
def remove_data_versions(job: Job, days: float, dry_run: bool) -> Cleaned:
    """Remove the second names of data versions that no run began with lately, and marks of old events."""
    now = time.time()
    old = snapshots.remove_old(job, days * DAY, now, dry_run=dry_run, unfinished=_unfinished)
    events.remove_old_marks(job, max(days, 30) * DAY, now, dry_run=dry_run)
    return Cleaned(
        summary=f"data versions: {sum(p.is_dir() or p.suffix == '.dir' for p in old)} that no run reads any more"
    )


@stage("flow runs", timeout_s=HOUR, retries=2)
def remove_flow_runs(_job: Job, days: float, dry_run: bool) -> Cleaned:
    """Delete finished runs of this project's deployments from Prefect."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import (
        FlowRunFilter,
        FlowRunFilterEndTime,
        FlowRunFilterState,
        FlowRunFilterStateType,
        FlowRunFilterTags,
    )
    from prefect.client.schemas.objects import TERMINAL_STATES

    old = FlowRunFilter(
        tags=FlowRunFilterTags(any_=["notellm2"]),
        state=FlowRunFilterState(type=FlowRunFilterStateType(any_=list(TERMINAL_STATES))),
        end_time=FlowRunFilterEndTime(before_=datetime.now(UTC) - timedelta(days=days)),
    )
    count = 0
    with get_client(sync_client=True) as client:
        while page := client.read_flow_runs(flow_run_filter=old, limit=_PAGE, offset=count if dry_run else 0):
            count += len(page)
            for run in [] if dry_run else page:
                client.delete_flow_run(run.id)
    return Cleaned(summary=f"flow runs: {count}")


@stage("mlflow runs", timeout_s=6 * HOUR, retries=2)
def remove_mlflow_runs(job: Job, days: float | None, deleted_days: float, dry_run: bool) -> Cleaned:
    """Delete MLflow runs without a version, and versions that were never in use; purge what was deleted long ago."""
    from notellm2.promotion.retention import expire, purge

    if days is None:
        return Cleaned(summary="MLflow: nothing, as mlflow_days is empty")
    registry = tracking(job)
    gone = expire(registry, job.workspace, older_than_s=days * DAY, dry_run=dry_run)
    left = None if dry_run else purge(registry, older_than_days=deleted_days)
    text = f"MLflow: {len(gone.runs)} run(s), {len(gone.versions)} version(s) never in use"
    return Cleaned(summary=text if left is None else f"{text}; {left}")


@stage("staleness", timeout_s=10 * MINUTE, retries=2)
def check_staleness(job: Job) -> Cleaned:
    """Emit an event if the champion is older than the recipe's `alerts.stale_days`."""
    from notellm2.registry import versions

    champion, limit = versions.champion(tracking(job)), job.recipe.alerts.stale_days
    if champion is None:
        return Cleaned(summary="champion: none")
    age = (datetime.now(UTC) - champion.created) / timedelta(days=1)
    if age > limit:
        payload = {
            "version": champion.version,
            "age_days": round(age, 1),
            "stale_days": limit,
            "data_md5": champion.data_md5,
            "mlflow_run": champion.run_id,
        }
        events.emit(Event.MODEL_STALE, "model", champion.name, payload)
    return Cleaned(
        summary=f"champion: version {champion.version}, {age:.1f} days old{', stale' if age > limit else ''}"
    )


@stage("summary", timeout_s=MINUTE)
def summarise(_job: Job, done: list[Cleaned], dry_run: bool) -> Outcome:
    """Compose what to print at the end."""
    text = "\n".join(["Would be removed:" if dry_run else "Removed:", *(f"  {one.summary}" for one in done)])
    show.cleanup(text)
    return Outcome(text=text)


def _unfinished(runs: set[str]) -> set[str]:
    """Those of the flow runs that Prefect knows and that have not ended."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import (
        FlowRunFilter,
        FlowRunFilterId,
        FlowRunFilterState,
        FlowRunFilterStateType,
    )
    from prefect.client.schemas.objects import TERMINAL_STATES, StateType

    unfinished: set[str] = set()
    going = FlowRunFilterState(type=FlowRunFilterStateType(any_=sorted(set(StateType) - TERMINAL_STATES)))
    with get_client(sync_client=True) as client:
        ids = sorted(uuid.UUID(run) for run in runs)
        for start in range(0, len(ids), _PAGE):
            named = FlowRunFilter(id=FlowRunFilterId(any_=ids[start : start + _PAGE]), state=going)
            unfinished |= {str(run.id) for run in client.read_flow_runs(flow_run_filter=named, limit=_PAGE)}
    return unfinished


def _bytes(folders: Iterable[Path]) -> int:
    return sum(p.stat().st_size for folder in folders for p in folder.rglob("*") if p.is_file())
