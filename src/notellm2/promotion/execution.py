"""One change of what is in use, carried out under the lease: from the intent to its end."""

from __future__ import annotations

import logging

from notellm2.promotion.journal import Held
from notellm2.promotion.ledger import Ledger
from notellm2.promotion.recovery import finish, settle_error
from notellm2.promotion.release import ChampionMoved, Outcome, Release, Step
from notellm2.publication import publish
from notellm2.publication.pointer import Publication, PublicationDamaged
from notellm2.registry import names, versions
from notellm2.registry.decisions import Entry

logger = logging.getLogger(__name__)


def execute(release: Release, held: Held, entry: Entry, publication: Publication, expected: str | None) -> Outcome:
    """Carry out one change: intent, check, alias, pointer, record. After an error it is finished or undone."""
    # A ledger that cannot be added to, and a server that does not let us, are reasons not to begin.
    Ledger(release.location).entries()
    versions.begin_change(release.tracking, entry)
    release.on_step(Step.INTENT)
    held.record(entry)
    try:
        release.on_step(Step.CHECK)
        try:
            _check(release, entry, publication, expected)
        except Exception:
            held.record(None)
            raise
        release.on_step(Step.ALIAS)
        held.renew()
        versions.move_alias(release.tracking, names.CHAMPION, entry.to.version)
        release.on_step(Step.POINTER)
        held.renew()
        moved = publish.point(release.location, publication, expected=entry.over.publication)
        written = finish(release, held, entry)
    except BaseException as error:
        # An alias that somebody has moved asks for a version; whoever follows it answers.
        settle_error(release, held, mend=entry.link is None and not isinstance(error, ChampionMoved))
        raise
    logger.info("%s: version %s with index %s is in use", entry.action, entry.to.version, entry.to.publication)
    return Outcome(moved, written)


def _check(release: Release, entry: Entry, publication: Publication, expected: str | None) -> None:
    champion = versions.alias_version(release.tracking, names.CHAMPION)
    if entry.link is not None:
        if champion != entry.to.version:
            raise ChampionMoved(
                f"the alias {names.CHAMPION} names version {champion or 'none'} by now, not {entry.to.version} any "
                "more: somebody has moved it again; nothing was changed"
            )
        champion = entry.over.version  # The alias only asks; what is in use is what the pointer names.
    if champion != expected or champion != entry.over.version:
        raise ChampionMoved(
            f"version {entry.to.version} was compared with {_named(expected)}, but by now there is "
            f"{_named(champion)}; nothing was changed: retrain to compare with the present champion, or "
            f"`notellm2 promote {entry.to.version} --expect-champion {champion or 'none'}` if you know it is better"
        )
    problems = release.location.problems(publication.folder, publication.files)
    if problems:
        raise PublicationDamaged(
            f"the index {publication.version} is damaged, nothing was changed: " + "; ".join(problems)
        )


def _named(version: str | None) -> str:
    return "no champion" if version is None else f"champion version {version}"
