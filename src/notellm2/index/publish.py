"""Publish an index: an immutable copy, checked, then one atomic move of the pointer.

Steps, under a lock that one publisher holds at a time: copy every file to a temporary sibling while hashing it, flush,
rename to the version's name, read it back, replace the pointer, remove what retention does not keep. A kill between
any two leaves the pointer on a complete version, the old or the new; the next publisher clears the rest away. FAISS
is not needed, so this runs in a process that holds torch: the index was opened and measured when it was built, and
the checksums tie the copy to that.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import re
import shutil
import uuid
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from notellm2.artifacts import Artifact, digest_json, fsync_path, write_atomic
from notellm2.errors import InputError
from notellm2.index.layout import FILES, META, FileEntry, damage
from notellm2.index.pointer import (
    POINTER,
    PUBLICATION,
    VERSIONS,
    NothingPublished,
    Publication,
    PublicationDamaged,
    read_pointer,
    read_publication,
)
from notellm2.workspace import Locked, file_lock

logger = logging.getLogger(__name__)

LOCK = ".lock"
_BLOCK = 1 << 20
_MODEL_VERSION = re.compile(r"[A-Za-z0-9._-]{1,64}\Z")


class PublishFailed(RuntimeError):
    """Publishing did not happen, and readers keep the complete version they have. Trying again may help."""


def publish(
    published: Path,
    index: Artifact,
    *,
    model_name: str,
    model_version: str,
    data_md5: str,
    keep: int = 5,
    lock_timeout_s: float = 60.0,
) -> Publication:
    """Make an index the published one; what is published already stays as it is, with its time.

    Args:
        published: folder of the pointer and the versions; made when missing.
        index: artifact of stage "index".
        model_name: registered model.
        model_version: the version that embedded the notes.
        data_md5: data version the notes are from.
        keep: versions kept for rollback, this one among them.
        lock_timeout_s: seconds to wait for another publisher.

    Raises:
        InputError: no index artifact, a damaged one, or one of another data version.
        PublishFailed: the disk refused, or another publisher did not finish in time.
    """
    if keep < 1:
        raise InputError(f"keep {keep}: at least the current version is kept, expected 1 or more")
    candidate = _describe(index, model_name, model_version, data_md5)
    try:
        (published / VERSIONS).mkdir(parents=True, exist_ok=True)
        with file_lock(published / LOCK, "publishing", timeout_s=lock_timeout_s):
            current, history = _published_before(published)
            if current is not None and _same(current, candidate) and not _damage(published, current):
                result = current
            else:
                version = _stored(published, index, candidate)
                history = (version, *(name for name in history if name != version))[:keep]
                result = replace(candidate, version=version, published=_now(), history=history)
                write_atomic(published / POINTER, _text(result))
                logger.info("published %s: model %s version %s", version, model_name, model_version)
            _retain(published, result)
            return result
    except Locked as locked:
        raise PublishFailed(f"{locked}: wait for it or end it, then publish again") from None
    except OSError as error:
        raise PublishFailed(
            f"publishing index {index.key} to {published} failed: {error}; readers keep the version they have"
        ) from error


def _describe(index: Artifact, model_name: str, model_version: str, data_md5: str) -> Publication:
    """What is to be published, still without directory, time and history."""
    if index.stage != "index":
        raise InputError(f"{index.stage}/{index.key}: expected an artifact of stage index to publish")
    if not _MODEL_VERSION.match(model_version):
        raise InputError(f"model version {model_version!r}: expected letters, digits, '.', '_' and '-' (at most 64)")
    try:
        meta = json.loads(index.file(META).read_text())
        entries = index.manifest["files"]
        files = {name: FileEntry(entries[name]["sha256"], entries[name]["bytes"]) for name in FILES}
        made_from, kind, dimension, count = meta["data_md5"], meta["kind"], meta["dimension"], meta["count"]
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
        data_md5=data_md5,
        index_key=index.key,
        kind=kind,
        dimension=dimension,
        count=count,
        published="",
        files=files,
    )


def _published_before(published: Path) -> tuple[Publication | None, tuple[str, ...]]:
    """The current publication, and the versions that were current, newest first."""
    try:
        current = read_pointer(published)
        return current, current.history or (current.version,)
    except NothingPublished:
        return None, ()
    except PublicationDamaged as error:
        # Publishing is the repair. The history goes with the pointer, so take every complete version for it.
        logger.warning("%s; it will be replaced", error)
        found = _versions(published)
        return None, tuple(sorted(found, key=lambda name: found[name].published, reverse=True))


def _versions(published: Path) -> dict[str, Publication]:
    """The versions on disk whose record is readable, by directory name."""
    found = {}
    for path in sorted((published / VERSIONS).glob(f"[!.]*/{PUBLICATION}")):
        with contextlib.suppress(PublicationDamaged):
            found[path.parent.name] = read_publication(path)
    return found


def _same(one: Publication, other: Publication) -> bool:
    """Whether two publications are of the same files for the same model version."""
    return replace(one, version="", published="", history=()) == replace(other, version="", published="", history=())


def _damage(published: Path, publication: Publication) -> list[str]:
    return damage(publication.directory(published), publication.files)


def _stored(published: Path, index: Artifact, candidate: Publication) -> str:
    """Name of a complete version directory with the index's files; made unless an undamaged one exists."""
    for name, found in _versions(published).items():
        if _same(found, candidate) and not _damage(published, replace(found, version=name)):
            return name
    version = f"v{candidate.model_version}-{digest_json(candidate.as_json())[:12]}"
    if (published / VERSIONS / version).exists():
        # It is damaged and perhaps being read: it is neither overwritten nor moved; retention removes it later.
        version = f"{version}-{uuid.uuid4().hex[:8]}"
    final = published / VERSIONS / version
    temporary = final.with_name(f".{version}.{uuid.uuid4().hex[:8]}")
    temporary.mkdir()
    try:
        for name, entry in candidate.files.items():
            _copy(index.file(name), temporary / name, entry)
        write_atomic(temporary / PUBLICATION, _text(replace(candidate, version=version, published=_now())))
        fsync_path(temporary)
        temporary.rename(final)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    fsync_path(final.parent)
    problems = damage(final, candidate.files)
    if problems:
        raise PublishFailed("the copy differs from the index, is the disk sound? " + "; ".join(problems))
    return version


def _copy(source: Path, target: Path, entry: FileEntry) -> None:
    digest = hashlib.sha256()
    with source.open("rb") as reading, target.open("wb") as writing:
        while block := reading.read(_BLOCK):
            digest.update(block)
            writing.write(block)
        writing.flush()
        os.fsync(writing.fileno())
    if digest.hexdigest() != entry.sha256:
        raise InputError(f"{source} is damaged (its sha256 is not the manifest's): build the index again")


def _retain(published: Path, current: Publication) -> None:
    """Remove versions that the pointer's history does not name, and what killed publishers left."""
    keep = {current.version, *current.history}
    doomed = [path for path in (published / VERSIONS).iterdir() if path.name not in keep]
    try:
        for path in doomed:
            # First out of the names readers could be told: a version directory is whole or not there.
            gone = path if path.name.startswith(".") else path.with_name(f".{path.name}.gone-{uuid.uuid4().hex[:8]}")
            if gone != path:
                path.rename(gone)
            shutil.rmtree(gone)
        for path in published.glob(f".{POINTER}.*"):
            path.unlink()
    except OSError as error:
        # The index is published; a version too many does no harm and the next publisher tries again.
        logger.warning("could not remove an old version of the index: %s", error)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _text(publication: Publication) -> str:
    value: dict[str, Any] = publication.as_json()
    return json.dumps(value, indent=2, sort_keys=True) + "\n"
