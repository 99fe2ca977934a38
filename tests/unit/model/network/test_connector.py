from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from notellm2.model.network.connector import (
    PatchMLP,
    PerceiverLayer,
    QFormer,
    QFormerLayer,
    QueryConnector,
    build_connector,
    visual_token_rank,
)
from notellm2.recipe import ConnectorConfig

HEADS, WIDTH = 2, 8


def linear(layer: nn.Linear, x: np.ndarray) -> np.ndarray:
    return x @ layer.weight.detach().numpy().T + layer.bias.detach().numpy()


def normed(layer: nn.LayerNorm, x: np.ndarray) -> np.ndarray:
    centred = x - x.mean(-1, keepdims=True)
    scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + layer.eps)
    return scaled * layer.weight.detach().numpy() + layer.bias.detach().numpy()


def attention(q: np.ndarray, k: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Head by head and query by query."""
    out = np.zeros_like(q)
    size = WIDTH // HEADS
    for head in range(HEADS):
        part = slice(head * size, (head + 1) * size)
        for i in range(len(q)):
            scores = np.exp(np.array([q[i, part] @ k[j, part] / np.sqrt(size) for j in range(len(k))]))
            out[i, part] = (scores / scores.sum()) @ v[:, part]
    return out


def test_layer_is_self_attention_then_cross_attention_then_feed_forward() -> None:
    torch.manual_seed(0)
    layer = QFormerLayer(WIDTH, HEADS)
    x, features = torch.randn(1, 3, WIDTH), torch.randn(1, 5, WIDTH)
    rows, seen = x[0].numpy(), features[0].numpy()
    q, k, v = np.split(linear(layer.qkv, normed(layer.norm_self, rows)), 3, axis=1)
    rows = rows + linear(layer.out_self, attention(q, k, v))
    k, v = np.split(linear(layer.kv, seen), 2, axis=1)
    rows = rows + linear(layer.out_cross, attention(linear(layer.q, normed(layer.norm_cross, rows)), k, v))
    inner = torch.nn.functional.gelu(torch.from_numpy(linear(layer.ff[0], normed(layer.norm_ff, rows)))).numpy()
    rows = rows + linear(layer.ff[2], inner)
    np.testing.assert_allclose(layer(x, features)[0].detach().numpy(), rows, rtol=1e-4, atol=1e-5)


def test_former_gives_each_note_its_own_queries_at_the_llms_width() -> None:
    torch.manual_seed(0)
    former = QueryConnector(
        ConnectorConfig(queries=3, layers=2, width=WIDTH, heads=HEADS), vision_width=4, llm_width=10
    )
    vision = torch.randn(2, 5, 4)
    tokens = former(vision)
    assert tokens.shape == (2, 3, 10)
    torch.testing.assert_close(tokens[1:], former(vision[1:]))
    assert not torch.allclose(tokens[0], tokens[1], atol=1e-4), "the image does not reach the tokens"
    assert not torch.allclose(tokens[0, 0], tokens[0, 1], atol=1e-4), "the queries are all alike"


def test_perceiver_layer_attends_to_features_and_queries_at_once() -> None:
    torch.manual_seed(0)
    layer = PerceiverLayer(WIDTH, HEADS)
    x, features = torch.randn(1, 3, WIDTH), torch.randn(1, 5, WIDTH)
    rows, seen = x[0].numpy(), features[0].numpy()
    queries = normed(layer.norm, rows)
    kv = np.concatenate([seen, queries]) @ layer.kv.weight.detach().numpy().T
    k, v = np.split(kv, 2, axis=1)
    q = queries @ layer.q.weight.detach().numpy().T
    rows = rows + attention(q, k, v) @ layer.out.weight.detach().numpy().T
    inner = torch.nn.functional.gelu(torch.from_numpy(linear(layer.ff[0], normed(layer.norm_ff, rows)))).numpy()
    rows = rows + linear(layer.ff[2], inner)
    np.testing.assert_allclose(layer(x, features)[0].detach().numpy(), rows, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("patches", "tokens", "cells"),
    [
        (16, 4, [[0, 1, 4, 5], [2, 3, 6, 7], [8, 9, 12, 13], [10, 11, 14, 15]]),  # a 4 x 4 grid in 2 x 2 cells
        (9, 4, [[0, 1, 3, 4], [1, 2, 4, 5], [3, 4, 6, 7], [4, 5, 7, 8]]),  # cells share a row where they do not divide
        (6, 3, [[0, 1], [2, 3], [4, 5]]),  # no square: runs of raster order
        (2, 4, [[0], [0], [1], [1]]),  # fewer patches than tokens
    ],
)
def test_patch_mlp_averages_projected_patches_by_cell(patches: int, tokens: int, cells: list[list[int]]) -> None:
    torch.manual_seed(0)
    connector = PatchMLP(ConnectorConfig(kind="mlp", queries=tokens, layers=1, width=WIDTH, query_std=0), 4, 10)
    vision = torch.randn(2, 1 + patches, 4)
    inner = linear(connector.project[1], normed(connector.project[0], vision[0, 1:].numpy()))
    projected = linear(connector.project[3], torch.nn.functional.gelu(torch.from_numpy(inner)).numpy())
    expected = np.stack([projected[cell].mean(0) for cell in cells])
    np.testing.assert_allclose(connector(vision)[0].detach().numpy(), expected, rtol=1e-4, atol=1e-5)
    moved = vision.clone()
    moved[:, 0] += 1
    torch.testing.assert_close(connector(moved), connector(vision), msg="the summary is no patch")


@pytest.mark.parametrize("kind", ["qformer", "qformer-prenorm", "perceiver", "mlp"])
def test_every_kind_gives_visual_tokens_that_depend_on_the_image_and_learns(kind: str) -> None:
    torch.manual_seed(0)
    config = ConnectorConfig(kind=kind, queries=3, layers=2, width=WIDTH, heads=HEADS)  # type: ignore[arg-type]
    connector = build_connector(config, vision_width=4, llm_width=10)
    vision = torch.randn(2, 5, 4)
    tokens = connector(vision)
    assert tokens.shape == (2, 3, 10)
    assert not torch.allclose(tokens[0], tokens[1], atol=1e-4), "the image does not reach the tokens"
    tokens.square().sum().backward()
    assert [n for n, p in connector.named_parameters() if p.grad is None or not p.grad.any()] == []


@pytest.mark.parametrize("kind", ["qformer", "perceiver", "mlp"])
@pytest.mark.parametrize("seed", [0, 1])
def test_the_visual_tokens_of_an_image_differ_at_the_start(kind: str, seed: int) -> None:
    """The default sizes: 16 tokens, 6 layers of 768, on a ViT-B/16's 197 x 768."""
    torch.manual_seed(seed)
    config = ConnectorConfig(kind=kind, layers=1 if kind == "mlp" else 6)  # type: ignore[arg-type]
    connector = build_connector(config, vision_width=768, llm_width=768).eval()
    with torch.no_grad():
        tokens = connector(torch.randn(2, 197, 768))
    assert visual_token_rank(tokens) >= config.queries / 2


def test_the_rank_of_visual_tokens_is_one_for_copies_and_their_number_for_orthogonal_ones() -> None:
    assert visual_token_rank(torch.randn(3, 1, 8).expand(3, 4, 8)) == pytest.approx(1, abs=1e-3)
    assert visual_token_rank(torch.eye(4)[None] * 3) == pytest.approx(4, abs=1e-3)
    assert visual_token_rank(torch.diag(torch.tensor([2.0, 2.0, 0.0]))[None]) == pytest.approx(2, abs=1e-3)


def test_qformer_is_blip2s() -> None:
    """Post-norm; features read as they are, in the first layer of two; written out without dropout."""
    torch.manual_seed(0)
    former = QFormer(ConnectorConfig(kind="qformer", queries=3, layers=2, width=WIDTH, heads=HEADS), 4, 10).eval()
    with torch.no_grad():
        for name, parameter in former.former.named_parameters():
            if parameter.ndim > 1 and name:
                parameter.normal_(std=0.4)  # larger than at the start, so that a wrong order shows
    vision = torch.randn(1, 5, 4)
    inner = former.former
    x, seen = normed(inner.layernorm, former.queries.detach().numpy()), vision[0].numpy()
    for layer in inner.encoder.layer:
        for block, keys in ((layer.attention, None), (getattr(layer, "crossattention", None), seen)):
            if block is not None:
                part = block.attention
                read = x if keys is None else keys
                mixed = attention(linear(part.query, x), linear(part.key, read), linear(part.value, read))
                x = normed(block.output.LayerNorm, linear(block.output.dense, mixed) + x)
        hidden = torch.nn.functional.gelu(torch.from_numpy(linear(layer.intermediate_query.dense, x))).numpy()
        x = normed(layer.output_query.LayerNorm, linear(layer.output_query.dense, hidden) + x)
    assert [hasattr(layer, "crossattention") for layer in inner.encoder.layer] == [True, False]
    projected = linear(
        former.project[2], torch.nn.functional.gelu(torch.from_numpy(linear(former.project[0], x))).numpy()
    )
    np.testing.assert_allclose(former(vision)[0].detach().numpy(), projected, rtol=1e-4, atol=1e-5)


def test_qformer_has_the_released_size_start_and_dropout() -> None:
    former = QFormer(ConnectorConfig(kind="qformer"), vision_width=768, llm_width=256)
    assert sum(p.numel() for p in former.parameters()) == 49_895_424
    assert float(former.queries.detach().std()) == pytest.approx(0.02, rel=0.05)
    assert {m.p for m in former.modules() if isinstance(m, nn.Dropout)} == {0.1}
    reading = [hasattr(layer, "crossattention") for layer in former.former.encoder.layer]
    assert reading == [True, False, True, False, True, False]
