"""What follows a change that did not end: it is finished or undone, so that alias and pointer name one pair again.

One rule: *the pointer decides*, because it is what readers follow. Where it names the new pair the change is finished,
else undone. The same rule serves a killed process, an error in this one, and a holder that slept past its lease.
"""

from __future__ import annotations

import contextlib
import logging

from notellm2.promotion.journal import Held, LeaseLost, read_intent
from notellm2.promotion.ledger import Ledger
from notellm2.promotion.release import Release, Step, Why, this_actor
from notellm2.publication.pointer import Publication
from notellm2.registry import names, versions
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


def settle(release: Release, held: Held, pointer: Publication | None) -> None:
    """Finish the recorded change if the pointer names its index, else undo it; put a strayed alias back."""
    intent = held.intent
    if intent is None:
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
        versions.move_alias(release.tracking, names.CHAMPION, intent.over.version)
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


def settle_error(release: Release, held: Held) -> None:
    """Finish or undo a change that failed in this process, by the same rule as after a kill."""
    try:
        with contextlib.suppress(OSError):  # A full disk: the lease was ours a moment ago.
            held.renew()
        settle(release, held, release.pointer(damaged_is_none=True))
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


def _mend(release: Release, pointer: Publication | None) -> None:
    """Put an alias back that left the pointer: moved by hand, or by a holder that slept past its lease."""
    if pointer is None or not release.alias_strayed(pointer):
        return
    alias = versions.alias_version(release.tracking, names.CHAMPION)
    reason = f"the alias named {alias or 'no version'}, the pointer names {pointer.model_version}: readers follow it"
    why = Why(by=this_actor(), reason=reason, mode="automatic")
    entry = release.entry("mend", pointer, Pair(version=alias, publication=pointer.version), why)
    versions.move_alias(release.tracking, names.CHAMPION, pointer.model_version)
    written = Ledger(release.location).append(entry)
    versions.record_change(release.tracking, written, release.location)
    versions.describe_change(release.tracking, written)
    logger.warning("%s; put back", reason)
