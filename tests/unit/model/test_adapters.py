from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from notellm2.model.adapters import merged, tune
from notellm2.model.backbones import backbone_digest, load_language_model
from notellm2.model.bundle import Bundle, BundleConfig, save_bundle
from notellm2.notes.schema import Note
from notellm2.recipe import ImageLimits, LoraSettings
from tests.unit.conftest import Backbone
from tests.unit.model.tiny import build_network, model_config, source_of, varied_notes

IDS = torch.tensor([[5, 9, 30, 7]])


def states(llm: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = llm.eval()(input_ids=IDS).last_hidden_state
    return found


@pytest.mark.parametrize("llm", ["llama", "qwen2", "gpt2"])
def test_fresh_adapters_change_nothing_and_alone_are_trained(llm: str, backbone: Backbone) -> None:
    language = load_language_model(str(backbone(llm)))
    before = states(language.model)
    tuned = tune(language.model, model_config())
    torch.testing.assert_close(states(tuned), before)
    trained = [name for name, parameter in tuned.named_parameters() if parameter.requires_grad]
    assert trained
    assert all("lora_" in name for name in trained)


def test_named_targets_are_the_only_ones_adapted(backbone: Backbone) -> None:
    settings = LoraSettings(rank=2, targets=("q_proj",))
    tuned = tune(load_language_model(str(backbone("llama"))).model, model_config(lora=settings))
    trained = [name for name, parameter in tuned.named_parameters() if parameter.requires_grad]
    assert len(trained) == 4  # two layers, A and B
    assert all("q_proj" in name for name in trained)


def test_merging_keeps_the_embeddings(backbone: Backbone) -> None:
    config = model_config()
    network, language = build_network(backbone("llama"), config)
    batch = source_of(language.tokenizer, varied_notes(3), config).batch(np.arange(3))
    with torch.no_grad():
        before = network(batch).multimodal_BD
        plain = network.llm.disable_adapter()  # type: ignore[operator]
        with plain:
            assert float((network(batch).multimodal_BD - before).abs().max()) > 1e-3, "the adapters do nothing"
        network.llm = merged(network.llm)
        assert not any("lora" in name for name, _ in network.named_parameters())
        torch.testing.assert_close(network(batch).multimodal_BD, before, atol=1e-5, rtol=0)


@pytest.mark.parametrize("llm", ["llama", "gpt2"])
def test_word_embeddings_can_be_trained_beside_the_adapters(llm: str, backbone: Backbone, tmp_path: Path) -> None:
    config = model_config(prompt="text", late_fusion=False, lora=LoraSettings(rank=2, alpha=4, embeddings=True))
    network, language = build_network(backbone(llm), config, vision_width=0)
    words = network.llm.get_input_embeddings()  # type: ignore[operator]
    trained = {n for n, p in network.llm.named_parameters() if p.requires_grad}
    assert {n for n in trained if "lora_" not in n} == {
        n for n, p in network.llm.named_parameters() if p is words.weight
    }
    with torch.no_grad():
        words.weight.add_(torch.randn_like(words.weight), alpha=0.1)  # what training would do to them
    batch = source_of(language.tokenizer, varied_notes(3), config).batch(np.arange(3))
    with torch.no_grad():
        before = network(batch).multimodal_BD
    bundle = BundleConfig(
        model=config,
        images=ImageLimits(),
        llm=str(backbone(llm)),
        llm_digest=language.digest,
        vision=str(backbone("vit")),
        vision_digest=backbone_digest(str(backbone("vit"))),
        revision=None,
    )
    save_bundle(tmp_path / "bundle", network, language, bundle, [Note("1", "a title", ("a",), "some words")])
    with torch.no_grad():
        after = Bundle.load(tmp_path / "bundle").network(batch).multimodal_BD
    torch.testing.assert_close(after, before, atol=1e-5, rtol=0)


def test_frozen_and_full_are_what_they_say(backbone: Backbone) -> None:
    frozen = tune(load_language_model(str(backbone("llama"))).model, model_config(tuning="frozen"))
    assert not any(parameter.requires_grad for parameter in frozen.parameters())
    assert merged(frozen) is frozen
    full = tune(load_language_model(str(backbone("llama"))).model, model_config(tuning="full"))
    assert all(parameter.requires_grad for parameter in full.parameters())
