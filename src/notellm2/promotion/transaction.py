"""Promotion is one transaction: the alias `champion` and the published pointer move together, or not at all.

The steps are those of `Step`, in that order, and a process may die before any of them. The next start then settles
what it left by one rule: *the pointer decides*, because it is what readers follow. Where it names the new pair, the
change is finished; where it does not, it is undone. So alias and pointer name one pair again, the old or the new.

The same transaction rolls back, and publishes another index of the champion. Nobody waits for a person under the
lease: it is held for the seconds from the intent to its end.
"""

from __future__ import annotations

import contextlib
import getpass
import logging
import os
import socket
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict

from notellm2.artifacts import Artifact
from notellm2.errors import InputError
from notellm2.promotion.index_retention import earlier_pair, names_to_keep
from notellm2.promotion.journal import Held, LeaseLost, hold, read_intent
from notellm2.promotion.ledger import Ledger
from notellm2.publication import publish
from notellm2.publication.location import Location
from notellm2.publication.pointer import NothingPublished, Publication, PublicationDamaged, read_pointer
from notellm2.registry import names, versions
from notellm2.registry.decisions import Action, Entry, Mode, Pair
from notellm2.registry.identities import Forbidden
from notellm2.registry.tracking import Tracking

logger = logging.getLogger(__name__)


class Step(StrEnum):
    """The transaction, in order. Tests kill a process before each of them."""

    LEASE = "take the lease"
    RECOVER = "finish or undo what a killed process began"
    INTENT = "write the intent"
    CHECK = "check that the champion is the one compared with"
    ALIAS = "set the alias"
    POINTER = "move the pointer"
    LEDGER = "append to the ledger"
    TAGS = "tag the version"
    CLEAR = "clear the intent"
    RETAIN = "remove what no rollback can reach"
    RELEASE = "give the lease back"


class Refused(RuntimeError):
    """The promotion was refused, and nothing was changed; the message says why and what to do."""


class ChampionMoved(Refused):
    """The champion is not the one the candidate was compared with."""


class Why(BaseModel):
    """Who decided, and why.

    Attributes:
        by: a person, or the process that acted by itself.
        reason: in words.
        mode: how it was decided.
        verdict: the gate's sentence; empty where no gate was asked.
        compared_with: the champion the gate compared with; None: there was none.
    """

    model_config = ConfigDict(frozen=True)

    by: str
    reason: str
    mode: Mode
    verdict: str = ""
    compared_with: str | None = None


class Outcome(NamedTuple):
    """What is in use after a call.

    Attributes:
        publication: what the pointer names.
        entry: the ledger's line about it; None where it was in use already and nothing was written.
    """

    publication: Publication
    entry: Entry | None


def _carry_on(step: Step) -> None:
    del step


@dataclass(frozen=True)
class Promoter:
    """Moves alias and pointer of one registered model and one published place.

    Attributes:
        tracking: the registry.
        location: of the pointer.
        keep: published pairs kept for rollback; None: none is removed.
        lease_s: seconds a holder that says nothing keeps the others out.
        wait_s: seconds to wait for another promotion.
        on_step: called before each step.
    """

    tracking: Tracking
    location: Location
    keep: int | None = None
    lease_s: float = 60.0
    wait_s: float = 90.0
    on_step: Callable[[Step], None] = _carry_on

    def promote(
        self,
        version: str,
        index: Artifact,
        *,
        expected: str | None,
        data_md5: str,
        why: Why,
        over: str | None = None,
    ) -> Outcome:
        """Make a version champion and its index the published one. What is in use already stays as it is.

        Args:
            version: number of the registered version.
            index: artifact "index" of its vectors.
            expected: the champion it was compared with; None: there was none. Not looked at where the version is
                champion already and only its index is another one.
            data_md5: data version of the indexed notes.
            why: for the record.
            over: the published index that this one was made to follow; None: whichever there is.

        Raises:
            Refused: the champion, or the published index, is another one than expected; nothing was changed.
            LeaseTaken, LeaseLost: another promotion is under way; nothing was changed by this one.
            Forbidden: the tracking server does not let this process promote; nothing was changed.
            InputError: no such version; an index of another bundle or data version; a damaged pointer or ledger.
            PublishFailed: the place refused (a full disk); what was in use is in use.
        """
        target = versions.get_version(self.tracking, version)
        # Copying may take long, moves nothing and may be repeated: so before the lease, not under it.
        publication = publish.prepare(
            self.location,
            index,
            model_name=target.name,
            model_version=target.version,
            data_md5=data_md5,
            bundle=target.bundle,
        )
        with self._held(f"promoting version {version}") as held:
            self._recover(held, self._pointer())
            pointer, present = self._present()
            if pointer is not None and present == Pair(version=version, publication=publication.version):
                return Outcome(pointer, None)
            if over is not None and present.publication != over:
                raise ChampionMoved(
                    f"the index was made to follow {over}, but by now {present.publication or 'nothing'} is published; "
                    "nothing was changed: run it again, from what is published now"
                )
            action: Action = "refresh" if present.version == version else "promote"
            entry = self._entry(action, publication, present, why)
            moved = self._change(held, entry, publication, version if action == "refresh" else expected)
            self.on_step(Step.RETAIN)
            self._retain(held)
            self.on_step(Step.RELEASE)
        return moved

    def rollback(self, why: Why, *, to: str | None = None) -> Outcome:
        """Put alias and pointer back to an earlier pair; nothing is trained, embedded or copied.

        Args:
            why: for the record.
            to: a version number, or the name of a published index; None: the pair before the present one. Doing it
                again goes one further back.

        Raises:
            InputError: there is nothing to go back to, or no such pair is kept; lists those that are.
            LeaseTaken, LeaseLost, PublishFailed, Forbidden: as `promote`.
        """
        with self._held("rolling back") as held:
            self._recover(held, self._pointer(damaged_is_none=True))
            pointer, present = self._present(damaged_is_none=True)
            entries, stored = Ledger(self.location).entries(), publish.versions(self.location)
            publication = earlier_pair(self.tracking, entries, stored, present, to)
            if pointer is not None and pointer.version == publication.version:
                raise InputError(
                    f"version {publication.model_version} with index {publication.version} is in use already; see "
                    "`notellm2 history`"
                )
            moved = self._change(held, self._entry("rollback", publication, present, why), publication, present.version)
            self.on_step(Step.RELEASE)
        return moved

    def recover(self) -> None:
        """Finish or undo what a killed promotion left, so that alias and pointer name one pair; often nothing.

        A process that is no promoter, a training say, leaves it to the next that is: its own promotion, if it comes to
        one, is refused all the same.

        Raises:
            LeaseTaken: another promotion is under way.
            InputError: pointer, journal or ledger are damaged.
        """
        pointer = self._pointer()
        if read_intent(self.location) is None and not self._strayed(pointer):
            return
        with self._held("settling what was left") as held:
            try:
                self._recover(held, self._pointer())
            except Forbidden as error:
                logger.warning("what a promotion left stays until a promoter's next one settles it: %s", error)
            self.on_step(Step.RELEASE)

    @contextlib.contextmanager
    def _held(self, purpose: str) -> Iterator[Held]:
        self.on_step(Step.LEASE)
        with hold(self.location, purpose, lease_s=self.lease_s, wait_s=self.wait_s) as held:
            self.on_step(Step.RECOVER)
            yield held

    def _change(self, held: Held, entry: Entry, publication: Publication, expected: str | None) -> Outcome:
        """From the intent to its end."""
        # A ledger that cannot be added to, and a server that does not let us, are reasons not to begin.
        Ledger(self.location).entries()
        versions.begin_change(self.tracking, entry)
        self.on_step(Step.INTENT)
        held.record(entry)
        try:
            self.on_step(Step.CHECK)
            try:
                self._check(entry, publication, expected)
            except Exception:
                held.record(None)
                raise
            self.on_step(Step.ALIAS)
            held.renew()
            versions.move_alias(self.tracking, names.CHAMPION, entry.to.version)
            self.on_step(Step.POINTER)
            held.renew()
            moved = publish.point(self.location, publication, expected=entry.over.publication)
            written = self._finish(held, entry)
        except BaseException:
            self._settle(held)
            raise
        logger.info("%s: version %s with index %s is in use", entry.action, entry.to.version, entry.to.publication)
        return Outcome(moved, written)

    def _check(self, entry: Entry, publication: Publication, expected: str | None) -> None:
        champion = versions.alias_version(self.tracking, names.CHAMPION)
        if champion != expected or champion != entry.over.version:
            raise ChampionMoved(
                f"version {entry.to.version} was compared with {_named(expected)}, but by now there is "
                f"{_named(champion)}; nothing was changed: retrain to compare with the present champion, or "
                f"`notellm2 promote {entry.to.version} --expect-champion {champion or 'none'}` if you know it is better"
            )
        problems = self.location.problems(publication.folder, publication.files)
        if problems:
            raise PublicationDamaged(
                f"the index {publication.version} is damaged, nothing was changed: " + "; ".join(problems)
            )

    def _finish(self, held: Held, intent: Entry) -> Entry:
        """What follows once the pointer has moved; the same again does no harm."""
        self.on_step(Step.LEDGER)
        written = Ledger(self.location).append(intent)
        self.on_step(Step.TAGS)
        versions.record_change(self.tracking, written, self.location)
        self.on_step(Step.CLEAR)
        held.record(None)
        return written

    def _settle(self, held: Held) -> None:
        """After an error in this process: the same rule as after a kill, at once."""
        try:
            with contextlib.suppress(OSError):  # A full disk: the lease was ours a moment ago.
                held.renew()
            self._recover(held, self._pointer(damaged_is_none=True))
        except LeaseLost:
            self._settle_late()
        except Exception as error:
            logger.warning("the next start settles what was begun here, this one could not: %s", error)

    def _settle_late(self) -> None:
        """What was begun is the new holder's to settle, who may be done: what was moved since is put right here."""
        try:
            self.recover()
        except Exception as error:
            logger.warning("the next start settles what was moved here after the lease had expired: %s", error)

    def _recover(self, held: Held, pointer: Publication | None) -> None:
        """The rule: the pointer decides."""
        intent = held.intent
        if intent is None:
            self._mend(pointer)
        elif pointer is not None and pointer.version == intent.to.publication:
            logger.warning("finishing: %s of version %s (%s)", intent.action, intent.to.version, intent.id)
            versions.begin_change(self.tracking, intent)
            self.on_step(Step.ALIAS)
            versions.move_alias(self.tracking, names.CHAMPION, intent.to.version)
            self._finish(held, intent.model_copy(update={"recovered": True}))
        else:
            logger.warning("undoing: %s of version %s (%s)", intent.action, intent.to.version, intent.id)
            self.on_step(Step.ALIAS)
            versions.move_alias(self.tracking, names.CHAMPION, intent.over.version)
            self._mend(pointer)
            self.on_step(Step.CLEAR)
            held.record(None)

    def _mend(self, pointer: Publication | None) -> None:
        """Put an alias back that left the pointer: moved by hand, or by a holder that slept past its lease."""
        if pointer is None or not self._strayed(pointer):
            return
        alias = versions.alias_version(self.tracking, names.CHAMPION)
        reason = (
            f"the alias named {alias or 'no version'}, the pointer names {pointer.model_version}: readers follow it"
        )
        why = Why(by=this_actor(), reason=reason, mode="automatic")
        entry = self._entry("mend", pointer, Pair(version=alias, publication=pointer.version), why)
        versions.move_alias(self.tracking, names.CHAMPION, pointer.model_version)
        versions.record_change(self.tracking, Ledger(self.location).append(entry), self.location)
        logger.warning("%s; put back", reason)

    def _strayed(self, pointer: Publication | None) -> bool:
        """Whether the alias is not where the pointer is, though the registry has the version that the pointer names."""
        if pointer is None or versions.alias_version(self.tracking, names.CHAMPION) == pointer.model_version:
            return False
        # In a registry that was lost and begun anew, versions are others.
        return versions.with_bundle(self.tracking, pointer.model_version, pointer.bundle) is not None

    def _pointer(self, *, damaged_is_none: bool = False) -> Publication | None:
        try:
            pointer = read_pointer(self.location)
        except NothingPublished:
            return None
        except PublicationDamaged as error:
            if damaged_is_none:
                return None
            raise PublicationDamaged(f"{error}, or `notellm2 rollback --to VERSION` writes it anew") from None
        if pointer.model_name != self.tracking.model_name:
            raise InputError(
                f"{self.location} publishes model {pointer.model_name!r}, asked to publish there "
                f"{self.tracking.model_name!r}: readers would get other vectors at the same address; use another store"
            )
        return pointer

    def _present(self, *, damaged_is_none: bool = False) -> tuple[Publication | None, Pair]:
        pointer = self._pointer(damaged_is_none=damaged_is_none)
        champion = versions.alias_version(self.tracking, names.CHAMPION)
        return pointer, Pair(version=champion, publication=None if pointer is None else pointer.version)

    def _entry(self, action: Action, publication: Publication, over: Pair, why: Why) -> Entry:
        return Entry(
            id=uuid.uuid4().hex,
            at=datetime.now(UTC).isoformat(timespec="seconds"),
            action=action,
            model=publication.model_name,
            to=Pair(version=publication.model_version, publication=publication.version),
            over=over,
            bundle=publication.bundle,
            **why.model_dump(),
        )

    def _retain(self, held: Held) -> None:
        """Remove what no rollback can reach; the promotion is done, so an index too many is a warning."""
        if self.keep is None:
            return
        try:
            held.renew()
            entries = Ledger(self.location).entries()
            aliased = {versions.alias_version(self.tracking, alias) for alias in (names.CHAMPION, names.CHALLENGER)}
            kept = names_to_keep(entries, publish.versions(self.location), aliased, keep=self.keep)
            for name in publish.retain(self.location, kept):
                logger.info("removed the published index %s", name)
        except Exception as error:
            logger.warning("old published indexes stay until the next promotion: %s", error)


def this_actor() -> str:
    """Who acts, for the record: the system's user and host."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # A container whose user has no name.
        user = f"uid-{os.getuid()}"
    return f"{user}@{socket.gethostname()}"


def _named(version: str | None) -> str:
    return "no champion" if version is None else f"champion version {version}"
