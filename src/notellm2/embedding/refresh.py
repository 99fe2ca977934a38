"""Make the vectors of a data set from those of an earlier one: only new or changed notes are embedded.

Whether a note changed is seen by the digest of what the model reads of it, its text and its image. A data set's digests
are an artifact of their own ("note-digests"), made by every retraining beside its vectors, so that the first refresh
after it can already tell.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from notellm2.artifacts import KEY_LENGTH, Artifact, Store, digest_tree
from notellm2.errors import InputError
from notellm2.notes.dataset import Dataset
from notellm2.notes.schema import Note

if TYPE_CHECKING:
    from notellm2.model.bundle.bundle import Bundle

DIGESTS_STAGE, DIGESTS_VERSION = "note-digests", 1
REFRESH_STAGE, REFRESH_VERSION = "refreshed-vectors", 2
_BATCH = 256


@dataclass(frozen=True)
class Changes:
    """What became of an earlier data set's notes.

    Attributes:
        source: int64[N], for each note of the new data set its row in the earlier vectors; -1: to be embedded.
        new: notes that the earlier data set did not have.
        changed: notes whose text or image is another.
        dropped: notes that are gone.
    """

    source: NDArray[np.int64]
    new: int
    changed: int
    dropped: int

    @property
    def none(self) -> bool:
        """Whether the notes are the same, each with the same text and image, in the same order or another."""
        return not (self.new or self.changed or self.dropped)


def note_digest(note: Note) -> bytes:
    """Compute the SHA-256 (32 bytes) of what the model reads of a note: title, topics, content, image."""
    text = json.dumps([note.title, list(note.topics), note.content], ensure_ascii=True)
    digest = hashlib.sha256(f"{len(text)} {text}".encode())
    if note.image is not None:
        digest.update(b"image")
        digest.update(note.image)
    return digest.digest()


def note_digests(store: Store, dataset: Dataset, data_md5: str) -> Artifact:
    """Compute the digest of every note of a data set.

    Files: ``digests.npy`` uint8[N, 32] in data set order, and ``note_ids.json``.
    """

    def write(folder: Path) -> dict[str, Any]:
        ids, digests = [], []
        for notes in dataset.batches(_BATCH):
            ids += [note.note_id for note in notes]
            digests += [note_digest(note) for note in notes]
        np.save(folder / "digests.npy", np.frombuffer(b"".join(digests), np.uint8).reshape(-1, 32))
        (folder / "note_ids.json").write_text(json.dumps(ids))
        return {"notes": len(ids)}

    return store.build(DIGESTS_STAGE, DIGESTS_VERSION, {}, {"data": data_md5}, write)


def find_note_digests(store: Store, data_md5: str) -> Artifact | None:
    """Find the digests of a data version, which itself may be gone by now."""
    return store.find(DIGESTS_STAGE, store.key(DIGESTS_STAGE, DIGESTS_VERSION, {}, {"data": data_md5}))


def compare_notes(now: Artifact, before: Artifact | None) -> Changes:
    """Compare the notes of two data versions.

    Args:
        now: note digests of the new one.
        before: note digests of the earlier one; None: not known, so every note counts as new.
    """
    ids, digests = _read(now)
    if before is None:
        return Changes(np.full(len(ids), -1, np.int64), new=len(ids), changed=0, dropped=0)
    old_ids, old_digests = _read(before)
    row_of = {note_id: row for row, note_id in enumerate(old_ids)}
    source = np.array([row_of.get(note_id, -1) for note_id in ids], np.int64)
    there = source >= 0
    changed = there.copy()
    changed[there] = (digests[there] != old_digests[source[there]]).any(axis=1)
    dropped = len(old_ids) - int(there.sum())
    return Changes(np.where(changed, -1, source), new=int((~there).sum()), changed=int(changed.sum()), dropped=dropped)


def compare_refresh(store: Store, dataset: Dataset, data_md5: str, previous: Artifact | None) -> Changes:
    """Compare notes with those that earlier vectors are of; where these are not known, every note is new.

    Args:
        store: holds the note digests of the earlier data version; those of the new one are made there.
        dataset: the notes.
        data_md5: its version.
        previous: the earlier vectors; None: there are none.
    """
    return compare_notes(note_digests(store, dataset, data_md5), _digests_of(store, previous))


def refresh_vectors(
    store: Store,
    dataset: Dataset,
    data_md5: str,
    bundle: Path,
    bundle_digest: str,
    previous: Artifact | None,
) -> Artifact:
    """Embed the new and changed notes of a data set, and take the vectors of the others from an earlier version.

    Files: ``both.npy`` float32[N, D] (rows of length 1, in data set order), ``note_ids.json`` and ``titles.json``, as
    the index reads them. The summary counts what was embedded, reused and dropped, and names the bundle.

    Args:
        store: where the artifact goes; the note digests of both data versions are looked for there.
        dataset: the notes.
        data_md5: its version.
        bundle: folder of the model that made the earlier vectors.
        bundle_digest: as the registry knows it.
        previous: the earlier vectors; None: there are none, everything is embedded.

    Raises:
        InputError: the folder holds another bundle, or another bundle made the earlier vectors: vectors of two models
            never come to lie in one index.
        BundleError: the bundle is damaged, or does not reproduce its canary embeddings.
    """
    if previous is not None and previous.summary.get("bundle") != bundle_digest:
        raise InputError(
            f"{previous.stage}/{previous.key} was made by bundle {previous.summary.get('bundle')}, asked to add "
            f"vectors of bundle {bundle_digest}: vectors of two models do not compare; embed all notes with one of them"
        )
    changes = compare_refresh(store, dataset, data_md5, previous)

    def write(folder: Path) -> dict[str, Any]:
        model = _load_bundle(bundle, bundle_digest)
        vectors = np.lib.format.open_memmap(folder / "both.npy", "w+", np.float32, (len(changes.source), model.dim))
        kept = np.flatnonzero(changes.source >= 0)
        if previous is not None and len(kept):
            vectors[kept] = np.load(previous.file("both.npy"), mmap_mode="r")[changes.source[kept]]
        ids, titles = _embed_others(vectors, changes.source, dataset, model)
        vectors.flush()
        (folder / "note_ids.json").write_text(json.dumps(ids))
        (folder / "titles.json").write_text(json.dumps(titles))
        return {
            "notes": len(ids),
            "dim": model.dim,
            "bundle": bundle_digest,
            "embedded": len(ids) - len(kept),
            "reused": len(kept),
            "dropped": changes.dropped,
            "images_undecodable": model.undecodable,
        }

    # The earlier vectors count: the same note embedded in another batch differs in its last bits. Named as text, not as
    # an artifact: what these vectors were refreshed from need not be kept for their sake.
    origin = "none" if previous is None else f"{previous.stage}/{previous.key}"
    inputs: dict[str, Artifact | str] = {"data": data_md5, "bundle": bundle_digest, "previous": origin}
    return store.build(REFRESH_STAGE, REFRESH_VERSION, {}, inputs, write)


def _load_bundle(folder: Path, digest: str) -> Bundle:
    """Load the bundle in a folder if it is the one that the registry knows by this digest."""
    from notellm2.model.bundle.bundle import Bundle

    actual = digest_tree(folder)[:KEY_LENGTH]
    if actual != digest:
        raise InputError(f"{folder}: holds bundle {actual}, expected {digest}; register the model again")
    return Bundle.load(folder)


def _embed_others(
    vectors: NDArray[np.float32], source: NDArray[np.int64], dataset: Dataset, model: Bundle
) -> tuple[list[str], list[str]]:
    """Embed the notes whose `source` is negative into their rows, float32[N, D]; returns all notes' ids and titles."""
    from rich.console import Console
    from rich.progress import Progress

    ids: list[str] = []
    titles: list[str] = []
    console = Console(stderr=True)
    with Progress(console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("new and changed notes", total=int((source < 0).sum()))
        for notes in dataset.batches(_BATCH):
            rows = np.arange(len(ids), len(ids) + len(notes))
            ids += [note.note_id for note in notes]
            titles += [note.title for note in notes]
            wanted = np.flatnonzero(source[rows] < 0)
            if len(wanted):
                vectors[rows[wanted]] = model.embed([notes[i] for i in wanted])
                bar.update(task, advance=len(wanted))
    return ids, titles


def _digests_of(store: Store, vectors: Artifact | None) -> Artifact | None:
    """The note digests of the data that vectors are of, if they tell of the same notes in the same rows."""
    if vectors is None:
        return None
    digests = find_note_digests(store, str(vectors.manifest["inputs"]["data"]))
    if digests is None or digests.file("note_ids.json").read_bytes() != vectors.file("note_ids.json").read_bytes():
        return None
    return digests


def _read(digests: Artifact) -> tuple[list[str], NDArray[np.uint8]]:
    ids: list[str] = json.loads(digests.file("note_ids.json").read_text())
    return ids, np.load(digests.file("digests.npy"), allow_pickle=False)
