from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from notellm2.errors import InputError
from notellm2.model.backbones.adapters import merge_adapters, tune, with_lora
from notellm2.model.backbones.load import LanguageModel, backbone_digest, load_language_model
from notellm2.model.bundle.bundle import NARROW_TOLERANCE, Bundle, BundleConfig, save_bundle
from notellm2.model.network.notellm2 import NoteLLM2
from notellm2.model.network.prompt import layout
from notellm2.notes.schema import Note
from notellm2.recipe import ImageLimits, LoraSettings, ModelConfig
from tests.unit.conftest import Backbone
from tests.unit.model.tiny import WIDTH, build_network, model_config, source_of, varied_notes

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


def test_a_target_that_the_llm_does_not_have_is_named_also_beside_one_it_has(backbone: Backbone) -> None:
    settings = LoraSettings(rank=2, targets=("q_proj", "query"))
    with pytest.raises(InputError, match=r"model.lora.targets: the LLM has no module 'query'; expected .*v_proj"):
        tune(load_language_model(str(backbone("llama"))).model, model_config(lora=settings))


def test_merging_keeps_the_embeddings(backbone: Backbone) -> None:
    config = model_config()
    network, language = build_network(backbone("llama"), config)
    batch = source_of(language.tokenizer, varied_notes(3), config).batch(np.arange(3))
    with torch.no_grad():
        before = network(batch).multimodal_BD
        plain = network.llm.disable_adapter()  # type: ignore[operator]
        with plain:
            assert float((network(batch).multimodal_BD - before).abs().max()) > 1e-3, "the adapters do nothing"
        network.llm = merge_adapters(network.llm)
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
    assert merge_adapters(frozen) is frozen
    full = tune(load_language_model(str(backbone("llama"))).model, model_config(tuning="full"))
    assert all(parameter.requires_grad for parameter in full.parameters())


@pytest.mark.parametrize("kind", ["dora", "rslora"])
def test_other_adapters_train_and_merge(kind: str, backbone: Backbone, tmp_path: Path) -> None:
    config = model_config(lora=LoraSettings(rank=2, alpha=4, **{kind: True}))
    network, language = build_network(backbone("llama"), config)
    assert any("magnitude" in n for n, p in network.named_parameters() if p.requires_grad) == (kind == "dora")
    batch = source_of(language.tokenizer, varied_notes(3), config).batch(np.arange(3))
    with torch.no_grad():
        before = network(batch).multimodal_BD
        plain, _ = build_network(backbone("llama"), model_config())
        assert float((plain(batch).multimodal_BD - before).abs().max()) > 1e-3, "it is plain LoRA"
        network.llm = merge_adapters(network.llm)  # type: ignore[arg-type]
        torch.testing.assert_close(network(batch).multimodal_BD, before, atol=1e-5, rtol=0)


def narrow_network(folder: Path, config: ModelConfig) -> tuple[NoteLLM2, LanguageModel]:
    """A network on a base of narrow weights with adapters that do something."""
    torch.manual_seed(0)
    language = load_language_model(str(folder), weights=config.base_weights)
    llm = with_lora(language.module.requires_grad_(False), config.lora)
    network = NoteLLM2(llm, layout(language.tokenizer, config), config, WIDTH)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    return network.eval(), language


@pytest.mark.parametrize("weights", ["bf16", "nf4"])
def test_narrow_base_weights_keep_their_adapters_beside_them(weights: Any, backbone: Backbone, tmp_path: Path) -> None:
    if weights == "nf4":
        pytest.importorskip("bitsandbytes", reason="needs the extra 'quantized'")
    config = model_config(base_weights=weights)
    network, language = narrow_network(backbone("llama-64"), config)
    base = {n: p for n, p in network.named_parameters() if not p.requires_grad}
    assert next(p for n, p in base.items() if "q_proj" in n).dtype == (
        torch.uint8 if weights == "nf4" else torch.bfloat16
    )
    assert {p.dtype for p in network.parameters() if p.requires_grad} == {torch.float32}
    bundle = BundleConfig(
        model=config,
        images=ImageLimits(),
        llm=str(backbone("llama-64")),
        llm_digest=language.digest,
        vision=str(backbone("vit")),
        vision_digest=backbone_digest(str(backbone("vit"))),
        revision=None,
    )
    save_bundle(tmp_path / "bundle", network, language, bundle, [Note("1", "a title", ("a",), "some words")])
    loaded = Bundle.load(tmp_path / "bundle").network
    assert any("lora_A" in name for name, _ in loaded.named_parameters()), "folded into weights that round them away"
    batch = source_of(language.tokenizer, varied_notes(4), config, vision_width=WIDTH).batch(np.arange(4))
    with torch.no_grad():
        torch.testing.assert_close(
            loaded(batch).multimodal_BD, network(batch).multimodal_BD, atol=NARROW_TOLERANCE, rtol=0
        )


def test_bf16_weights_train_their_adapters(backbone: Backbone) -> None:
    """The gradient is that of the same base in float32, to bfloat16's rounding."""
    config = model_config(base_weights="bf16")
    network, language = narrow_network(backbone("llama-64"), config)
    wide, _ = narrow_network(backbone("llama-64"), model_config())
    batch = source_of(language.tokenizer, varied_notes(4), config, vision_width=WIDTH).batch(np.arange(4))
    gradients = []
    for one in (network, wide):
        one(batch).multimodal_BD[:, 0].sum().backward()
        gradients.append(torch.cat([p.grad.flatten() for p in one.parameters() if p.grad is not None]))
    narrow, exact = gradients
    assert float((narrow - exact).norm() / exact.norm()) < 0.05


def test_four_bits_train_on_cuda_only(backbone: Backbone) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a CUDA device")
    with pytest.raises(InputError, match="nf4 is trained on a CUDA device"):
        tune(load_language_model(str(backbone("llama"))).model, model_config(base_weights="nf4"))


def test_four_bits_without_bitsandbytes_say_what_to_do(backbone: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"nf4 needs bitsandbytes; install notellm2\[quantized\]"):
        load_language_model(str(backbone("llama")), weights="nf4")
