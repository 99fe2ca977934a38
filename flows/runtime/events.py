"""Emit what happened: as a Prefect event, which automations act on, and as one line of JSON in the log.

The line is logged by ``notellm2.events``, so it is in the run's log too; `NOTELLM2_EVENTS_LOG` names a file that it is
appended to, or ``-`` for standard output. Where Prefect's server is the embedded one only the line is written: that
server ends with the flow, and nobody reads it.

Names, and what an alert means: docs/reference/events.md.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import uuid
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from notellm2.artifacts import digest_json
from notellm2.promotion.waiting import expiring, short_time

if TYPE_CHECKING:
    from prefect import Flow
    from prefect.client.schemas.objects import FlowRun, State

    from flows.runtime.job import Job
    from notellm2.registry.decisions import Entry

LOG_VARIABLE = "NOTELLM2_EVENTS_LOG"
FOLDER = "_events"
"""In the store: a file for each event that is emitted once."""
_RECENT = timedelta(days=7)
_MESSAGE_CHARS = 2000
_logger = logging.getLogger("notellm2.events")


class Event(StrEnum):
    """Names of events; beside them each flow has ``notellm2.<flow>.failed``."""

    DATA_VERSION = "notellm2.data.version"
    DATA_REFUSED = "notellm2.data.quality-failed"
    GATE_REFUSED = "notellm2.gate.refused"
    APPROVAL_WAITING = "notellm2.approval.waiting"
    APPROVAL_EXPIRING = "notellm2.approval.expiring"
    APPROVAL_EXPIRED = "notellm2.approval.expired"
    MODEL_WAITING = "notellm2.model.waiting"
    MODEL_REFUSED = "notellm2.model.refused"
    MODEL_STALE = "notellm2.model.stale"
    PROMOTED = "notellm2.model.promoted"
    ROLLED_BACK = "notellm2.model.rolled-back"
    MENDED = "notellm2.model.mended"
    REFRESHED = "notellm2.index.refreshed"


GOOD = frozenset({Event.DATA_VERSION, Event.PROMOTED, Event.REFRESHED})
"""Events after which nobody need do anything; the others are logged as warnings."""

_OF_LEDGER = {
    "promote": Event.PROMOTED,
    "rollback": Event.ROLLED_BACK,
    "mend": Event.MENDED,
    "refresh": Event.REFRESHED,
    "expire": Event.APPROVAL_EXPIRED,
    "refuse": Event.MODEL_REFUSED,
}
_explained: set[str] = set()
"""Ids of this process's flow runs of whose failure an event of its own has told."""


def emit(
    name: str,
    kind: str,
    which: str,
    payload: Mapping[str, Any],
    *,
    related: Mapping[str, str] | None = None,
    number: uuid.UUID | None = None,
) -> None:
    """Emit an event to Prefect and to the log.

    Args:
        name: of the event.
        kind: of the thing it is about: ``data``, ``model``, ``index`` or ``flow``.
        which: its name; the resource is ``notellm2.<kind>.<which>``.
        payload: what is known, as JSON.
        related: role to resource of what else it concerns.
        number: id of the event, where the same one might be emitted again; None: a new one.
    """
    from prefect.runtime import flow_run
    from prefect.settings import get_current_settings
    from prefect.utilities.urls import url_for

    number, run = number or uuid.uuid4(), flow_run.get_id()
    facts = {**payload, "flow_run": run, "flow_run_url": run and url_for("flow-run", obj_id=run)}
    facts = {key: value for key, value in facts.items() if value is not None}
    resource = {"prefect.resource.id": f"notellm2.{kind}.{which}", "prefect.resource.name": which}
    others = [{"prefect.resource.id": one, "prefect.resource.role": role} for role, one in (related or {}).items()]
    line = {
        "at": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "event": name,
        "id": str(number),
        "resource": resource["prefect.resource.id"],
        "related": related or {},
        **facts,
    }
    _write(json.dumps(line, ensure_ascii=False), logging.INFO if name in GOOD else logging.WARNING)
    if get_current_settings().api.url is not None:
        from prefect.events import emit_event

        # For people: when it happened, which may be before it is told.
        when = short_time(str(facts.get("changed_at", line["at"])))
        emit_event(event=name, resource=resource, related=others, payload={**facts, "time": when}, id=number)


def emit_once(
    job: Job, key: Sequence[str | None], name: Event, kind: str, which: str, payload: Mapping[str, Any]
) -> bool:
    """Emit an event unless the same was emitted before; the store remembers, so a run that comes back is silent.

    Returns:
        Whether it was emitted now.
    """
    digest = digest_json([name, *key])
    claimed = _claim(_mark(job, digest))
    if claimed:
        try:
            emit(name, kind, which, payload, number=uuid.UUID(digest[:32]))
        except BaseException:
            _mark(job, digest).unlink(missing_ok=True)  # A stage that is tried again emits it then.
            raise
    return claimed


def emit_changes(job: Job, entries: Sequence[Entry]) -> None:
    """Emit each line of the ledger of the last week that has no event yet: changes of what is in use, and decisions.

    So what a person did at a terminal has one too, from the next flow that looks.

    Args:
        job: whose store remembers what was emitted.
        entries: the ledger.
    """
    horizon = datetime.now(UTC) - _RECENT
    for entry in entries:
        if datetime.fromisoformat(entry.at) > horizon:
            facts = {
                "version": entry.to.version,
                "publication": entry.to.publication,
                "over": entry.over.version if entry.moved or entry.action == "mend" else None,
                "bundle": entry.bundle,
                "by": entry.by,
                "reason": entry.reason,
                "verdict": entry.verdict or None,
                "changed_at": entry.at,
                "ledger": entry.sequence,
                "champion": None if entry.moved else entry.compared_with,
                "until": entry.until,
                "link": entry.link,
                "page": _page(job, entry),
            }
            emit_once(job, [entry.id], _of_ledger(entry), "model", entry.model, facts)
    for entry in expiring(entries, datetime.now(UTC)):
        facts = {"version": entry.to.version, "verdict": entry.verdict, "until": entry.until, "link": entry.link}
        emit_once(job, [entry.id], Event.APPROVAL_EXPIRING, "model", entry.model, facts)


def _page(job: Job, entry: Entry) -> str:
    """Address of the page of a line's version, as people open it."""
    from notellm2.registry.tracking import Tracking

    return Tracking.at(job.workspace, job.recipe.registry).version_page(str(entry.to.version), entry.model)


def _of_ledger(entry: Entry) -> Event:
    if entry.action == "wait":
        return Event.APPROVAL_WAITING if entry.mode == "approval" else Event.MODEL_WAITING
    return _OF_LEDGER[entry.action]


def explains_failure() -> None:
    """Say that an event has told why this run is about to fail: that it failed is no second alert then."""
    from prefect.runtime import flow_run

    if (number := flow_run.get_id()) is not None:
        _explained.add(str(number))


def emit_failure(flow: Flow[..., Any], flow_run: FlowRun, state: State[Any]) -> None:
    """Emit that a flow failed, unless an event has said why it did: a hook that Prefect calls."""
    if str(flow_run.id) in _explained:
        return
    settings = flow_run.parameters.get("settings")
    recipe = settings.get("recipe") if isinstance(settings, dict) else getattr(settings, "recipe", None)
    facts = {"message": (state.message or "")[:_MESSAGE_CHARS], "run_name": flow_run.name, "recipe": recipe}
    emit(f"notellm2.{flow.name}.failed", "flow", flow.name, facts)


def remove_old_marks(job: Job, older_than_s: float, now: float, *, dry_run: bool) -> list[Path]:
    """Remove marks of events that are so old; returns them."""
    old = [p for p in (job.workspace.root / FOLDER).glob("*") if p.stat().st_mtime < now - older_than_s]
    for path in [] if dry_run else old:
        path.unlink()
    return old


def _write(line: str, level: int) -> None:
    _logger.log(level, "%s", line)
    where = os.environ.get(LOG_VARIABLE)
    if where == "-":
        sys.stdout.write(line + "\n")
        sys.stdout.flush()
    elif where:
        # One write to a file opened for appending: lines of several processes do not mix.
        with Path(where).open("ab", buffering=0) as file:
            file.write(line.encode() + b"\n")


def _mark(job: Job, digest: str) -> Path:
    return job.workspace.root / FOLDER / digest[:32]


def _claim(mark: Path) -> bool:
    mark.parent.mkdir(parents=True, exist_ok=True)
    try:
        mark.touch(exist_ok=False)
    except FileExistsError:
        return False
    return True
