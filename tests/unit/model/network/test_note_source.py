from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from notellm2.model.network.note_source import NoteSource, embed_rows, hidden_rows, shuffled_images
from tests.unit.conftest import Backbone
from tests.unit.model.tiny import VISION, build_network, model_config, source_of, tokenizer, varied_notes


def test_chunks_cover_every_row_once_in_like_lengths() -> None:
    source = source_of(tokenizer(), varied_notes(), model_config())
    rows = np.array([7, 2, 2, 11, 0, 5, 9])
    seen = []
    lengths = []
    for positions, batch in source.chunks(rows, 3):
        assert 1 <= len(positions) <= 3
        seen += positions.tolist()
        lengths += source.texts.lengths[rows[positions]].tolist()
        for position, vision in zip(positions, batch.vision_BPV, strict=True):  # type: ignore[arg-type]
            np.testing.assert_array_equal(vision.numpy(), source.vision[rows[position]].astype(np.float32))  # type: ignore[index]
    assert sorted(seen) == list(range(7))
    assert lengths == sorted(lengths)


@pytest.mark.parametrize("modality", ["both", "text", "image"])
def test_bulk_embedding_equals_one_by_one_in_the_order_asked(modality: str, backbone: Backbone) -> None:
    config = model_config()
    network, language = build_network(backbone("llama"), config)
    source = source_of(language.tokenizer, varied_notes(), config)
    rows = np.array([3, 11, 0, 3, 8])
    network.train()
    found = embed_rows(network, source, rows, size=2, modality=modality)  # type: ignore[arg-type]
    hidden = hidden_rows(network, source, rows, size=2, modality=modality)  # type: ignore[arg-type]
    assert network.training, "the network was left in another mode"
    assert found.dtype == np.float32
    network.eval()
    with torch.no_grad():
        alone = torch.cat([network(source.batch(rows[i : i + 1], modality)).multimodal_BD for i in range(5)])  # type: ignore[arg-type]
        fused = torch.cat([network.hidden(source.batch(rows[i : i + 1], modality)).visual_BH for i in range(5)])  # type: ignore[arg-type]
    np.testing.assert_allclose(found, alone.numpy(), atol=2e-5)
    torch.testing.assert_close(hidden.visual_BH, fused, atol=2e-5, rtol=1e-4)
    torch.testing.assert_close(network.embed(hidden).multimodal_BD, alone, atol=2e-5, rtol=0)


def test_modalities_withhold_what_they_say() -> None:
    source = source_of(tokenizer(), varied_notes(), model_config())
    rows = np.array([4, 9])
    text, image = source.batch(rows, "text"), source.batch(rows, "image")
    both = source.batch(rows)
    assert text.tokens_BL.equal(both.tokens_BL)
    assert not text.vision_BPV.any()  # type: ignore[union-attr]
    assert image.vision_BPV.equal(both.vision_BPV)  # type: ignore[arg-type,union-attr]
    prompt = len(source.layout.head) + len(source.layout.tail)
    assert image.tokens_BL.shape == (2, prompt)
    assert image.last_B.tolist() == [prompt - 1] * 2


def test_shuffled_images_belong_to_other_notes() -> None:
    has_image = np.array([True, False, True, True, False, True])
    images = shuffled_images(has_image)
    assert sorted(images) == list(range(6))
    assert (images != np.arange(6))[has_image].all()
    assert images[~has_image].tolist() == [1, 4], "a note without image stays without"
    np.testing.assert_array_equal(images, shuffled_images(has_image))
    assert (shuffled_images(np.ones(200, bool)) != shuffled_images(np.ones(200, bool), seed=1)).any()
    assert shuffled_images(np.array([False, True])).tolist() == [0, 1], "no other image to show"
    source = source_of(tokenizer(), varied_notes(), model_config())
    other = replace(source, images=shuffled_images(np.ones(len(source.texts), bool)))
    rows = np.array([4, 9])
    shown, own = other.batch(rows), source.batch(other.images[rows])
    assert shown.vision_BPV.equal(own.vision_BPV)  # type: ignore[union-attr,arg-type]
    assert shown.tokens_BL.equal(source.batch(rows).tokens_BL)


def test_without_vision_there_is_no_image_anywhere() -> None:
    source = source_of(tokenizer(), varied_notes(3), model_config())
    assert NoteSource(source.layout, source.texts, None).batch(np.arange(3)).vision_BPV is None
    assert source.batch(np.arange(3)).vision_BPV.shape == (3, *VISION)  # type: ignore[union-attr]
