"""Every kind of backbone through its real files: assembled, trained a little, saved as a bundle, loaded, the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from notellm2.model.backbones.encode_images import encode_images
from notellm2.model.backbones.load import LanguageModel, VisionEncoder, load_vision_encoder
from notellm2.model.bundle import bundle
from notellm2.model.bundle.bundle import Bundle, BundleConfig, save_bundle
from notellm2.model.network.note_source import NoteSource
from notellm2.model.network.notellm2 import NoteLLM2
from notellm2.model.network.prompt import encode_texts, layout
from notellm2.notes.schema import Note
from notellm2.recipe import ConnectorConfig, ImageLimits, ModelConfig
from tests.unit.conftest import Backbone
from tests.unit.model.tiny import build_network, bundle_config, model_config, png

NOTES = [
    Note("both", "a walk", ("hills",), "we walked all day", png((200, 30, 30))),
    Note("text", "a river", (), "it ran low"),
    Note("image", image=png((20, 40, 220))),
]
PAIRS = [("llama", "mobilenet"), ("qwen2", "siglip"), ("qwen3", "clip"), ("gpt2", "dinov2")]


def source(language: LanguageModel, vision: VisionEncoder, config: ModelConfig) -> NoteSource:
    features, failed = encode_images(vision, NOTES, ImageLimits())
    assert failed == []
    texts = encode_texts(language.tokenizer, NOTES, config)
    return NoteSource(layout(language.tokenizer, config), texts, features)


def assembled(
    backbone: Backbone, llm: str, eyes: str, config: ModelConfig
) -> tuple[NoteLLM2, LanguageModel, NoteSource, BundleConfig]:
    vision = load_vision_encoder(str(backbone(eyes)))
    network, language = build_network(backbone(llm), config, vision.width)
    described = bundle_config(config, language, backbone(llm), backbone(eyes))
    return network, language, source(language, vision, config), described


def tune_a_little(network: NoteLLM2, notes: NoteSource, steps: int = 2) -> None:
    """Pull the first two notes together."""
    optimiser = torch.optim.AdamW([p for p in network.parameters() if p.requires_grad], lr=1e-2, weight_decay=0.1)
    for _ in range(steps):
        optimiser.zero_grad()
        embedded = network(notes.batch(np.arange(3)))
        loss = -embedded.multimodal_BD[0] @ embedded.multimodal_BD[1]
        if embedded.visual_BD is not None:
            loss = loss - embedded.visual_BD[0] @ embedded.visual_BD[2]
        loss.backward()
        optimiser.step()


@pytest.mark.parametrize(("llm", "eyes"), PAIRS)
@pytest.mark.parametrize("kind", ["qformer", "qformer-prenorm", "perceiver", "mlp"])
def test_a_bundle_of_any_backbones_embeds_as_trained(
    llm: str, eyes: str, kind: Any, backbone: Backbone, tmp_path: Path
) -> None:
    config = model_config(connector=ConnectorConfig(kind=kind, queries=3, layers=1, width=8, heads=2))
    network, language, notes, described = assembled(backbone, llm, eyes, config)
    tune_a_little(network, notes)
    with torch.no_grad():
        expected = network(notes.batch(np.arange(3))).multimodal_BD.numpy()
    save_bundle(tmp_path / "bundle", network, language, described, NOTES)
    found = Bundle.load(tmp_path / "bundle").embed(NOTES)
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert float(np.abs(expected[0] - expected[2]).max()) > 1e-3


@pytest.mark.parametrize("llm", ["llama", "qwen2", "qwen3", "gpt2"])
@pytest.mark.parametrize("tuning", ["lora", "frozen"])
def test_the_new_word_alone_extends_the_vocabulary(llm: str, tuning: str, backbone: Backbone, tmp_path: Path) -> None:
    """Trained and restored; every row of the pretrained vocabulary stays as it was, weight decay included."""
    config = model_config(tuning=tuning)
    network, language, notes, described = assembled(backbone, llm, "vit", config)
    words: Any = network.llm.get_input_embeddings()  # type: ignore[union-attr, operator]
    vocabulary, start = words.weight.detach().clone(), network.image_word.detach().clone()  # type: ignore[union-attr]
    tune_a_little(network, notes, steps=3)
    torch.testing.assert_close(words.weight.detach(), vocabulary, atol=0, rtol=0)
    trained = network.image_word.detach().clone()  # type: ignore[union-attr]
    assert float((trained - start).abs().min()) > 1e-4, "a coordinate of the new word was not trained"
    save_bundle(tmp_path / "bundle", network, language, described, NOTES)
    assert load_file(tmp_path / "bundle" / "heads.safetensors")["image_word"].equal(trained)
    restored = Bundle.load(tmp_path / "bundle")
    assert restored.network.image_word is not None
    assert restored.network.image_word.detach().equal(trained)
    assert restored.network.llm is not None
    found: Any = restored.network.llm.get_input_embeddings()  # type: ignore[operator]
    assert found.weight.detach().equal(vocabulary)
    assert restored.tokenizer.get_vocab() == language.tokenizer.get_vocab()


def test_full_tuning_trains_the_vocabulary_and_the_new_word_apart(backbone: Backbone, tmp_path: Path) -> None:
    config = model_config(tuning="full")
    network, language, notes, described = assembled(backbone, "qwen2", "vit", config)
    words: Any = network.llm.get_input_embeddings()  # type: ignore[union-attr, operator]
    before = words.weight.detach().clone()
    tune_a_little(network, notes)
    read = np.unique(np.concatenate([notes.texts.tokens, notes.layout.head[notes.layout.head >= 0]]))
    assert float((words.weight.detach() - before)[read].abs().max()) > 1e-4
    save_bundle(tmp_path / "bundle", network, language, described, NOTES)
    restored = Bundle.load(tmp_path / "bundle").network
    found: Any = restored.llm.get_input_embeddings()  # type: ignore[union-attr, operator]
    assert found.weight.detach().equal(words.weight.detach())
    assert restored.image_word is not None
    assert network.image_word is not None
    assert restored.image_word.detach().equal(network.image_word.detach())


def test_a_loaded_network_is_where_its_llm_is(
    backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """4-bit weights are put onto a GPU as they are loaded, and the heads follow; "meta" stands for it here."""
    network, language, _, described = assembled(backbone, "llama", "vit", model_config())
    save_bundle(tmp_path / "bundle", network, language, described, NOTES)
    monkeypatch.setattr(
        bundle, "_load_llm", lambda *_: LanguageModel(language.module.to("meta"), language.tokenizer, language.digest)
    )
    loaded = Bundle.load(tmp_path / "bundle", check=False)
    assert {parameter.device.type for parameter in loaded.network.parameters()} == {"meta"}
