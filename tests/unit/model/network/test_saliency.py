"""The flow by layer against transformers' own attentions, and that measuring leaves the model as it was."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from notellm2.model.network.loss import pair_loss
from notellm2.model.network.note_source import NoteSource
from notellm2.model.network.prompt import Layout
from notellm2.model.network.saliency import saliency
from tests.unit.conftest import Backbone
from tests.unit.model.tiny import VARIANTS, build_network, model_config, source_of, varied_notes

PAIRS = np.array([[1, 2], [3, 4], [5, 6]])


@pytest.mark.parametrize("llm", ["llama", "qwen2", "gpt2"])
def test_the_flow_is_that_of_the_models_own_attention(llm: str, backbone: Backbone) -> None:
    network, language = build_network(backbone(llm), model_config(tuning="frozen"))
    source = source_of(language.tokenizer, varied_notes(), model_config())
    found = saliency(network, source, PAIRS)
    assert len(found) == 2

    network.llm.set_attn_implementation("eager")
    attentions: list[torch.Tensor] = []

    def keep(_module: object, _given: object, output: tuple[torch.Tensor, ...]) -> None:
        output[1].retain_grad()
        attentions.append(output[1])

    for name, module in network.llm.named_modules():
        if name.endswith((".self_attn", ".attn")):
            module.register_forward_hook(keep)
    batch = source.batch(PAIRS.reshape(-1))
    pair_loss(network(batch).multimodal_BD, network.log_scale).backward()
    for number, (layer, flow) in enumerate(zip(attentions, found, strict=True), start=1):
        importance = (layer * layer.grad).sum(1).abs().detach().numpy()
        visual, text, rest = [], [], []
        for note, last in enumerate(batch.last_B.tolist()):
            into = importance[note, last]
            slots = set(source.layout.visual_slots.tolist())
            words = set(range(len(source.layout.head), last + 1 - len(source.layout.tail)))
            others = set(range(last + 1)) - slots - words
            for mean, group in ((visual, slots), (text, words), (rest, others)):
                if group:
                    mean.append(np.mean([into[j] for j in sorted(group)]))
        expected = [np.mean(visual), np.mean(text), np.mean(rest)]
        np.testing.assert_allclose([flow.visual, flow.text, flow.rest], expected, rtol=2e-3, atol=1e-9)
        assert min(expected) > 0
        expected = released(importance, batch.last_B.tolist(), source.layout)
        found_here = [flow.released_visual, flow.released_text, flow.released_rest]
        np.testing.assert_allclose(found_here, expected, rtol=2e-3, atol=1e-9)
        # Of the last layer nothing is read but the compression position.
        assert [flow > 0 for flow in expected] == [True, True, number < len(found)]


def released(importance: np.ndarray, lasts: list[int], layout: Layout) -> list[float]:
    """The groups of the authors' code, entry by entry: into the last from the clause, from others; all other flow."""
    assert layout.visual_position is not None
    clause = range(int(layout.visual_slots[0]), layout.visual_position + 2)
    means: list[list[float]] = [[], [], []]
    for note, last in enumerate(lasts):
        groups: list[list[float]] = [[], [], []]
        for into in range(last + 1):
            for source in range(into):
                group = 2 if into < last else 0 if source in clause else 1
                groups[group].append(float(importance[note, into, source]))
        for mean, values in zip(means, groups, strict=True):
            mean.append(float(np.mean(values)))
    return [float(np.mean(values)) for values in means]


def test_measuring_changes_nothing(backbone: Backbone) -> None:
    network, language = build_network(backbone("llama"), model_config())
    source = source_of(language.tokenizer, varied_notes(), model_config())
    before = network(source.batch(np.arange(4))).multimodal_BD.detach().clone()
    kind = network.llm.config._attn_implementation
    network.train()
    saliency(network, source, PAIRS)
    assert network.training
    assert network.llm.config._attn_implementation == kind
    assert all(parameter.grad is None for parameter in network.parameters())
    network.eval()
    assert network(source.batch(np.arange(4))).multimodal_BD.equal(before)


def test_pairs_are_averaged_over_groups_of_eight(backbone: Backbone) -> None:
    network, language = build_network(backbone("llama"), model_config())
    source = source_of(language.tokenizer, varied_notes(20), model_config())
    pairs = np.arange(20).reshape(10, 2)
    whole = saliency(network, source, pairs)
    halves = [saliency(network, source, pairs[:5]), saliency(network, source, pairs[5:])]
    for layer, (first, second) in zip(whole, zip(*halves, strict=True), strict=True):
        assert layer.visual == pytest.approx((first.visual + second.visual) / 2, rel=1e-4)


def test_variants_without_visual_tokens_or_llm(backbone: Backbone) -> None:
    for name in ("text", "late"):
        config = model_config(**VARIANTS[name])
        network, language = build_network(backbone("llama"), config)
        source = source_of(language.tokenizer, varied_notes(), config)
        if name == "text":
            source = NoteSource(source.layout, source.texts, None)
        assert all(flow.visual == 0 < flow.text for flow in saliency(network, source, PAIRS))
    config = model_config(**VARIANTS["vision"])
    network, language = build_network(backbone("llama"), config)
    assert saliency(network, source_of(language.tokenizer, varied_notes(), config), PAIRS) == []


def test_one_pair_has_no_negatives(backbone: Backbone) -> None:
    network, language = build_network(backbone("llama"), model_config())
    source = source_of(language.tokenizer, varied_notes(), model_config())
    with pytest.raises(ValueError, match="at least two pairs, got 1"):
        saliency(network, source, PAIRS[:1])
