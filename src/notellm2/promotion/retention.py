"""What may go once it is old: artifacts, runs and versions that nothing in use rests on.

Kept whatever its age: a version with an alias, one that readers could be taken back to (an index of it is published),
and one that was ever in use, with its run, its files and the artifacts it was made from. The ledger names these.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from notellm2.artifacts import Artifact, Store
from notellm2.errors import InputError
from notellm2.promotion import status
from notellm2.registry import names
from notellm2.registry.tracking import SETTINGS, Tracking
from notellm2.workspace import Workspace

_ENDED = ("FINISHED", "FAILED", "KILLED")
_PAGE = 1000


@dataclass
class Expired:
    """What went, or would go.

    Attributes:
        versions: numbers of registered versions.
        runs: ids of MLflow runs; deleted ones can be restored until they are purged.
    """

    versions: list[str] = field(default_factory=list)
    runs: list[str] = field(default_factory=list)


def artifacts_to_keep(workspace: Workspace, *, newest: int) -> set[tuple[str, str]]:
    """Addresses (stage, key) of what a removal of artifacts must leave, with all that they were made from.

    Those of champion, challenger and every version a rollback can go to: without them a version could be brought back,
    but not compared with on new test pairs.

    Args:
        workspace: whose store it is.
        newest: artifacts kept of each stage besides, the latest ones.
    """
    by_stage: dict[str, list[Artifact]] = {}
    for one in sorted(Store(workspace.root).artifacts(), key=lambda a: str(a.manifest["created"]), reverse=True):
        by_stage.setdefault(one.stage, []).append(one)
    kept = {(one.stage, one.key) for several in by_stage.values() for one in several[:newest]}
    found = status.collect_status(workspace)
    for version in (found.champion, found.challenger):
        kept |= set() if version is None else set(version.artifacts.items())
    for reachable in status.reachable_versions(workspace):
        kept |= set(reachable.artifacts.items())
    return kept


def expire(tracking: Tracking, workspace: Workspace, *, older_than_s: float, dry_run: bool = False) -> Expired:
    """Delete versions that were never in use, and runs that no version is of, once they are old.

    Args:
        tracking: the store.
        workspace: whose published indexes say where a rollback can go.
        older_than_s: age below which nothing goes, seconds since a run's end or a version's registration.
        dry_run: only say what would go.

    Raises:
        InputError: the user of MLflow may not delete.
    """
    expired = Expired()
    if not tracking.exists:
        return expired
    horizon_ms = (time.time() - older_than_s) * 1000
    with _permitted():
        remaining = _expire_versions(tracking, workspace, horizon_ms, expired, dry_run)
        token: str | None = None
        while True:
            page = tracking.client.search_runs(
                [tracking.experiment_id()], f"attributes.end_time < {horizon_ms:.0f}", 1, _PAGE, page_token=token
            )
            expired.runs += [r.info.run_id for r in page if r.info.status in _ENDED and r.info.run_id not in remaining]
            token = page.token
            if not token:
                break
        for run in [] if dry_run else expired.runs:
            tracking.client.delete_run(run)
    return expired


def purge(tracking: Tracking, *, older_than_days: float) -> str | None:
    """Remove for good, with their files, runs that were deleted so many days ago. Only from a workspace's own store.

    Returns:
        What is left for others to do, where the store is a server's; else None.

    Raises:
        RuntimeError: MLflow's command failed; with what it said.
    """
    if not tracking.uri.startswith("sqlite:"):
        return f"deleted runs stay until `mlflow gc --older-than {older_than_days:g}d` is run beside the server"
    if not tracking.exists:
        return None
    # -P: the project's folder mlflow/ must not shadow the library.
    command = [sys.executable, "-P", "-m", "mlflow", "gc", "--older-than", f"{older_than_days * 24:.0f}h"]
    command += ["--backend-store-uri", tracking.uri, "--tracking-uri", tracking.uri]
    done = subprocess.run(command, env={**SETTINGS, **os.environ}, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"mlflow gc ended with {done.returncode}: {done.stderr.strip()[-1000:]}")
    return None


def _expire_versions(
    tracking: Tracking, workspace: Workspace, horizon_ms: float, expired: Expired, dry_run: bool
) -> set[str]:
    """Delete what was never in use; returns the runs of the versions that stay."""
    client = tracking.client
    reachable = {one.version for one in status.reachable_versions(workspace) if one.name == tracking.model_name}
    registered = client.search_registered_models(f"name = '{tracking.model_name}'")
    aliased = {str(number) for model in registered for number in model.aliases.values()}
    remaining = set()
    token: str | None = None
    doomed = []
    while True:
        page = client.search_model_versions(f"name = '{tracking.model_name}'", _PAGE, page_token=token)
        for one in page:
            used = str(one.version) in reachable | aliased or names.PROMOTED_AT in one.tags
            if used or one.creation_timestamp >= horizon_ms:
                remaining.add(str(one.run_id))
            else:
                doomed.append(str(one.version))
        token = page.token
        if not token:
            break
    expired.versions += sorted(doomed, key=int)
    for number in [] if dry_run else doomed:
        client.delete_model_version(tracking.model_name, number)
    return remaining


@contextlib.contextmanager
def _permitted() -> Iterator[None]:
    """Tell in a sentence that MLflow's user may not delete."""
    from mlflow.exceptions import MlflowException

    try:
        yield
    except MlflowException as error:
        if error.error_code not in ("PERMISSION_DENIED", "UNAUTHENTICATED"):
            raise
        raise InputError(
            "MLflow does not let this user delete runs and versions: give the cleanup one that may "
            "(MLFLOW_TRACKING_USERNAME, docs/access.md), or leave mlflow_days empty"
        ) from None
