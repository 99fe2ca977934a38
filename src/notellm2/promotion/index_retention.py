"""Which published indexes stay, and which of them a rollback goes to."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from notellm2.errors import InputError
from notellm2.promotion.ledger import pairs_in_use
from notellm2.publication.pointer import Publication
from notellm2.registry.decisions import Entry, Pair
from notellm2.registry.tracking import Tracking
from notellm2.registry.versions import with_bundle


def names_to_keep(
    entries: Sequence[Entry], stored: Mapping[str, Publication], aliased: Collection[str | None], *, keep: int
) -> set[str]:
    """Name the publications that are not to be removed, besides the one the pointer names.

    The last `keep` that were in use; and of the last `keep` *versions* that were in use the newest index each, so that
    an index refreshed every hour does not push every earlier model out; and the newest of each version with an alias,
    used or not: a challenger's promotion is to come.

    Args:
        entries: the ledger.
        stored: the publications there are, the last stored first.
        aliased: versions with an alias.
        keep: pairs kept, at least 1.
    """
    newest: dict[str, str] = {}
    for name, publication in stored.items():
        newest.setdefault(publication.model_version, name)
    names = {newest[version] for version in aliased if version in newest}
    recent: dict[str, str] = {}
    of_version: dict[str, str] = {}
    for entry in reversed(entries):
        if not entry.moved:
            continue  # Nothing moved; of a mended alias: what it named with that index was no pair.
        for pair in (entry.to, entry.over):
            if pair.publication is not None and pair.version is not None:
                recent.setdefault(pair.publication, pair.version)
                of_version.setdefault(pair.version, pair.publication)
    return names | set(list(recent)[:keep]) | set(list(of_version.values())[:keep])


@dataclass(frozen=True)
class Destination:
    """Where a rollback is to go.

    Attributes:
        to: a version number or a publication's name; None: back by one.
        index: whether back by one means the pair before, be it another index of the same version. Else the version
            before, with its newest index: what helps against a bad model, however often its index was refreshed.
    """

    to: str | None = None
    index: bool = False


def earlier_pair(
    tracking: Tracking,
    entries: Sequence[Entry],
    stored: Mapping[str, Publication],
    present: Pair,
    destination: Destination,
) -> Publication:
    """Find the publication that a rollback goes to.

    Args:
        tracking: the registry.
        entries: the ledger.
        stored: the publications there are, the last stored first.
        present: what is in use.
        destination: where it is to go.

    Raises:
        InputError: there is none, or its version was never champion or is another model now; lists what is kept.
    """
    names = [p.publication for p in pairs_in_use(entries) if p != present]
    before = [stored[name] for name in names if name is not None and name in stored]
    to = destination.to
    if to is None:
        # Where nothing readable is published, the pair that was in use last is the one to put back.
        any_version = destination.index or present.publication is None
        for publication in reversed(before):
            if not any_version and publication.model_version == present.version:
                continue
            if with_bundle(tracking, publication.model_version, publication.bundle):
                return publication
        if destination.index:
            raise InputError(f"there is no earlier index to go back to; {_kept(stored)}")
        raise InputError(
            "there is no earlier version to go back to (--index goes to the index before, of the same version too); "
            + _kept(stored)
        )
    # By its name; of a version the one in use last, else the one stored last.
    matches = [stored[to]] if to in stored else []
    matches += [publication for publication in (*reversed(before), *stored.values()) if publication.model_version == to]
    if not matches:
        raise InputError(f"--to {to}: no published index of that version is kept; {_kept(stored)}")
    for publication in matches:
        version = with_bundle(tracking, publication.model_version, publication.bundle)
        if version is None:
            continue
        if version.promoted_at is None:
            # It was stored for a promotion that did not come about.
            raise InputError(
                f"--to {to}: version {version.version} was never champion, so there is nothing to go back to; promote "
                f"it instead (`notellm2 promote {version.version}`); {_kept(stored)}"
            )
        return publication
    raise InputError(
        f"--to {to}: version {matches[0].model_version} is gone from the registry or is another model there by now, so "
        f"alias and index would not be one pair; {_kept(stored)}"
    )


def _kept(stored: Mapping[str, Publication]) -> str:
    kept = ", ".join(f"version {p.model_version} ({name})" for name, p in stored.items())
    return f"kept are: {kept or 'none'}; see `notellm2 history`"
