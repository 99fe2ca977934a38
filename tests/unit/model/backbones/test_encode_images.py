from __future__ import annotations

import numpy as np
import pytest
import torch

from notellm2.model.backbones.encode_images import encode_images
from notellm2.model.backbones.load import VisionEncoder, load_vision_encoder
from notellm2.notes.schema import Note
from notellm2.recipe import ImageLimits
from tests.unit.conftest import Backbone
from tests.unit.model.tiny import WIDTH, png

PICTURED = Note("n0", image=png((200, 30, 30)))


@pytest.fixture(scope="module")
def vision(backbone: Backbone) -> VisionEncoder:
    return load_vision_encoder(str(backbone("vit")))


def test_rows_stay_with_their_notes(vision: VisionEncoder) -> None:
    notes = [Note(f"n{i}", image=png((i * 20, 90, 255 - i * 20)) if i % 3 else None) for i in range(11)]
    notes[4] = Note("torn", image=b"no image")
    features, failed = encode_images(vision, notes, ImageLimits(), batch=4)
    assert features.dtype == np.float16
    assert features.shape == (11, vision.tokens, vision.width)
    assert [note_id for note_id, _ in failed] == ["torn"]
    for row, note in enumerate(notes):
        alone, _ = encode_images(vision, [note], ImageLimits())
        np.testing.assert_allclose(features[row].astype(np.float32), alone[0].astype(np.float32), atol=5e-3)
        assert features[row].any() == (row % 3 > 0 and row != 4)


def test_only_a_batch_of_images_is_decoded_at_once(vision: VisionEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Decoded images are up to 120 MB each: a list of them all would fill any machine."""
    from notellm2.model.backbones import encode_images as room

    waiting = 0
    most = 0
    decode, features = room.decode_image, vision.features

    def counted(data: bytes, limits: ImageLimits) -> object:
        nonlocal waiting, most
        waiting += 1
        most = max(most, waiting)
        return decode(data, limits)

    def drained(pictures: list[object]) -> torch.Tensor:
        nonlocal waiting
        waiting = 0
        return features(pictures)  # type: ignore[arg-type]

    monkeypatch.setattr(room, "decode_image", counted)
    monkeypatch.setattr(vision, "features", drained)
    encode_images(vision, [PICTURED] * 10, ImageLimits(), batch=3)
    assert most == 3


def test_features_that_float16_cannot_hold_are_an_error(vision: VisionEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    for bad in (1e6, float("nan")):
        monkeypatch.setattr(vision, "features", lambda images, bad=bad: torch.full((len(images), 5, WIDTH), bad))
        with pytest.raises(ValueError, match="too large for float16"):
            encode_images(vision, [PICTURED], ImageLimits())
