"""Complete an index before it is promoted: with the notes that refreshes have added since its data version.

A challenger is trained on Monday's data and promoted on Thursday. Its own index lacks what refreshes have published
since; so its model embeds these notes first, exactly as a refresh after the promotion would, and nothing moves before.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

from notellm2.artifacts import Artifact, Store
from notellm2.errors import InputError
from notellm2.index.index_stage import vectors_of
from notellm2.index.layout import NoteIds
from notellm2.notes.dataset import Dataset
from notellm2.notes.places import find_version
from notellm2.promotion.release import IndexMoved, Outcome, Refused, Release, Why, carry_on
from notellm2.publication.pointer import Publication, PublicationDamaged
from notellm2.publication.stored import stored_ids
from notellm2.recipe import IndexConfig
from notellm2.registry import names, versions
from notellm2.registry.tracking import Tracking

if TYPE_CHECKING:
    from notellm2.promotion.transaction import Promoter

logger = logging.getLogger(__name__)

_SHOWN = 3
_TRIES = 3


class Preparation(StrEnum):
    """What comes before the transaction where notes are lacking. Tests kill a process before each of them."""

    EMBED = "embed the notes that refreshes have added"
    BUILD = "build the index that has them"


class NotesMissing(Refused):
    """Notes that readers get now would disappear, and cannot be embedded here; nothing was changed."""


@dataclass(frozen=True)
class Workshop:
    """Where an index is completed.

    Attributes:
        store: of artifacts.
        embed: (store, notes, their version, folder of the bundle, its digest, earlier vectors) → vectors.
        build: (store, vectors, settings, index to build on) → index.
        bundle: (registry, version, folder for a download) → folder of its bundle.
        on_step: called before each step.
    """

    store: Store
    embed: Callable[[Store, Dataset, str, Path, str, Artifact | None], Artifact]
    build: Callable[[Store, Artifact, IndexConfig, Artifact], Artifact]
    bundle: Callable[[Tracking, str, Path], Path] = versions.bundle_path
    on_step: Callable[[Preparation], None] = carry_on

    @classmethod
    def at(cls, store: Store) -> Workshop:
        """Make the real one: torch and FAISS each in a process of its own."""
        from notellm2.embedding.process import refresh_in_subprocess
        from notellm2.index.process import build_index_in_subprocess

        def build(store: Store, vectors: Artifact, config: IndexConfig, base: Artifact) -> Artifact:
            return build_index_in_subprocess(store, vectors, config, base=base)

        return cls(store, refresh_in_subprocess, build)


@dataclass(frozen=True)
class Complete:
    """An index that has every note that readers get.

    Attributes:
        index: the artifact.
        data_md5: data version of its notes.
        added: notes that the version's own index lacked.
    """

    index: Artifact
    data_md5: str
    added: int


def complete_index(
    release: Release, version: str, own: Complete, served: Publication | None, workshop: Workshop
) -> Complete:
    """Add to a version's index the notes that are served and that it lacks, embedded by its own model.

    Notes that a newer data version of its own has dropped are not brought back. Nothing is published here.

    Args:
        release: of the version.
        version: its number.
        own: its index as it is.
        served: what readers get, or got before a rollback; None: nothing.
        workshop: what embeds and builds.

    Returns:
        `own` where it lacks nothing.

    Raises:
        NotesMissing: notes are lacking and their data version is not here, or the bundle does not embed them.
    """
    lacking = missing_notes(release, own, served, workshop.store)
    if served is None or not lacking:
        return own
    shown = ", ".join(lacking[:_SHOWN]) + (", …" if len(lacking) > _SHOWN else "")
    count = f"{len(lacking):,} notes that refreshes have added ({shown})"
    data = find_version(workshop.store.root, served.data_md5)
    if data is None:
        raise NotesMissing(
            f"version {version}: {count} would disappear: their data version {served.data_md5} is not in "
            f"{workshop.store.root} any more, so its model cannot embed them; nothing was changed: run "
            "`notellm2 refresh-index --data EXPORT` first, or say --without-added-notes"
        )
    target = versions.get_version(release.tracking, version)
    logger.info("version %s lacks %s: embedding them", version, count)
    workshop.on_step(Preparation.EMBED)
    bundle = workshop.bundle(release.tracking, version, workshop.store.root / "_mlflow" / "download" / version)
    try:
        earlier = vectors_of(workshop.store, own.index)
        vectors = workshop.embed(workshop.store, data, served.data_md5, bundle, target.bundle, earlier)
    except InputError as error:
        raise NotesMissing(f"version {version}: {count} would disappear: {error}; nothing was changed") from None
    workshop.on_step(Preparation.BUILD)
    config = IndexConfig.model_validate(own.index.manifest["config"])
    return Complete(workshop.build(workshop.store, vectors, config, own.index), served.data_md5, len(lacking))


def promote_complete(
    promoter: Promoter, version: str, own: Complete, expected: str | None, why: Why, workshop: Workshop
) -> Outcome:
    """Promote a version with an index that has every note that readers get; a version in use stays as it is.

    Args:
        promoter: moves alias and pointer.
        version: its number.
        own: its index as its retraining left it.
        expected: the champion it was compared with; None: there was none.
        why: for the record.
        workshop: what embeds and builds.

    Raises:
        NotesMissing: see `complete_index`.
        Refused, InputError: as `Promoter.promote`.
    """
    bundle = versions.get_version(promoter.tracking, version).bundle
    for attempt in range(_TRIES):
        served = promoter.pointer()
        is_served = served is not None and (served.model_version, served.bundle) == (version, bundle)
        if served is not None and is_served and versions.alias_version(promoter.tracking, names.CHAMPION) == version:
            return Outcome(served, None)  # Its index may have followed a refresh since.
        done = complete_index(promoter, version, own, served, workshop)
        over = None if served is None else served.version
        try:
            return promoter.promote(version, done.index, expected=expected, data_md5=done.data_md5, why=why, over=over)
        except IndexMoved:  # A refresh has published meanwhile: what it added is embedded too.
            if attempt == _TRIES - 1:
                raise
    raise AssertionError("the last try returns or raises")


def missing_notes(release: Release, own: Complete, served: Publication | None, store: Store) -> list[str]:
    """Find the notes that readers get and that an index lacks; none where its data version is the later one."""
    if served is None or served.index_key == own.index.key or served.data_md5 == own.data_md5:
        return []
    try:
        ids = stored_ids(release.location, served)
    except PublicationDamaged:
        return []  # Readers do not get it either.
    there = set(NoteIds.open(own.index.path))
    lacking = [note_id for note_id in ids if note_id not in there]
    return lacking if lacking and _came_later(store, served.data_md5, own.data_md5) else []


def _came_later(store: Store, md5: str, than: str) -> bool:
    """Whether a data version is later than another: by its behaviour, else by when it was first read here.

    True where it is not known: no note disappears.
    """
    end, other = _last_interaction(store, md5), _last_interaction(store, than)
    if end is not None and other is not None and end != other:
        return end > other
    first: dict[str, str] = {}
    for artifact in store.artifacts():
        data, created = artifact.manifest["inputs"].get("data"), str(artifact.manifest["created"])
        if data in (md5, than):
            first[data] = min(created, first.get(data, created))
    return md5 not in first or than not in first or first[md5] >= first[than]


def _last_interaction(store: Store, md5: str) -> str | None:
    data = find_version(store.root, md5)
    return None if data is None else data.info.last_interaction
