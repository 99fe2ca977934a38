from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from notellm2.model.connector import QFormer, QFormerLayer
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
    former = QFormer(ConnectorConfig(queries=3, layers=2, width=WIDTH, heads=HEADS), vision_width=4, llm_width=10)
    vision = torch.randn(2, 5, 4)
    tokens = former(vision)
    assert tokens.shape == (2, 3, 10)
    torch.testing.assert_close(tokens[1:], former(vision[1:]))
    assert not torch.allclose(tokens[0], tokens[1], atol=1e-4), "the image does not reach the tokens"
    assert not torch.allclose(tokens[0, 0], tokens[0, 1], atol=1e-4), "the queries are all alike"


def test_width_must_fit_the_heads() -> None:
    with pytest.raises(ValueError, match="width 8 is not a multiple of its 3 heads"):
        QFormerLayer(8, 3)
