from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from notellm2.model.network.fitted_start import mean_cosine
from notellm2.model.network.loss import chance_loss, pair_loss
from notellm2.model.network.note_source import NoteSource, Rows
from notellm2.model.network.notellm2 import Embeddings, NoteBatch, NoteLLM2
from notellm2.training import step as steps
from notellm2.training.batches import PairOrder, withheld_images
from notellm2.training.hard_negatives import HardNegatives
from notellm2.training.loop import build_optimiser
from notellm2.training.step import BatchEmbedding, Comparison, StepContext, compare, take_step
from tests.unit.conftest import Backbone
from tests.unit.model.tiny import model_config
from tests.unit.training.small_task import CONNECTOR, network_for, training_config

ROWS = np.array([5, 9, 5, 0, 33, 9])


def bare(network: NoteLLM2, batch: NoteBatch) -> Embeddings:
    return network.embed(network.hidden(batch), bare=True)


def centred(y: Tensor) -> Tensor:
    """Embeddings of a batch from the head's outputs, written out."""
    y = y - y.sum(0) / len(y)
    return y / y.square().sum(1, keepdim=True).sqrt()


def whole_loss(network: NoteLLM2, source: NoteSource, rows: Rows, mask: Tensor) -> Tensor:
    """The loss of a batch embedded at once, in one graph, written out."""
    found = bare(network, source.batch(rows))
    losses = []
    for x in (centred(found.multimodal_BD), centred(found.visual_BD)):
        logits = x @ x.T * network.log_scale.exp()
        partner = torch.arange(len(rows)) ^ 1
        keep = ~mask
        keep[torch.arange(len(rows)), partner] = True
        keep &= ~torch.eye(len(rows), dtype=torch.bool)
        losses.append(-(logits.masked_fill(~keep, -torch.inf).log_softmax(-1))[torch.arange(len(rows)), partner].mean())
    return 0.9 * losses[0] + 0.1 * losses[1]


def gradients(network: NoteLLM2) -> dict[str, Tensor]:
    return {n: p.grad.clone() for n, p in network.named_parameters() if p.grad is not None}


def after_a_step(
    network: NoteLLM2, source: NoteSource, pairs: Rows, monkeypatch: pytest.MonkeyPatch, **changed: Any
) -> tuple[dict[str, float], dict[str, Tensor], Tensor]:
    """Figures of a step, its gradients unclipped, and the random state after it; the weights stay."""
    config = training_config(clip_norm=1e9, **changed)
    optimiser = build_optimiser(network, config)
    monkeypatch.setattr(optimiser, "step", lambda: None)
    torch.manual_seed(7)
    figures = take_step(StepContext(network, source, PairOrder(pairs, config.pairs_per_batch, 3), optimiser, config), 0)
    return figures, gradients(network), torch.get_rng_state()


@pytest.mark.parametrize("grad_cache", [False, True])
@pytest.mark.parametrize("block", [2, 6, 256])
def test_a_step_has_the_gradient_of_the_whole_batch_at_once(
    grad_cache: bool, block: int, backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    """GradCache, chunks, notes drawn twice and the blocks of the similarity matrix change nothing: 1e-6 in fp32."""
    monkeypatch.setattr(steps, "_BLOCK", block)
    network, source, pairs = network_for(backbone("llama"), model_config(connector=CONNECTOR))
    order = PairOrder(pairs, 24, 3)
    rows = order.step(0)
    assert len(np.unique(rows)) < len(rows)
    mask = torch.from_numpy(order.not_negatives(rows, known_positives=True))
    loss = whole_loss(network, source, rows, mask)
    loss.backward()
    expected = gradients(network)
    network.zero_grad()
    figures, found, _ = after_a_step(
        network, source, pairs, monkeypatch, grad_cache=grad_cache, pairs_per_batch=24, chunk_notes=7
    )
    assert figures["loss"] == pytest.approx(loss.item(), abs=1e-6)
    assert found.keys() == expected.keys()
    norm = float(torch.stack([gradient.norm() for gradient in expected.values()]).norm())
    for name, gradient in found.items():
        torch.testing.assert_close(gradient / norm, expected[name] / norm, atol=1e-6, rtol=0, msg=name)


def test_grad_cache_draws_the_same_dropout_again(backbone: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    """GPT-2 drops out at every layer: both ways see the same masks, and leave the generator at the same place."""
    ways = []
    for grad_cache in (False, True):
        network, source, pairs = network_for(backbone("gpt2"), model_config(connector=CONNECTOR))
        ways.append(after_a_step(network, source, pairs, monkeypatch, grad_cache=grad_cache))
    (kept, kept_gradients, kept_random), (cached, cached_gradients, cached_random) = ways
    assert kept == cached
    for name, gradient in cached_gradients.items():
        torch.testing.assert_close(gradient, kept_gradients[name], atol=1e-6, rtol=1e-5, msg=name)
    assert kept_random.equal(cached_random)
    network.eval()
    still, _, _ = after_a_step(network, source, pairs, monkeypatch)
    assert abs(still["loss"] - kept["loss"]) > 1e-4, "dropout did nothing"


def test_grad_cache_keeps_no_graph(backbone: Backbone) -> None:
    network, source, _ = network_for(backbone("llama"), model_config(connector=CONNECTOR))
    embedded = BatchEmbedding(network, source, ROWS, training_config(grad_cache=True, chunk_notes=2))
    assert embedded._kept == []
    assert embedded.multimodal_CD.is_leaf


def test_each_note_is_embedded_once_and_as_it_is_alone(backbone: Backbone) -> None:
    network, source, _ = network_for(backbone("llama"), model_config(connector=CONNECTOR))
    seen = []
    assert network.connector is not None
    network.connector.register_forward_pre_hook(lambda module, given: seen.append(len(given[0])))
    x = BatchEmbedding(network, source, ROWS, training_config(chunk_notes=2)).multimodal_CD
    assert sum(seen) == 4
    assert x[0].equal(x[2])
    with torch.no_grad():
        for i, row in enumerate(ROWS):
            alone = bare(network, source.batch(np.array([row]))).multimodal_BD[0]
            torch.testing.assert_close(alone, x[i], atol=1e-5, rtol=1e-4)


def test_the_similarity_matrix_is_never_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = np.arange(600).reshape(-1, 2)
    order = PairOrder(pairs, 300, 0)
    x = functional.normalize(torch.randn(600, 4, generator=torch.Generator().manual_seed(0)), dim=-1).requires_grad_()
    sizes = []
    real = functional.cross_entropy
    monkeypatch.setattr(functional, "cross_entropy", lambda *a, **k: sizes.append(a[0].shape) or real(*a, **k))
    compare(x, order.excluded(order.step(0), known_positives=True), Comparison(torch.tensor(1.0, requires_grad=True)))
    assert [rows for rows, _ in sizes] == [256, 256, 88]


def test_withheld_images_are_not_seen_and_not_in_the_visual_loss(backbone: Backbone) -> None:
    network, source, pairs = network_for(backbone("llama"), model_config(connector=CONNECTOR))
    config = training_config(image_dropout=0.5)
    order = PairOrder(pairs, config.pairs_per_batch, config.seed)
    rows = order.step(0)
    distinct, back = np.unique(rows, return_inverse=True)
    imageless = withheld_images(len(distinct), 0.5, config.seed, 0)
    assert imageless is not None
    without = imageless[back]
    embedded = BatchEmbedding(network, source, rows, config, imageless=imageless)
    for modality, chosen in (("text", without), ("both", ~without)):
        batch = source.batch(rows[chosen], modality)  # type: ignore[arg-type]
        expected = bare(network, batch).multimodal_BD
        torch.testing.assert_close(embedded.multimodal_CD[chosen], expected, atol=2e-5, rtol=0)
    shown = np.repeat(~without.reshape(-1, 2).any(1), 2)
    assert 2 < shown.sum() < len(rows)
    mask = torch.from_numpy(order.not_negatives(rows, known_positives=True))
    assert embedded.visual_CD is not None
    multimodal = pair_loss(centred(embedded.multimodal_CD), network.log_scale, mask)
    visual = pair_loss(centred(embedded.visual_CD[shown]), network.log_scale, mask[shown][:, shown])
    fewer = chance_loss(int(shown.sum()) // 2, mask[shown][:, shown])
    figures = take_step(StepContext(network, source, order, build_optimiser(network, config), config), 0)
    assert figures["loss_visual"] == pytest.approx(visual.item(), rel=1e-4)
    assert figures["loss"] == pytest.approx((9 * multimodal + visual).item() / 10, rel=1e-4)
    assert figures["chance"] == pytest.approx(0.9 * chance_loss(8, mask) + 0.1 * fewer)


def test_a_step_without_any_pictured_pair_has_no_visual_loss(backbone: Backbone) -> None:
    network, source, pairs = network_for(backbone("llama"), model_config(connector=CONNECTOR))
    bare = NoteSource(source.layout, source.texts, np.zeros_like(source.vision))
    config = training_config()
    order = PairOrder(pairs, config.pairs_per_batch, config.seed)
    figures = take_step(StepContext(network, bare, order, build_optimiser(network, config), config), 0)
    assert "loss_visual" not in figures
    assert figures["loss"] == figures["loss_multimodal"]
    assert figures["chance"] == pytest.approx(order.excluded(order.step(0), known_positives=True).chance())


@pytest.mark.parametrize("grad_cache", [False, True])
def test_hard_negatives_are_compared_with_and_are_nobodys_partners(
    grad_cache: bool, backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loss of the pairs' rows over more columns, written out; the visual loss does without them."""
    network, source, pairs = network_for(backbone("llama"), model_config(connector=CONNECTOR))
    order = PairOrder(pairs, 6, 3)
    rows = order.step(0)
    hard = HardNegatives(np.unique(rows), np.tile([300, 301, rows[0]], (len(np.unique(rows)), 1)))
    config = training_config(clip_norm=1e9, pairs_per_batch=6, hard_negatives=2, grad_cache=grad_cache)
    extra = hard.draw(rows[::2], 2, config.seed, 0)
    columns = np.concatenate([rows, extra])
    assert set(extra.tolist()) == {300, 301, rows[0]}
    mask = torch.from_numpy(order.not_negatives(columns, known_positives=True))[: len(rows)]
    index = torch.arange(len(rows))
    mask[index, index] = True
    mask[index, index ^ 1] = False
    x = centred(bare(network, source.batch(columns)).multimodal_BD)
    logits = (x[: len(rows)] @ x.T * network.log_scale.exp()).masked_fill(mask, -torch.inf)
    multimodal = -logits.log_softmax(-1)[index, index ^ 1].mean()
    optimiser = build_optimiser(network, config)
    monkeypatch.setattr(optimiser, "step", lambda: None)
    figures = take_step(StepContext(network, source, order, optimiser, config, hard=hard), 0)
    assert figures["loss_multimodal"] == pytest.approx(multimodal.item(), abs=1e-6)
    moved = functional.normalize(bare(network, source.batch(rows)).multimodal_BD, dim=-1)
    assert figures["mean_cosine"] == pytest.approx(mean_cosine(moved), abs=1e-5)
    assert figures["chance"] > take_step(StepContext(network, source, order, optimiser, config), 0)["chance"]
    found = take_step(StepContext(network, source, order, optimiser, config, hard=hard), 0)
    without = take_step(StepContext(network, source, order, optimiser, config), 0)
    assert found["loss_visual"] == pytest.approx(without["loss_visual"], abs=1e-6)
