"""What may go once it is old: artifacts, runs and versions that nothing in use rests on.

Kept whatever its age: a version with an alias, one that readers could be taken back to (an index of it is published),
and one that was ever in use, with its run, its files and the artifacts it was made from. The ledger names these.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from notellm2.artifacts import Artifact, Store
from notellm2.promotion import status
from notellm2.registry.deletion import delete_runs, delete_versions, purge
from notellm2.registry.tracking import Tracking
from notellm2.workspace import Workspace

__all__ = ["Expired", "artifacts_to_keep", "expire", "purge"]


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
    """Collect addresses (stage, key) of what a removal of artifacts must leave, with all they were made from.

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
    in_use = status.collect_status(workspace)
    for version in (in_use.champion, in_use.challenger):
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
    if not tracking.exists:
        return Expired()
    before_ms = (time.time() - older_than_s) * 1000
    reachable = {one.version for one in status.reachable_versions(workspace) if one.name == tracking.model_name}
    numbers, kept_runs = delete_versions(tracking, before_ms=before_ms, keep=reachable, dry_run=dry_run)
    runs = delete_runs(tracking, before_ms=before_ms, keep=kept_runs, dry_run=dry_run)
    return Expired(versions=numbers, runs=runs)
