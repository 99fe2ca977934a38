"""A pretrained multimodal LLM behind the same network: it sees what its own forward pass sees, and bundles alike."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText

from notellm2.artifacts import Store
from notellm2.embedding.by_bundle import adopt
from notellm2.errors import InputError
from notellm2.model.backbones.backbones_stage import Backbones
from notellm2.model.backbones.encode_images import encode_images
from notellm2.model.backbones.load import backbone_digest, load_vision_encoder
from notellm2.model.backbones.multimodal import grid_positions
from notellm2.model.bundle.bundle import Bundle, BundleConfig, save_bundle
from notellm2.model.bundle.export import export_bundle
from notellm2.model.network.note_source import NoteSource
from notellm2.model.network.notellm2 import NoteBatch, NoteLLM2
from notellm2.model.network.prompt import IMAGE_WORD, VISUAL_SLOT, encode_texts, layout
from notellm2.notes.schema import Note
from notellm2.recipe import BackbonesConfig, ConnectorConfig, ImageLimits
from tests.unit.conftest import Backbone
from tests.unit.model.tiny import build_network, model_config, png

NOTES = [
    Note("both", "a walk", ("hills",), "we walked all day", png((200, 30, 30))),
    Note("other", "a river", (), "it ran low", png((20, 40, 220))),
    Note("text", "a river", (), "it ran low"),
]
TOKENS = {"qwen2-vl": 64, "smolvlm": 4}
"""Visual tokens of an image: (224 / 14 / 2)² and (64 / 16 / 2)²."""
KINDS = list(TOKENS)


def config_of(kind: str, **changed: Any) -> Any:
    connector = ConnectorConfig(kind="none", queries=TOKENS[kind])
    return model_config(**({"connector": connector, "late_fusion": False} | changed))


def of(kind: str, backbone: Backbone, config: Any) -> tuple[NoteLLM2, Any, NoteSource]:
    vision = load_vision_encoder(str(backbone(kind)))
    network, language = build_network(backbone(kind), config, vision.width)
    features, failed = encode_images(vision, NOTES, ImageLimits())
    assert failed == []
    texts = encode_texts(language.tokenizer, NOTES, config)
    return network, language, NoteSource(layout(language.tokenizer, config), texts, features)


@pytest.mark.parametrize("kind", KINDS)
def test_the_encoder_gives_the_models_own_visual_tokens(kind: str, backbone: Backbone) -> None:
    vision = load_vision_encoder(str(backbone(kind)))
    red, blue = Image.new("RGB", (40, 30), (200, 10, 10)), Image.new("RGB", (30, 500), (10, 10, 200))
    both = vision.features([red, blue])
    assert both.shape == (2, 1 + TOKENS[kind], vision.width)
    torch.testing.assert_close(both[:, 0], both[:, 1:].mean(1))
    torch.testing.assert_close(both[1:], vision.features([blue]), atol=1e-4, rtol=1e-3)
    assert float((both[0] - both[1]).abs().max()) > 1e-3


@pytest.mark.parametrize("prompt", ["basic", "micl"])
@pytest.mark.parametrize("kind", KINDS)
def test_hidden_states_are_those_of_the_models_own_forward_pass(kind: str, prompt: str, backbone: Backbone) -> None:
    """Same tokens, same image: also the positions of rows and columns, which nobody passes on by hand there."""
    config = config_of(kind, prompt=prompt, tuning="frozen")
    network, _, source = of(kind, backbone, config)
    whole = AutoModelForImageTextToText.from_pretrained(backbone(kind)).eval()
    image = whole.config.image_token_id
    ids = torch.from_numpy(source.batch(np.array([0])).tokens_BL.numpy().copy())
    assert int((ids == VISUAL_SLOT).sum()) == TOKENS[kind]
    # The new word has no row there: an ordinary one stands in for it, on both sides.
    if prompt == "micl":
        stand_in = whole.get_input_embeddings().weight[7].detach()
        network.image_word.data.copy_(stand_in)  # type: ignore[union-attr]
    ids[ids == IMAGE_WORD] = 7
    ids[ids == VISUAL_SLOT] = image
    vision = load_vision_encoder(str(backbone(kind)))
    square = Image.new("RGB", (24, 24), (200, 30, 30)).resize((224, 224))
    nested = [[square]] if kind == "smolvlm" else [square]
    options = {"do_image_splitting": False} if kind == "smolvlm" else {}
    pixels = dict(vision.processor(nested, return_tensors="pt", **options))
    if kind == "qwen2-vl":
        pixels["mm_token_type_ids"] = (ids == image).int()
    with torch.no_grad():
        expected = whole.model(input_ids=ids, attention_mask=torch.ones_like(ids), **pixels).last_hidden_state[0]
        found = network.hidden(source.batch(np.array([0])))
    torch.testing.assert_close(found.multimodal_BH[0], expected[-1], atol=5e-3, rtol=5e-3)
    if prompt == "micl":
        position = source.layout.visual_position
        assert position is not None
        assert found.visual_BH is not None
        torch.testing.assert_close(found.visual_BH[0], expected[position], atol=5e-3, rtol=5e-3)


def test_images_stand_between_the_marks_that_the_model_knows(backbone: Backbone) -> None:
    for kind, before, after in (
        ("qwen2-vl", ["<|vision_start|>"], ["<|vision_end|>"]),
        ("smolvlm", ["<fake_token_around_image>", "<global-img>"], ["<fake_token_around_image>"]),
    ):
        _, language, source = of(kind, backbone, config_of(kind))
        slots = source.layout.visual_slots
        words = language.tokenizer
        head = source.layout.head.tolist()
        assert words.convert_ids_to_tokens(head[slots[0] - len(before) : slots[0]]) == before
        assert words.convert_ids_to_tokens(head[slots[-1] + 1 : slots[-1] + 1 + len(after)]) == after


def test_grid_positions_are_text_then_a_square_then_text() -> None:
    found = grid_positions(np.array([2, 3, 4, 5]), 8)[:, 0]
    assert found.tolist() == [[0, 1, 2, 2, 2, 2, 4, 5], [0, 1, 2, 2, 3, 3, 4, 5], [0, 1, 2, 3, 2, 3, 4, 5]]
    assert grid_positions(np.array([], np.int64), 3)[:, 0].tolist() == [[0, 1, 2]] * 3


@pytest.mark.parametrize(("kind", "tuning"), [("qwen2-vl", "lora"), ("smolvlm", "full"), ("smolvlm", "lora")])
def test_it_trains_and_bundles_as_any_other(kind: str, tuning: str, backbone: Backbone, tmp_path: Path) -> None:
    config = config_of(kind, tuning=tuning, late_fusion=True)
    network, language, source = of(kind, backbone, config)
    optimiser = torch.optim.AdamW([p for p in network.parameters() if p.requires_grad], lr=1e-2)
    before = float(
        network(source.batch(np.arange(3))).multimodal_BD[0] @ network(source.batch(np.arange(3))).multimodal_BD[1]
    )
    for _ in range(3):
        optimiser.zero_grad()
        x = network(source.batch(np.arange(3))).multimodal_BD
        (-x[0] @ x[1]).backward()
        optimiser.step()
    name, digest = str(backbone(kind)), backbone_digest(str(backbone(kind)))
    described = BundleConfig(
        model=config,
        images=ImageLimits(),
        llm=name,
        llm_digest=digest,
        vision=name,
        vision_digest=digest,
        revision=None,
    )
    with torch.no_grad():
        expected = network(source.batch(np.arange(3))).multimodal_BD.numpy()
    assert float(expected[0] @ expected[1]) > before
    save_bundle(tmp_path / "bundle", network.eval(), language, described, NOTES)
    assert sorted(p.name for p in (tmp_path / "bundle" / "base").iterdir()) == ["vision" if tuning == "full" else "llm"]
    np.testing.assert_allclose(Bundle.load(tmp_path / "bundle").embed(NOTES), expected, atol=1e-4)
    adopted = Backbones.of(adopt(Store(tmp_path / "store"), tmp_path / "bundle"))
    assert backbone_digest(adopted.vision) == digest, "the encoder inside the bundle is not found"
    with pytest.raises(InputError, match="multimodal LLM, which is not exported"):
        export_bundle(tmp_path / "bundle", tmp_path / "exported")


def test_a_recipe_names_it_once(backbone: Backbone) -> None:
    named = BackbonesConfig(mllm="org/some-vlm")
    assert (named.llm, named.vision) == ("org/some-vlm", "org/some-vlm")
    assert BackbonesConfig.model_validate(named.model_dump()) == named
    with pytest.raises(ValueError, match="mllm is both backbones"):
        BackbonesConfig(mllm="org/some-vlm", llm="org/other")


def test_what_does_not_fit_is_refused(backbone: Backbone) -> None:
    with pytest.raises(InputError, match=r"tokens have 16 numbers, the LLM reads 32"):
        build_network(backbone("qwen2-vl"), config_of("qwen2-vl"), 16)
    network, _ = build_network(backbone("smolvlm"), config_of("smolvlm"), 16)
    tokens = torch.from_numpy(np.concatenate([network.layout.head, network.layout.tail])[None].astype(np.int64))
    with pytest.raises(InputError, match=r"queries \(4\): the encoder gives 8 tokens"):
        network(NoteBatch(tokens, torch.tensor([tokens.shape[1] - 1]), torch.zeros(1, 9, 16)))
