"""Carry out what a promoter asks for by moving the alias `champion` in MLflow's page, or put the alias back, aloud.

MLflow takes a new alias from whoever may set it; readers follow the pointer. So an alias that is not where the pointer
is asks for a version. The same transaction answers it: a version that was in use before is rolled back to, another one
is promoted if the gate passed it against today's champion. Everything else is put back at once, with the reason and the
command that helps. What the alias names last is what is asked for; a change under way comes first.
"""

from __future__ import annotations

import logging
from typing import NamedTuple

from notellm2.errors import InputError
from notellm2.promotion.completion import Complete, Workshop, promote_complete
from notellm2.promotion.index_retention import Destination, earlier_pair
from notellm2.promotion.journal import read_intent
from notellm2.promotion.ledger import Ledger
from notellm2.promotion.recovery import put_back, recover
from notellm2.promotion.release import Outcome, Refused, Release, Why
from notellm2.promotion.transaction import Promoter
from notellm2.publication import publish
from notellm2.publication.pointer import Publication
from notellm2.publication.publish import PointerMoved, PublishFailed
from notellm2.registry import names, versions
from notellm2.registry.decided import asked_by
from notellm2.registry.identities import Forbidden
from notellm2.registry.versions import Version

logger = logging.getLogger(__name__)


class Answer(NamedTuple):
    """What became of a request.

    Attributes:
        version: that was asked for; None: the alias was removed.
        done: whether it is in use now.
        reason: why, in a sentence.
    """

    version: str | None
    done: bool
    reason: str


class _Unfit(Exception):
    """The version cannot be brought into use; the message says why, and what helps."""


def asked_version(release: Release, pointer: Publication | None) -> tuple[bool, str | None]:
    """Look whether the alias asks for something, and for which version; None: for none."""
    alias = versions.alias_version(release.tracking, names.CHAMPION)
    if pointer is None:
        return alias is not None, alias
    if alias == pointer.model_version:
        return False, alias
    # The version in use was deleted: its alias went with it, and cannot be put back.
    return alias is not None or release.alias_strayed(pointer), alias


def follow(promoter: Promoter, workshop: Workshop) -> Answer | None:
    """Settle what a killed promotion left, then carry out what the alias asks for, or put it back.

    Returns:
        What became of it; None where nothing was asked for.

    Raises:
        LeaseTaken, LeaseLost: another change is under way; the next call looks again.
        Forbidden: the server does not take this process for a promoter.
        InputError: pointer, journal or ledger are damaged.
    """
    if read_intent(promoter.location) is not None:
        recover(promoter)
    pointer = promoter.pointer()
    asked, version = asked_version(promoter, pointer)
    if not asked:
        return None
    by = asked_by(promoter.tracking, version)
    try:
        done = _carry_out(promoter, pointer, version, by, workshop)
    except Forbidden:
        raise
    except (_Unfit, Refused, PublishFailed, PointerMoved, InputError) as why:
        reason = f"{by} set the alias {names.CHAMPION} on version {version}: {why}"
        if version is None:
            reason = f"{by} removed the alias {names.CHAMPION}: {why}"
        put_back(promoter, version, reason)
        logger.warning("put the alias back: %s", reason)
        return Answer(version, False, reason)
    return Answer(version, True, f"{by} set the alias: index {done.publication.version}")


def _carry_out(
    promoter: Promoter, pointer: Publication | None, version: str | None, by: str, workshop: Workshop
) -> Outcome:
    if version is None:
        in_use = "none" if pointer is None else pointer.model_version
        raise _Unfit(f"version {in_use} stays in use; `notellm2 rollback` goes back to the version before")
    candidate = versions.get_version(promoter.tracking, version)
    why = Why(
        by=by,
        reason="asked for by the alias in MLflow",
        mode="manual",
        verdict=candidate.verdict,
        compared_with=candidate.compared_with,
        link=promoter.tracking.version_page(version),
    )
    if candidate.promoted_at is not None and _is_kept(promoter, pointer, version):
        return promoter.rollback(why, to=version)
    return promote_complete(
        promoter, version, _own_index(candidate, pointer, workshop), candidate.compared_with, why, workshop
    )


def _is_kept(promoter: Promoter, pointer: Publication | None, version: str) -> bool:
    """Whether a rollback can go to a version."""
    _, present = promoter.present(damaged_is_none=True)
    present = present.model_copy(update={"version": pointer and pointer.model_version})
    entries, stored = Ledger(promoter.location).entries(), publish.versions(promoter.location)
    try:
        earlier_pair(promoter.tracking, entries, stored, present, Destination(version))
    except InputError:
        return False
    return True


def _own_index(candidate: Version, pointer: Publication | None, workshop: Workshop) -> Complete:
    """The index of a version that may be promoted.

    Raises:
        _Unfit: it may not.
    """
    number, in_use = candidate.version, None if pointer is None else pointer.model_version
    if candidate.gate != "passed":
        raise _Unfit(
            f"the gate refused it ({candidate.verdict}); no command passes a refused version, train another one"
            if candidate.gate == "refused"
            else "no gate has judged it; run its retraining to the end (`notellm2 retrain`)"
        )
    if candidate.compared_with != in_use:
        raise _Unfit(
            f"the gate compared it with version {candidate.compared_with or 'none'}, and {in_use or 'none'} is in use "
            f"by now; run its retraining again, or `notellm2 promote {number} --expect-champion {in_use or 'none'}` if "
            "you know that it is better"
        )
    key = candidate.artifacts.get("index")
    index = None if key is None else workshop.store.find("index", key)
    if index is None:
        raise _Unfit(f"its index is not in {workshop.store.root}; run its retraining again, it builds one")
    return Complete(index, candidate.data_md5, added=0)
