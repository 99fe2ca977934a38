"""Record what is decided about a version without moving anything: that it waits for a person, expired, or was refused.

Each is a line of the ledger and one tag of the version, so that nobody need have been there to know. Nothing is held
meanwhile: a promotion's own check finds a champion that changed.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from notellm2.artifacts import digest_json
from notellm2.promotion.ledger import Ledger, waits
from notellm2.promotion.release import Release, Why
from notellm2.registry.decided import record_decision
from notellm2.registry.decisions import Action, Entry, Pair
from notellm2.registry.versions import describe_change

_SOON = 0.25
"""A wait expires soon when less than this share of its time is left."""
_SHORT = timedelta(hours=1)
"""A wait that is not longer than this needs no reminder."""


@dataclass(frozen=True)
class Notice:
    """What a line says of a version beside who decided and why.

    Attributes:
        version: its number.
        bundle: digest of its model bundle.
        key: makes the same notice twice one line; None: each is a line of its own.
        until: when a wait expires, ISO 8601, UTC; None: it does not.
        link: address of the page where a person decides.
        flow_run: id of the Prefect flow run that waits.
    """

    version: str
    bundle: str
    key: Sequence[str | int | None] | None = None
    until: str | None = None
    link: str | None = None
    flow_run: str | None = None


def record(release: Release, action: Action, notice: Notice, why: Why) -> tuple[Entry, bool]:
    """Add a line that moves nothing to the ledger, and tag the version with it; done again, it changes nothing.

    Args:
        release: of the version.
        action: wait, expire or refuse.
        notice: about what.
        why: who decided, and why.

    Returns:
        The line, and whether it is a new one.

    Raises:
        InputError: pointer or ledger are damaged.
        OSError: the published place refused; nothing was written.
    """
    ledger = Ledger(release.location)
    _, present = release.present(damaged_is_none=True)
    entry = Entry(
        id=uuid.uuid4().hex if notice.key is None else digest_json([action, notice.version, *notice.key])[:32],
        at=datetime.now(UTC).isoformat(timespec="seconds"),
        action=action,
        model=release.tracking.model_name,
        to=Pair(version=notice.version, publication=None),
        over=present,
        bundle=notice.bundle,
        until=notice.until,
        flow_run=notice.flow_run,
        **why.model_copy(update={"link": notice.link}).model_dump(),
    )
    known = {one.id for one in ledger.entries()}
    written = ledger.append(entry)
    record_decision(release.tracking, notice.version, said(written))
    describe_change(release.tracking, written)
    return written, entry.id not in known


def said(entry: Entry) -> str:
    """Say in a sentence what a line is about that moves nothing."""
    at = short_time(entry.at)
    if entry.action == "wait":
        until = f", until {short_time(entry.until)}" if entry.until else ""
        where = f" on {entry.link}" if entry.mode == "approval" and entry.link else ""
        return f"waits for a person since {at}{until}: decide{where or f' with {command(entry)}'}"
    if entry.action == "expire":
        return f"nobody decided by {at}: {entry.reason}"
    return f"refused by {entry.by} at {at}: {entry.reason}"


def command(entry: Entry) -> str:
    """Name the command that promotes the version of a line all the same."""
    return f"`notellm2 promote {entry.to.version}`"


def short_time(iso: str) -> str:
    """Write a time of the ledger for people: ``2026-11-24 10:00 UTC``."""
    return datetime.fromisoformat(iso).astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC")


def unsettled(entries: Sequence[Entry]) -> tuple[Entry, ...]:
    """Find the waits for a form of Prefect's that no decision has followed, whatever came into use since.

    Their flow runs may have ended: nobody answered in time, or somebody cancelled them.
    """
    open_: dict[str | None, Entry] = {}
    for entry in entries:
        if entry.action == "wait" and entry.flow_run is not None:
            open_[entry.to.version] = entry
        elif entry.action in ("promote", "expire", "refuse"):
            open_.pop(entry.to.version, None)
    return tuple(open_.values())


def expiring(entries: Sequence[Entry], now: datetime) -> tuple[Entry, ...]:
    """Find the waits that expire soon, and have not yet."""
    soon = []
    for entry in waits(entries):
        if entry.until is None:
            continue
        begun, end = datetime.fromisoformat(entry.at), datetime.fromisoformat(entry.until)
        if end - begun > _SHORT and end - (end - begun) * _SOON <= now < end:
            soon.append(entry)
    return tuple(soon)
