from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from notellm2.artifacts import Artifact, Store
from notellm2.embedding import vectors_stage
from notellm2.errors import InputError
from notellm2.model.backbones.backbones_stage import Backbones
from notellm2.model.backbones.encode_images import encode_images
from notellm2.model.backbones.load import load_vision_encoder
from notellm2.model.bundle.bundle import Bundle
from notellm2.notes.dataset import Dataset
from notellm2.notes.schema import Note
from notellm2.recipe import ImageLimits
from tests.unit.model.tiny import png
from tests.unit.training.small_run import BARE, BROKEN, COUNT, MD5, Stages, vectors


@pytest.fixture(scope="module")
def trained(stages: Stages) -> Artifact:
    return stages.train()


@pytest.fixture(scope="module")
def embedded(stages: Stages, trained: Artifact) -> Artifact:
    return vectors_stage.embed(stages.store, stages.dataset, MD5, trained, stages.features)


def notes(stages: Stages) -> list[Note]:
    return [note for batch in stages.dataset.batches() for note in batch]


def test_features_are_those_of_each_notes_image(stages: Stages) -> None:
    features = np.load(stages.features.file("features.npy"))
    has_image = np.load(stages.features.file("has_image.npy"))
    vision = load_vision_encoder(Backbones.of(stages.backbones).vision)
    assert features.shape == (COUNT, vision.tokens, vision.width)
    assert features.dtype == np.float16
    for row, note in enumerate(notes(stages)):
        assert has_image[row] == (note.image is not None and row != BROKEN)
        if row % 13 == 0 or row in (BROKEN, BARE):
            alone, _ = encode_images(vision, [note], ImageLimits())
            np.testing.assert_allclose(features[row].astype(np.float32), alone[0].astype(np.float32), atol=5e-3)
    assert not features[~has_image].any()
    assert stages.features.summary["failed"] == {"not-an-image": 1}
    assert stages.features.summary["images"] == int(has_image.sum())


def test_features_are_the_same_with_and_without_the_cache(
    stages: Stages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Made without a cache, by filling one, and by reading it, when the encoder is not even loaded."""
    from notellm2.model.backbones import load

    def made(root: str, md5: str, cache_gb: float) -> Artifact:
        return vectors_stage.vision_features(
            Store(tmp_path / root), stages.dataset, md5, stages.backbones, ImageLimits(), cache_gb=cache_gb
        )

    plain, filling = made("plain", MD5, 0.0), made("cached", MD5, 1.0)
    assert plain.summary["encoded"] == filling.summary["encoded"] == plain.summary["images"]
    assert not (tmp_path / "plain" / "_vision").exists()
    real = load.load_vision_encoder
    monkeypatch.setattr(load, "load_vision_encoder", lambda *a: pytest.fail("the encoder was loaded"))
    monkeypatch.setattr(stages.dataset.__class__, "batches", without(BROKEN, stages.dataset))
    reading = made("cached", "another version of the data", 1.0)
    monkeypatch.setattr(load, "load_vision_encoder", real)
    assert reading.summary["encoded"] == 0
    for name in ("features.npy", "has_image.npy"):
        assert plain.file(name).read_bytes() == filling.file(name).read_bytes() == reading.file(name).read_bytes()


def without(row: int, dataset: Dataset) -> Callable[..., Iterator[list[Note]]]:
    """A data set's batches, one note's image taken away."""
    batches = [[replace(n, image=None) if n.note_id == f"n{row:03d}" else n for n in b] for b in dataset.batches(64)]
    return lambda self, rows=256: iter(batches)


def test_a_new_data_version_encodes_only_its_new_images(
    stages: Stages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path)
    first = vectors_stage.vision_features(store, stages.dataset, MD5, stages.backbones, ImageLimits())
    changed = next(note for note in notes(stages)[20:] if note.image is not None)
    batches = [
        [replace(n, image=png((1, 2, 3))) if n.note_id == changed.note_id else n for n in batch]
        for batch in stages.dataset.batches(64)
    ]
    monkeypatch.setattr(stages.dataset.__class__, "batches", lambda self, rows=256: iter(batches))
    second = vectors_stage.vision_features(store, stages.dataset, "a second version", stages.backbones, ImageLimits())
    assert second.summary["encoded"] == 1
    row = int(changed.note_id[1:])
    before, after = (np.load(artifact.file("features.npy")) for artifact in (first, second))
    others = np.arange(COUNT) != row
    np.testing.assert_array_equal(after[others], before[others])
    vision = load_vision_encoder(Backbones.of(stages.backbones).vision)
    expected, _ = encode_images(vision, [replace(changed, image=png((1, 2, 3)))], ImageLimits())
    np.testing.assert_allclose(after[row].astype(np.float32), expected[0].astype(np.float32), atol=5e-3)


def test_vectors_are_what_the_bundle_gives_one_by_one(stages: Stages, trained: Artifact, embedded: Artifact) -> None:
    bundle = Bundle.load(trained.file("bundle"))
    for modality in ("both", "text", "image"):
        found = vectors(embedded, modality)
        assert found.dtype == np.float32
        assert found.shape == (COUNT, bundle.dim)
        np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
        for row, note in enumerate(notes(stages)):
            if row % 17 == 0 or row in (BROKEN, BARE):
                alone = bundle.embed([note], modality=modality)  # type: ignore[arg-type]
                np.testing.assert_allclose(found[row], alone[0], atol=2e-3, err_msg=f"{modality} {row}")
    ids = json.loads(embedded.file("note_ids.json").read_text())
    assert ids == [note.note_id for note in notes(stages)]
    assert json.loads(embedded.file("titles.json").read_text()) == [note.title for note in notes(stages)]


def test_modalities_differ_and_a_missing_image_makes_two_of_them_alike(stages: Stages, embedded: Artifact) -> None:
    both, text, image = (vectors(embedded, name) for name in ("both", "text", "image"))
    has_image = np.load(stages.features.file("has_image.npy"))
    np.testing.assert_allclose(both[~has_image], text[~has_image], atol=1e-5)
    assert (np.abs(both - text)[has_image].max(1) > 1e-4).all()
    assert (np.abs(both - image).max(1) > 1e-4).all()
    shuffled = vectors(embedded, "shuffled")
    np.testing.assert_allclose(both[~has_image], shuffled[~has_image], atol=1e-5)
    assert (np.abs(both - shuffled)[has_image].max(1) > 1e-5).mean() > 0.9


def test_vision_is_the_frozen_summary_at_length_one(stages: Stages, embedded: Artifact) -> None:
    summary = np.load(stages.features.file("features.npy"))[:, 0].astype(np.float64)
    vision = vectors(embedded, "vision")
    has_image = np.load(stages.features.file("has_image.npy"))
    np.testing.assert_allclose(np.linalg.norm(vision[has_image], axis=1), 1, atol=1e-5)
    assert not vision[~has_image].any()
    cosine = (vision * summary).sum(1)[has_image] / np.linalg.norm(summary[has_image], axis=1)
    np.testing.assert_allclose(cosine, 1, atol=1e-5)


def test_both_stages_are_done_once(
    stages: Stages, trained: Artifact, embedded: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    def again(*args: object, **kwargs: object) -> None:
        raise AssertionError("read the notes a second time")

    monkeypatch.setattr(type(stages.dataset), "batches", again)
    monkeypatch.setattr(type(stages.dataset), "texts", again)
    assert vectors_stage.embed(stages.store, stages.dataset, MD5, trained, stages.features) == embedded
    features = vectors_stage.vision_features(stages.store, stages.dataset, MD5, stages.backbones, ImageLimits())
    assert features == stages.features
    with pytest.raises(AssertionError, match="a second time"):
        vectors_stage.vision_features(stages.store, stages.dataset, MD5, stages.backbones, ImageLimits(max_bytes=5000))


def test_an_encoder_that_changed_on_disk_is_refused(stages: Stages, tmp_path: Path) -> None:
    """Its digest is in the key: features of other bytes would be kept under the old name for good."""
    named = Backbones.of(stages.backbones)

    def write(folder: Path) -> None:
        other = {"llm": named.llm, "vision": named.vision, "llm_digest": "a", "vision_digest": "b", "revision": None}
        (folder / "backbones.json").write_text(json.dumps(other))

    stale = stages.store.build("backbones", 1, {"stale": True}, {}, write)
    with pytest.raises(InputError, match="changed since this run began"):
        vectors_stage.vision_features(stages.store, stages.dataset, MD5, stale, ImageLimits())
