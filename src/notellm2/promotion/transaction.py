"""Promotion is one transaction: the alias `champion` and the published pointer move together, or not at all.

The steps are those of `Step`, in that order, and a process may die before any of them. The next start then settles
what it left by one rule: *the pointer decides*, because it is what readers follow. Where it names the new pair, the
change is finished; where it does not, it is undone. So alias and pointer name one pair again, the old or the new.

The same transaction rolls back, and publishes another index of the champion. Nobody waits for a person under the
lease: it is held for the seconds from the intent to its end.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import NamedTuple

from notellm2.artifacts import Artifact
from notellm2.errors import InputError
from notellm2.promotion.execution import execute
from notellm2.promotion.index_retention import Destination, earlier_pair, names_to_keep
from notellm2.promotion.journal import Held
from notellm2.promotion.ledger import Ledger
from notellm2.promotion.recovery import recover, settle
from notellm2.promotion.release import ChampionMoved, IndexMoved, Outcome, Refused, Release, Step, Why, this_actor
from notellm2.publication import publish
from notellm2.publication.pointer import Publication
from notellm2.registry import names, versions
from notellm2.registry.decisions import Action, Pair

__all__ = ["ChampionMoved", "Outcome", "Promoter", "Refused", "Release", "RollbackPlan", "Step", "Why", "this_actor"]

logger = logging.getLogger(__name__)


class RollbackPlan(NamedTuple):
    """What a rollback would do.

    Attributes:
        publication: what readers would get.
        over: the pair in use now.
        pointer: what readers get now; None: nothing that is readable.
    """

    publication: Publication
    over: Pair
    pointer: Publication | None


@dataclass(frozen=True)
class Promoter(Release):
    """Moves alias and pointer of one registered model and one published location.

    Attributes:
        keep: published pairs kept for rollback; None: none is removed.
    """

    keep: int | None = None

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
        with self.held(f"promoting version {version}") as held:
            settle(self, held, self.pointer(), mend=why.link is None)
            pointer, present = self.present_for(version, why)
            if pointer is not None and present == Pair(version=version, publication=publication.version):
                return Outcome(pointer, None)
            if over is not None and present.publication != over:
                raise IndexMoved(
                    f"the index was made to follow {over}, but by now {present.publication or 'nothing'} is published; "
                    "nothing was changed: run it again, from what is published now"
                )
            action: Action = "refresh" if present.version == version else "promote"
            entry = self.entry(action, publication, present, why)
            moved = execute(self, held, entry, publication, version if action == "refresh" else expected)
            self.on_step(Step.RETAIN)
            self._retain(held)
            self.on_step(Step.RELEASE)
        return moved

    def plan_rollback(self, *, to: str | None = None, index: bool = False) -> RollbackPlan:
        """Say what `rollback` would do now; changes nothing and holds nothing.

        Raises:
            InputError: as `rollback`.
        """
        pointer, present = self.present(damaged_is_none=True)
        return RollbackPlan(self._destination(pointer, present, Destination(to, index)), present, pointer)

    def rollback(self, why: Why, *, to: str | None = None, index: bool = False, over: Pair | None = None) -> Outcome:
        """Put alias and pointer back to an earlier pair; nothing is trained, embedded or copied.

        Args:
            why: for the record.
            to: a version number, or the name of a published index; None: the version before the present one, with its
                newest index. Doing it again goes one further back.
            index: without `to`: go to the index before, be it one of the same version.
            over: what must be in use, as a plan showed it; None: whatever is.

        Raises:
            InputError: there is nothing to go back to, or no such pair is kept; lists those that are.
            Refused: something else than `over` is in use; nothing was changed.
            LeaseTaken, LeaseLost, PublishFailed, Forbidden: as `promote`.
        """
        with self.held("rolling back") as held:
            settle(self, held, self.pointer(damaged_is_none=True), mend=why.link is None)
            pointer, present = self.present_for(to or "", why, damaged_is_none=True)
            if over is not None and present != over:
                raise ChampionMoved(
                    f"by now version {present.version or 'none'} with index {present.publication or 'none'} is in use; "
                    "nothing was changed: look at `notellm2 status`, and decide again"
                )
            publication = self._destination(pointer, present, Destination(to, index))
            moved = execute(self, held, self.entry("rollback", publication, present, why), publication, present.version)
            self.on_step(Step.RELEASE)
        return moved

    def recover(self) -> None:
        """Finish or undo what a killed promotion left. See `recovery.recover`."""
        recover(self)

    def _destination(self, pointer: Publication | None, present: Pair, destination: Destination) -> Publication:
        entries, stored = Ledger(self.location).entries(), publish.versions(self.location)
        publication = earlier_pair(self.tracking, entries, stored, present, destination)
        if pointer is not None and pointer.version == publication.version:
            raise InputError(
                f"version {publication.model_version} with index {publication.version} is in use already; see "
                "`notellm2 history`"
            )
        return publication

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
