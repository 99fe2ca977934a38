"""A refresh embeds what is new or changed and takes the rest as it is; two models never meet."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from notellm2.artifacts import Artifact
from notellm2.embedding import vectors_stage
from notellm2.embedding.refresh import (
    compare_notes,
    find_note_digests,
    note_digest,
    note_digests,
    refresh_vectors,
)
from notellm2.errors import InputError
from notellm2.model.bundle.bundle import Bundle
from notellm2.notes.dataset import INFO, Dataset
from notellm2.notes.schema import NOTES, Note
from tests.unit.training.small_run import COUNT, MD5, Stages, vectors

LATER = "fedcba9876543210fedcba9876543210.dir"


@pytest.fixture(scope="module")
def trained(stages: Stages) -> Artifact:
    return stages.train()


@pytest.fixture(scope="module")
def embedded(stages: Stages, trained: Artifact) -> Artifact:
    note_digests(stages.store, stages.dataset, MD5)
    return vectors_stage.embed(stages.store, stages.dataset, MD5, trained, stages.features)


@pytest.fixture(scope="module")
def later(stages: Stages, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """The data set a day later: two notes gone, one with another text, one with another image, one new, the rest as
    they were, in another order."""
    path = tmp_path_factory.mktemp("later") / "data"
    shutil.copytree(stages.dataset.path, path)
    shard = path / "notes" / "part-00000.parquet"
    rows = pq.read_table(shard).to_pylist()
    rows[3]["title"] = "quite another title"
    rows[4]["image"] = rows[8]["image"]
    new = {**rows[9], "note_id": "new", "content": "never seen before"}
    rows = [new, *rows[:0:-1]]
    del rows[5]
    pq.write_table(type(pq.read_table(shard)).from_pylist(rows, NOTES), shard)
    info = json.loads((path / INFO).read_text())
    info["notes"] = len(rows)
    (path / INFO).write_text(json.dumps(info))
    return Dataset.open(path)


def test_a_digest_covers_what_the_model_reads_and_nothing_else() -> None:
    note = Note("a", "title", ("t", "u"), "content", b"image")
    others = [
        replace(note, title="titles"),
        replace(note, topics=("tu",)),
        replace(note, topics=("u", "t")),
        replace(note, content="c"),
        replace(note, image=b"images"),
        replace(note, image=None),
        Note("a", "titlet", ("u",), "content", b"image"),
    ]
    digests = {note_digest(other) for other in [note, *others]}
    assert len(digests) == len(others) + 1
    assert note_digest(replace(note, note_id="b")) == note_digest(note)


def test_changes_are_counted_by_what_happened(stages: Stages, embedded: Artifact, later: Dataset) -> None:
    before, now = note_digests(stages.store, stages.dataset, MD5), note_digests(stages.store, later, LATER)
    changes = compare_notes(now, before)
    assert (changes.new, changes.changed, changes.dropped, changes.none) == (1, 2, 2, False)
    assert (changes.source < 0).sum() == 3
    assert compare_notes(before, before).none
    unknown = compare_notes(now, None)
    assert (unknown.new, unknown.changed, unknown.dropped) == (later.info.notes, 0, 0)


def test_only_new_and_changed_notes_are_embedded(
    stages: Stages, trained: Artifact, embedded: Artifact, later: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle, digest = trained.file("bundle"), embedded.summary["bundle"]
    model = Bundle.load(bundle)
    asked: list[str] = []
    embed = Bundle.embed

    def watched(self: Bundle, notes: list[Note]) -> np.ndarray:
        asked.extend(note.note_id for note in notes)
        return embed(self, notes)

    with monkeypatch.context() as patch:
        patch.setattr(Bundle, "embed", watched)
        patch.setattr(Bundle, "check_canary", lambda self, folder: None)
        refreshed = refresh_vectors(stages.store, later, LATER, bundle, digest, embedded)
    assert sorted(asked) == ["n003", "n004", "new"]
    told = refreshed.summary
    assert (told["notes"], told["embedded"], told["reused"], told["dropped"]) == (COUNT - 1, 3, COUNT - 4, 2)
    assert told["bundle"] == digest

    found, old = vectors(refreshed, "both"), vectors(embedded, "both")
    ids = json.loads(refreshed.file("note_ids.json").read_text())
    notes = [note for batch in later.batches() for note in batch]
    assert ids == [note.note_id for note in notes]
    assert json.loads(refreshed.file("titles.json").read_text()) == [note.title for note in notes]
    rows = {note_id: row for row, note_id in enumerate(json.loads(embedded.file("note_ids.json").read_text()))}
    for row, note in enumerate(notes):
        if note.note_id in asked:
            np.testing.assert_allclose(found[row], model.embed([note])[0], atol=1e-3)
        else:
            np.testing.assert_array_equal(found[row], old[rows[note.note_id]])
    np.testing.assert_allclose(found, model.embed(notes), atol=2e-3)

    again = refresh_vectors(stages.store, later, LATER, bundle, digest, embedded)
    assert again == refreshed


def test_without_earlier_vectors_or_their_digests_everything_is_embedded(
    stages: Stages, trained: Artifact, embedded: Artifact, later: Dataset, tmp_path: Path
) -> None:
    bundle, digest = trained.file("bundle"), embedded.summary["bundle"]
    alone = refresh_vectors(stages.store, later, LATER, bundle, digest, None)
    assert (alone.summary["embedded"], alone.summary["reused"]) == (COUNT - 1, 0)
    digests = find_note_digests(stages.store, MD5)
    assert digests is not None
    digests.path.rename(tmp_path / "away")
    try:
        forgotten = refresh_vectors(stages.store, later, "00" * 16 + ".dir", bundle, digest, embedded)
    finally:
        (tmp_path / "away").rename(digests.path)
    assert (forgotten.summary["embedded"], forgotten.summary["reused"]) == (COUNT - 1, 0)


def test_vectors_of_two_models_never_meet(
    stages: Stages, trained: Artifact, embedded: Artifact, later: Dataset
) -> None:
    bundle = trained.file("bundle")
    with pytest.raises(InputError, match=r"asked to add\s+vectors of bundle beef: vectors of two models"):
        refresh_vectors(stages.store, later, LATER, bundle, "beef", embedded)
    with pytest.raises(InputError, match=r"holds bundle .*, expected beef"):
        refresh_vectors(stages.store, later, LATER, bundle, "beef", None)


def test_a_process_without_torch_gets_the_same_vectors(stages: Stages, trained: Artifact, embedded: Artifact) -> None:
    """The command line promotes, and must not import torch: another process embeds."""
    from notellm2.artifacts import KEY_LENGTH, digest_tree
    from notellm2.embedding.process import refresh_in_subprocess

    bundle = trained.file("bundle")
    digest = digest_tree(bundle)[:KEY_LENGTH]
    previous = embedded if embedded.summary["bundle"] == digest else None
    # A version that no other test of this store embeds.
    made = refresh_in_subprocess(stages.store, stages.dataset, f"{'e' * 32}.dir", bundle, digest, previous)
    assert (made.stage, made.summary["notes"], made.summary["reused"]) == ("refreshed-vectors", COUNT, COUNT)
    with pytest.raises(InputError, match="holds bundle"):
        refresh_in_subprocess(stages.store, stages.dataset, MD5, bundle, "0" * 20, None)
