"""Where the embeddings are read, what may move them, and that padding and batching never do."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from notellm2.errors import InputError
from notellm2.model.network.note_source import NoteSource
from notellm2.model.network.notellm2 import NoteLLM2, assemble
from notellm2.model.network.prompt import IMAGE_WORD, VISUAL_SLOT, encode_texts
from notellm2.notes.schema import Note
from notellm2.recipe import TextLimits
from tests.unit.conftest import Backbone
from tests.unit.model.tiny import VARIANTS, VISION, build_network, model_config, source_of, varied_notes

LLMS = ["llama", "qwen2", "qwen3", "gpt2"]
ATOL = 2e-5


def by_hand(network: NoteLLM2, source: NoteSource, row: int) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Raw n_m and n_v of one note: its own sequence, without padding, built token by token."""
    assert source.vision is not None
    if network.llm is None:
        return torch.from_numpy(source.vision[row, 0].astype(np.float32)), None
    words = network.llm.get_input_embeddings()  # type: ignore[operator]
    visual = None
    if network.connector is not None:
        visual = iter(network.connector(torch.from_numpy(source.vision[row : row + 1].astype(np.float32)))[0])
    ids = [*network.layout.head.tolist(), *source.texts.text(row).tolist(), *network.layout.tail.tolist()]
    sequence = []
    for token in ids:
        if token == VISUAL_SLOT:
            assert visual is not None
            sequence.append(next(visual))
        elif token == IMAGE_WORD:
            assert network.image_word is not None
            sequence.append(network.image_word)
        else:
            sequence.append(words(torch.tensor(token)))
    hidden = network.llm(inputs_embeds=torch.stack(sequence)[None]).last_hidden_state[0]
    return hidden[-1], hidden[ids.index(IMAGE_WORD) - 1] if IMAGE_WORD in ids else None


@pytest.mark.parametrize("llm", LLMS)
@pytest.mark.parametrize("variant", VARIANTS)
def test_hidden_states_are_read_at_the_compression_positions(llm: str, variant: str, backbone: Backbone) -> None:
    config = model_config(**VARIANTS[variant])
    network, language = build_network(backbone(llm), config)
    source = source_of(language.tokenizer, varied_notes(5), config)
    rows = np.arange(5)
    with torch.no_grad():
        hidden = network.hidden(source.batch(rows))
        for row in rows:
            n_m, n_v = by_hand(network, source, row)
            summary = torch.from_numpy(source.vision[row, 0].astype(np.float32))  # type: ignore[index]
            if network.fusion is not None:
                n_m = network.fusion(n_m, summary)
                n_v = None if n_v is None else network.fusion(n_v, summary)
            torch.testing.assert_close(hidden.multimodal_BH[row], n_m, atol=ATOL, rtol=1e-4)
            if n_v is None:
                assert hidden.visual_BH is None
            else:
                assert hidden.visual_BH is not None
                torch.testing.assert_close(hidden.visual_BH[row], n_v, atol=ATOL, rtol=1e-4)


@pytest.mark.parametrize("llm", LLMS)
def test_text_never_moves_the_visual_embedding_and_the_image_moves_both(llm: str, backbone: Backbone) -> None:
    config = model_config()
    network, language = build_network(backbone(llm), config)
    notes = [Note("a", "a walk"), Note("b", "quite another text", ("with", "topics"), "and content")]
    vision = torch.randn(1, *VISION, generator=torch.Generator().manual_seed(0)).expand(2, -1, -1)
    texts = encode_texts(language.tokenizer, notes, config)
    with torch.no_grad():
        same = network(assemble(network.layout, [texts.text(0), texts.text(1)], vision))
        other = network(assemble(network.layout, [texts.text(0), texts.text(1)], -vision))
    assert same.visual_BD is not None
    assert other.visual_BD is not None
    torch.testing.assert_close(same.visual_BD[0], same.visual_BD[1], atol=1e-6, rtol=0)
    assert float((same.multimodal_BD[0] - same.multimodal_BD[1]).abs().max()) > 1e-3
    assert float((same.visual_BD - other.visual_BD).abs().max()) > 1e-3
    assert float((same.multimodal_BD - other.multimodal_BD).abs().max()) > 1e-3


@pytest.mark.parametrize("variant", ["micl", "basic"])
def test_the_llm_itself_reads_the_image(variant: str, backbone: Backbone) -> None:
    network, language = build_network(backbone("llama"), model_config(**VARIANTS[variant]))
    text = encode_texts(language.tokenizer, [Note("a", "a walk")], model_config()).text(0)
    vision = torch.randn(1, *VISION, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        first, second = (network(assemble(network.layout, [text], sign * vision)) for sign in (1, -1))
    assert float((first.multimodal_BD - second.multimodal_BD).abs().max()) > 1e-3


@pytest.mark.parametrize("llm", LLMS)
def test_padding_and_batching_never_change_an_embedding(llm: str, backbone: Backbone) -> None:
    config = model_config()
    network, language = build_network(backbone(llm), config)
    source = source_of(language.tokenizer, varied_notes(), config)
    rows = np.arange(12)
    assert len(set(source.texts.lengths.tolist())) > 4, "the notes should differ in length"
    with torch.no_grad():
        together = network(source.batch(rows))
        alone = [network(source.batch(rows[i : i + 1])) for i in rows]
    torch.testing.assert_close(together.multimodal_BD, torch.cat([a.multimodal_BD for a in alone]), atol=ATOL, rtol=0)
    assert together.visual_BD is not None
    torch.testing.assert_close(together.visual_BD, torch.cat([a.visual_BD for a in alone]), atol=ATOL, rtol=0)
    norms = together.multimodal_BD.norm(dim=1)
    torch.testing.assert_close(norms, torch.ones_like(norms))


def test_text_cut_at_max_tokens_keeps_the_compression_position(backbone: Backbone) -> None:
    config = model_config(text=TextLimits(content_chars=900, max_tokens=8))
    network, language = build_network(backbone("llama"), config)
    source = source_of(language.tokenizer, [Note("long", content="walk " * 150), Note("none")], config)
    batch = source.batch(np.array([0, 1]))
    head, tail = network.layout.head, network.layout.tail
    assert batch.tokens_BL.shape == (2, len(head) + 8 + len(tail))
    assert batch.tokens_BL[0, -len(tail) :].tolist() == tail.tolist()
    assert batch.last_B.tolist() == [len(head) + 8 + len(tail) - 1, len(head) + len(tail) - 1]
    assert batch.tokens_BL[1, len(head) : len(head) + len(tail)].tolist() == tail.tolist()
    assert batch.tokens_BL[1, len(head) + len(tail) :].tolist() == [0] * 8


def test_the_image_word_starts_as_the_mean_and_learns(backbone: Backbone) -> None:
    network, language = build_network(backbone("llama"), model_config(tuning="frozen"))
    assert network.image_word is not None
    vocabulary: Any = language.model.get_input_embeddings()  # type: ignore[operator]
    torch.testing.assert_close(network.image_word.detach(), vocabulary.weight.mean(0))
    source = source_of(language.tokenizer, varied_notes(3), model_config())
    embedded = network(source.batch(np.arange(3)))
    embedded.multimodal_BD[:, 0].sum().backward()
    assert network.image_word.grad is not None
    assert float(network.image_word.grad.abs().max()) > 0
    assert vocabulary.weight.grad is None, "a frozen LLM got a gradient"


@pytest.mark.parametrize("variant", VARIANTS)
def test_only_micl_has_an_image_word(variant: str, backbone: Backbone) -> None:
    network, _ = build_network(backbone("llama"), model_config(**VARIANTS[variant]))
    assert (network.image_word is not None) == variant.startswith("micl")
    assert (network.fusion is not None) == ("late" in variant)
    assert (network.connector is not None) == variant.startswith(("micl", "basic"))


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_trainable_weight_of_a_variant_gets_a_gradient(variant: str, backbone: Backbone) -> None:
    config = model_config(**VARIANTS[variant])
    network, language = build_network(backbone("llama"), config)
    embedded = network(source_of(language.tokenizer, varied_notes(4), config).batch(np.arange(4)))
    (embedded.multimodal_BD[:, 0].sum() * network.log_scale.exp()).backward()
    idle = [n for n, p in network.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())]
    assert idle == []


@pytest.mark.parametrize("centre", [True, False])
def test_the_encoder_alone_says_nothing_of_a_note_without_image(centre: bool, backbone: Backbone) -> None:
    """A centred head's bias alone would be one unit vector for all of them: to an index the nearest neighbours."""
    config = model_config(**VARIANTS["vision"], centre=centre)
    network, language = build_network(backbone("llama"), config)
    source = source_of(language.tokenizer, varied_notes(4), config)
    with torch.no_grad():
        x = network(source.batch(np.arange(4), imageless=np.array([True, False, True, False]))).multimodal_BD
    torch.testing.assert_close(x.norm(dim=-1), torch.tensor([0.0, 1.0, 0.0, 1.0]))


def test_missing_features_are_an_error_not_a_guess(backbone: Backbone) -> None:
    for variant in ("micl", "late"):
        network, _ = build_network(backbone("llama"), model_config(**VARIANTS[variant]))
        with pytest.raises(ValueError, match=r"needs? vision features"):
            network(assemble(network.layout, [np.zeros(1, np.int32)], None))


def test_a_prompt_longer_than_the_llm_reads_is_refused(backbone: Backbone) -> None:
    with pytest.raises(InputError, match=r"model.text.max_tokens \(500\).*the LLM reads 512"):
        build_network(backbone("gpt2"), model_config(text=TextLimits(max_tokens=500)))
