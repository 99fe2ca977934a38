"""Deleting runs and versions in MLflow. Which ones may go is decided by `notellm2.promotion.retention`."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Collection, Iterator

from notellm2.errors import InputError
from notellm2.registry import names
from notellm2.registry.catalogue import PAGE
from notellm2.registry.tracking import SETTINGS, Tracking

_ENDED = ("FINISHED", "FAILED", "KILLED")


def delete_versions(
    tracking: Tracking, *, before_ms: float, keep: Collection[str], dry_run: bool = False
) -> tuple[list[str], set[str]]:
    """Delete versions that are old, were never in use and carry no alias.

    Args:
        tracking: the registry.
        before_ms: registered before this, milliseconds since 1970.
        keep: numbers of versions to keep besides.
        dry_run: only say what would go.

    Returns:
        The numbers that went, or would go, and the ids of the runs of the versions that stay.

    Raises:
        InputError: MLflow's user may not delete.
    """
    client, token = tracking.client, None
    registered = client.search_registered_models(f"name = '{tracking.model_name}'")
    aliased = {str(number) for model in registered for number in model.aliases.values()}
    kept_runs: set[str] = set()
    doomed: list[str] = []
    with _permitted():
        while True:
            page = client.search_model_versions(f"name = '{tracking.model_name}'", PAGE, page_token=token)
            for version in page:
                used = str(version.version) in {*keep, *aliased} or names.PROMOTED_AT in version.tags
                if used or version.creation_timestamp >= before_ms:
                    kept_runs.add(str(version.run_id))
                else:
                    doomed.append(str(version.version))
            token = page.token
            if not token:
                break
        for number in [] if dry_run else doomed:
            client.delete_model_version(tracking.model_name, number)
    return sorted(doomed, key=int), kept_runs


def delete_runs(tracking: Tracking, *, before_ms: float, keep: Collection[str], dry_run: bool = False) -> list[str]:
    """Delete runs that ended long ago; until they are purged they can be restored.

    Args:
        tracking: the registry.
        before_ms: ended before this, milliseconds since 1970.
        keep: ids of runs to keep.
        dry_run: only say what would go.

    Returns:
        The ids that went, or would go.

    Raises:
        InputError: MLflow's user may not delete.
    """
    client, token = tracking.client, None
    doomed: list[str] = []
    with _permitted():
        while True:
            page = client.search_runs(
                [tracking.experiment_id()], f"attributes.end_time < {before_ms:.0f}", 1, PAGE, page_token=token
            )
            doomed += [run.info.run_id for run in page if run.info.status in _ENDED and run.info.run_id not in keep]
            token = page.token
            if not token:
                break
        for run_id in [] if dry_run else doomed:
            client.delete_run(run_id)
    return doomed


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


@contextlib.contextmanager
def _permitted() -> Iterator[None]:
    """Say in a sentence that MLflow's user may not delete."""
    from mlflow.exceptions import MlflowException

    try:
        yield
    except MlflowException as error:
        if error.error_code not in ("PERMISSION_DENIED", "UNAUTHENTICATED"):
            raise
        raise InputError(
            "MLflow does not let this user delete runs and versions: give the cleanup one that may "
            "(MLFLOW_TRACKING_USERNAME, docs/guides/access-and-secrets.md), or leave mlflow_days empty"
        ) from None
