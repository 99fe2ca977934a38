"""What follows a change that did not end: it is finished or undone, so that alias and pointer name one pair again.

One rule: *the pointer decides*, because it is what readers follow. Where it names the new pair the change is finished,
else undone. The same rule serves a killed process, an error in this one, and a holder that slept past its lease.
"""

from __future__ import annotations

import contextlib
import logging
import uuid
from datetime import UTC, datetime

from notellm2.artifacts import digest_json
from notellm2.errors import InputError
from notellm2.promotion.journal import Held, LeaseLost, read_intent
from notellm2.promotion.ledger import Ledger
from notellm2.promotion.release import Release, Step, Why, this_actor
from notellm2.publication.pointer import Publication
from notellm2.registry import names, versions
from notellm2.registry.decided import record_decision
from notellm2.registry.decisions import Entry, Pair
from notellm2.registry.identities import Forbidden

logger = logging.getLogger(__name__)


def recover(release: Release) -> None:
    """Finish or undo what a killed promotion left, so that alias and pointer name one pair; often nothing.

    A process that is no promoter, a training say, leaves it to the next that is: its own promotion, if it comes to
    one, is refused all the same.

    Raises:
        LeaseTaken: another promotion is under way.
        InputError: pointer, journal or ledger are damaged.
    """
    pointer = release.pointer()
    if read_intent(release.location) is None and not release.alias_strayed(pointer):
        return
    with release.held("settling what was left") as held:
        try:
            settle(release, held, release.pointer())
        except Forbidden as error:
            logger.warning("what a promotion left stays until a promoter's next one settles it: %s", error)
        release.on_step(Step.RELEASE)


def settle(release: Release, held: Held, pointer: Publication | None, *, mend: bool = True) -> None:
    """Finish the recorded change if the pointer names its index, else undo it; put a strayed alias back.

    Args:
        release: whose change it is.
        held: the lease.
        pointer: what readers follow.
        mend: whether an alias that is not where the pointer is is put back; not where it asks for this very change.
    """
    intent = held.intent
    if intent is not None and pointer is not None:
        alias = versions.alias_version(release.tracking, names.CHAMPION)
        if alias not in (intent.to.version, intent.over.version):
            _mend(
                release,
                pointer,
                f"version {alias or 'none'} was asked for while another change was cut short: ask again",
            )
    if intent is None:
        if mend:
            _mend(release, pointer)
    elif pointer is not None and pointer.version == intent.to.publication:
        logger.warning("finishing: %s of version %s (%s)", intent.action, intent.to.version, intent.id)
        versions.begin_change(release.tracking, intent)
        release.on_step(Step.ALIAS)
        versions.move_alias(release.tracking, names.CHAMPION, intent.to.version)
        finish(release, held, intent.model_copy(update={"recovered": True}))
    else:
        logger.warning("undoing: %s of version %s (%s)", intent.action, intent.to.version, intent.id)
        release.on_step(Step.ALIAS)
        if intent.link is not None:
            # It was asked for in MLflow: whoever asked is told.
            reason = f"bringing version {intent.to.version} into use was cut short: ask again"
            _mend(release, pointer, reason, intent)
            record_decision(release.tracking, str(intent.to.version), f"not brought into use: {reason}")
        versions.move_alias(release.tracking, names.CHAMPION, _if_there(release, intent.over.version))
        _mend(release, pointer)
        release.on_step(Step.CLEAR)
        held.record(None)


def finish(release: Release, held: Held, intent: Entry) -> Entry:
    """Record a change whose pointer has moved, in ledger and registry; done again, it changes nothing."""
    release.on_step(Step.LEDGER)
    written = Ledger(release.location).append(intent)
    release.on_step(Step.TAGS)
    versions.record_change(release.tracking, written, release.location)
    release.on_step(Step.DESCRIBE)
    versions.describe_change(release.tracking, written)
    release.on_step(Step.CLEAR)
    held.record(None)
    return written


def settle_error(release: Release, held: Held, *, mend: bool = True) -> None:
    """Finish or undo a change that failed in this process, by the same rule as after a kill."""
    try:
        with contextlib.suppress(OSError):  # A full disk: the lease was ours a moment ago.
            held.renew()
        settle(release, held, release.pointer(damaged_is_none=True), mend=mend)
    except LeaseLost:
        _settle_late(release)
    except Exception as error:
        logger.warning("the next start settles what was begun here, this one could not: %s", error)


def _settle_late(release: Release) -> None:
    """Put right what was moved after the lease was lost; the rest is the new holder's to settle."""
    try:
        recover(release)
    except Exception as error:
        logger.warning("the next start settles what was moved here after the lease had expired: %s", error)


def put_back(release: Release, version: str | None, reason: str) -> bool:
    """Put the alias back where the pointer is, and say why: on the version that it named, in the ledger and in the log.

    Args:
        release: whose alias it is.
        version: what it named, as the caller saw it; None: nothing.
        reason: in a sentence.

    Returns:
        Whether it was; not where the alias names another version by now.

    Raises:
        LeaseTaken, Forbidden, InputError: as a promotion.
    """
    with release.held(f"putting the alias back from version {version or 'none'}") as held:
        pointer = release.pointer()
        settle(release, held, pointer, mend=False)
        alias = versions.alias_version(release.tracking, names.CHAMPION)
        if alias != version or (pointer is not None and alias == pointer.model_version):
            return False
        if pointer is not None and release.alias_strayed(pointer):
            _mend(release, pointer, reason)
        else:  # There is no version that it could name.
            versions.move_alias(release.tracking, names.CHAMPION, None)
            Ledger(release.location).append(_removal(release, version, reason))
        release.on_step(Step.RELEASE)
    if version is not None:
        record_decision(release.tracking, version, f"not brought into use, the alias was put back: {reason}")
    return True


def _removal(release: Release, version: str | None, reason: str) -> Entry:
    """Make the ledger's line of an alias that named a version and names none."""
    why = Why(by=this_actor(), reason=reason, mode="automatic")
    return Entry(
        id=uuid.uuid4().hex,
        at=datetime.now(UTC).isoformat(timespec="seconds"),
        action="mend",
        model=release.tracking.model_name,
        to=Pair(version=None, publication=None),
        over=Pair(version=version, publication=None),
        bundle="",
        **why.model_dump(),
    )


def _if_there(release: Release, version: str | None) -> str | None:
    """The version, unless somebody has deleted it."""
    try:
        return version and versions.get_version(release.tracking, version).version
    except InputError:
        return None


def _mend(
    release: Release, pointer: Publication | None, because: str | None = None, change: Entry | None = None
) -> None:
    """Put an alias back that left the pointer: moved by hand, or by a holder that slept past its lease.

    Args:
        release: whose alias it is.
        pointer: what readers follow.
        because: why, where more is known.
        change: the change that was undone; its line is written once.
    """
    if pointer is None or not (change is not None or release.alias_strayed(pointer)):
        return
    alias = versions.alias_version(release.tracking, names.CHAMPION)
    strayed = change.to.version if change is not None else alias
    reason = f"the alias named {strayed or 'no version'}, the pointer names {pointer.model_version}: readers follow it"
    if because is not None:
        reason = because
    why = Why(by=this_actor(), reason=reason, mode="automatic")
    entry = release.entry("mend", pointer, Pair(version=strayed, publication=pointer.version), why)
    if change is not None:
        entry = entry.model_copy(update={"id": digest_json(["undone", change.id])[:32]})
    versions.move_alias(release.tracking, names.CHAMPION, pointer.model_version)
    written = Ledger(release.location).append(entry)
    versions.record_change(release.tracking, written, release.location)
    versions.describe_change(release.tracking, written)
    logger.warning("%s; put back", reason)
