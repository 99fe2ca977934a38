"""Publish an index: store an immutable copy, then move the pointer if it still is where the caller saw it.

    publication = prepare(location, index, model_name=..., model_version=..., data_md5=...)
    point(location, publication, expected="v3-0123456789ab")     # or None: nothing was published
    retain(location, keep_names)

`prepare` makes a complete version directory and never moves the pointer, so it needs no lock and may be repeated by
anyone. `point` is one compare-and-swap. A kill between or within the steps leaves the pointer on a complete version,
the old or the new, and at most a version or a temporary directory too many, which `retain` removes later. What the
pointer may move to, and when, is the promotion's business (room registry); it holds a lease around these steps.

FAISS is not needed, so this runs in a process that holds torch: the index was opened and measured when it was built,
and the checksums tie the copy to that.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import uuid
from collections.abc import Collection
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from notellm2.artifacts import Artifact, digest_json
from notellm2.errors import InputError
from notellm2.index.layout import EXTRA_FILES, FILES, META, FileEntry
from notellm2.publication.location import Location, Moved
from notellm2.publication.opening import open_location
from notellm2.publication.pointer import (
    POINTER,
    VERSIONS,
    NothingPublished,
    Publication,
    PublicationDamaged,
    parse_publication,
    read_pointer,
)

logger = logging.getLogger(__name__)

GRACE_S = 3600.0
"""Age below which `retain` removes nothing: a version may be stored by one process while another collects, and becomes
current only a moment later. Storing what is stored already makes it young again."""
_STORE_TRIES = 3
_MODEL_VERSION = re.compile(r"[A-Za-z0-9._-]{1,64}\Z")

LocationLike = Location | str | os.PathLike[str]


class PublishFailed(RuntimeError):
    """Publishing did not happen, and readers keep the complete version they have. Trying again may help."""


class PointerMoved(RuntimeError):
    """The pointer is not where the caller saw it: someone else published. Nothing was changed."""


def prepare(
    where: LocationLike,
    index: Artifact,
    *,
    model_name: str,
    model_version: str,
    data_md5: str,
    bundle: str | None = None,
) -> Publication:
    """Store an index as a version; the pointer stays where it is. The same index and model give the same version.

    Args:
        where: of the pointer and the versions; a local folder is made when missing.
        index: artifact of stage "index".
        model_name: registered model.
        model_version: the version that embedded the notes.
        data_md5: data version the notes are from.
        bundle: digest of that version's bundle, as the registry has it; None: not compared.

    Raises:
        InputError: no index artifact, a damaged one, or one of another data version or another model's vectors.
        PublishFailed: the disk or the store refused.
    """
    location = open_location(where)
    candidate = _describe(index, model_name, model_version, data_md5)
    if bundle is not None and bundle != candidate.bundle:
        raise InputError(
            f"index/{index.key} holds vectors of bundle {candidate.bundle}, model {model_name} version {model_version} "
            f"is bundle {bundle}: vectors of two models do not compare; build the index of that version's vectors"
        )
    try:
        for _ in range(_STORE_TRIES):
            stored = _stored(location, candidate)
            if stored is not None:
                return stored
            # A folder of that name which is not sound may be in use by a reader: it is neither overwritten nor moved,
            # and retention removes it later. Or another process has just stored it: then the next look finds it.
            with contextlib.suppress(FileExistsError):
                return _store(location, index, candidate)
        return _store(location, index, candidate, suffix=f"-{uuid.uuid4().hex[:8]}")
    except OSError as error:
        raise PublishFailed(
            f"storing index {index.key} in {location} failed: {error}; readers keep the version they have"
        ) from error


def point(where: LocationLike, publication: Publication, *, expected: str | None) -> Publication:
    """Move the pointer to a stored version, if it still names the expected one.

    Args:
        where: as for `prepare`.
        publication: from `prepare` or `versions`.
        expected: version the pointer names now; None: there is no pointer, or none that is readable (publishing is
            the repair).

    Returns:
        What the pointer says now. A version that is current already is returned as it is, whatever was expected.

    Raises:
        PointerMoved: the pointer names another version than expected; nothing was changed.
        PublicationDamaged: a file of the version is missing or damaged; nothing was changed.
        PublishFailed: the disk or the store refused; the pointer is the old one.
    """
    location = open_location(where)
    try:
        stored = location.read(POINTER)
        current = None
        if stored is not None:
            try:
                current = parse_publication(stored.data, f"{location}/{POINTER}")
            except PublicationDamaged as error:
                logger.warning("%s; it will be replaced", error)
        if current is not None and current.version == publication.version:
            return current
        actual = None if current is None else current.version
        if actual != expected:
            raise PointerMoved(_moved(location, publication, expected, actual))
        problems = location.problems(publication.folder, publication.files)
        if problems:
            raise PublicationDamaged(
                f"version {publication.version} is damaged, store it again (notellm2.publication.publish.prepare): "
                + "; ".join(problems)
            )
        result = replace(publication, published=_now())
        location.swap(POINTER, result.as_bytes(), None if stored is None else stored.tag)
    except Moved as moved:
        raise PointerMoved(_moved(location, publication, expected, str(moved))) from None
    except OSError as error:
        raise PublishFailed(
            f"moving the pointer of {location} to {publication.version} failed: {error}; readers keep the version "
            "they have"
        ) from error
    logger.info("published %s: model %s version %s", result.version, result.model_name, result.model_version)
    return result


def versions(where: LocationLike) -> dict[str, Publication]:
    """List the stored versions whose record is readable, by name; the last stored first.

    Raises:
        OSError: the location does not answer.
    """
    location = open_location(where)
    readable = {}
    for name, folder in sorted(location.folders(VERSIONS).items(), key=lambda item: item[1].written, reverse=True):
        with contextlib.suppress(PublicationDamaged):
            # By the directory's name: that is what a pointer to it must say.
            readable[name] = replace(parse_publication(folder.record, name), version=name)
    return readable


def retain(where: LocationLike, keep_names: Collection[str], *, older_than_s: float = GRACE_S) -> list[str]:
    """Remove versions that are not named, and what killed publishers left; never the version that is served.

    Args:
        where: as for `prepare`.
        keep_names: versions to keep besides.
        older_than_s: age below which nothing is removed, see `GRACE_S`.

    Returns:
        The versions removed. One that cannot be removed is logged: it does no harm, and the next call tries again.
    """
    location = open_location(where)
    before = datetime.now(UTC) - timedelta(seconds=older_than_s)
    removed = []
    try:
        try:
            current = {read_pointer(location).version}
        except NothingPublished:
            current = set()
        for name, folder in sorted(location.folders(VERSIONS).items()):
            if name not in current and name not in keep_names and folder.written <= before:
                location.remove_folder(f"{VERSIONS}/{name}")
                removed.append(name)
        location.remove_leftovers(VERSIONS, before)
    except PublicationDamaged as error:
        # What it named is not known, so nothing is safe to remove until something is published over it.
        logger.warning("%s; no old version is removed", error)
    except OSError as error:
        logger.warning("could not remove an old version of the index: %s", error)
    return removed


def _describe(index: Artifact, model_name: str, model_version: str, data_md5: str) -> Publication:
    """What is to be published, still without name and time."""
    if index.stage != "index":
        raise InputError(f"{index.stage}/{index.key}: expected an artifact of stage index to publish")
    if not _MODEL_VERSION.match(model_version):
        raise InputError(f"model version {model_version!r}: expected letters, digits, '.', '_' and '-' (at most 64)")
    try:
        meta = json.loads(index.file(META).read_text())
        entries = index.manifest["files"]
        names = (*FILES, *(name for name in EXTRA_FILES if name in entries))
        files = {name: FileEntry(entries[name]["sha256"], entries[name]["bytes"]) for name in names}
        made_from, kind, dimension, count = meta["data_md5"], meta["kind"], meta["dimension"], meta["count"]
        bundle = meta["bundle"]
    except (OSError, RuntimeError, ValueError, KeyError) as error:
        raise InputError(f"index/{index.key} is no complete index artifact ({error}): build it again") from None
    if made_from is not None and made_from != data_md5:
        raise InputError(
            f"index/{index.key} was built from data {made_from}, asked to publish it as data {data_md5}: build the "
            "index of that data version"
        )
    return Publication(
        version="",
        model_name=model_name,
        model_version=model_version,
        bundle=bundle,
        data_md5=data_md5,
        index_key=index.key,
        kind=kind,
        dimension=dimension,
        count=count,
        published="",
        files=files,
    )


def _stored(location: Location, candidate: Publication) -> Publication | None:
    """An undamaged version with these files for this model version, made young again."""
    for version in versions(location).values():
        if replace(version, version="", published="") == candidate:
            location.touch(version.folder)
            if not location.problems(version.folder, version.files):
                return version
    return None


def _store(location: Location, index: Artifact, candidate: Publication, suffix: str = "") -> Publication:
    version = f"v{candidate.model_version}-{digest_json(candidate.as_json())[:12]}{suffix}"
    result = replace(candidate, version=version, published=_now())
    files = {name: (index.file(name), entry) for name, entry in candidate.files.items()}
    location.put_folder(result.folder, files, result.as_bytes())
    problems = location.problems(result.folder, result.files)
    if problems:
        raise PublishFailed("the copy differs from the index, is the disk sound? " + "; ".join(problems))
    return result


def _moved(location: Location, publication: Publication, expected: str | None, actual: str | None) -> str:
    return (
        f"{location}: the pointer was to move from {expected or 'nothing'} to {publication.version}, but by now it is "
        f"{actual or 'nothing'}; nothing was changed: look at what was published meanwhile, and decide again"
    )


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
