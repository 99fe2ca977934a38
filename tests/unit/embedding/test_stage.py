from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from notellm2.artifacts import Artifact
from notellm2.embedding import stage
from notellm2.errors import InputError
from notellm2.model.backbones import load_vision_encoder
from notellm2.model.bundle import Bundle, encode_images
from notellm2.model.stage import Backbones
from notellm2.notes.schema import Note
from notellm2.recipe import ImageLimits
from tests.unit.training.small_run import BARE, BROKEN, COUNT, MD5, Stages, vectors


@pytest.fixture(scope="module")
def trained(stages: Stages) -> Artifact:
    return stages.train()


@pytest.fixture(scope="module")
def embedded(stages: Stages, trained: Artifact) -> Artifact:
    return stage.embed(stages.store, stages.dataset, MD5, trained, stages.features)


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
    assert stage.embed(stages.store, stages.dataset, MD5, trained, stages.features) == embedded
    features = stage.vision_features(stages.store, stages.dataset, MD5, stages.backbones, ImageLimits())
    assert features == stages.features
    with pytest.raises(AssertionError, match="a second time"):
        stage.vision_features(stages.store, stages.dataset, MD5, stages.backbones, ImageLimits(max_bytes=5000))


def test_an_encoder_that_changed_on_disk_is_refused(stages: Stages, tmp_path: Path) -> None:
    """Its digest is in the key: features of other bytes would be kept under the old name for good."""
    named = Backbones.of(stages.backbones)

    def write(folder: Path) -> None:
        other = {"llm": named.llm, "vision": named.vision, "llm_digest": "a", "vision_digest": "b", "revision": None}
        (folder / "backbones.json").write_text(json.dumps(other))

    stale = stages.store.build("backbones", 1, {"stale": True}, {}, write)
    with pytest.raises(InputError, match="changed since this run began"):
        stage.vision_features(stages.store, stages.dataset, MD5, stale, ImageLimits())
