"""Connector: from the frozen encoder's features to the LLM's visual tokens (NoteLLM-2, the connector).

Shape suffixes: B notes, P vision tokens (summary + patches), V vision width, Q queries, C connector width, H LLM width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from notellm2.recipe import ConnectorConfig


class QFormerLayer(nn.Module):
    """Self-attention over the queries, cross-attention to the vision features, feed-forward; pre-norm."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"connector width {width} is not a multiple of its {heads} heads")
        self.heads = heads
        self.norm_self = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out_self = nn.Linear(width, width)
        self.norm_cross = nn.LayerNorm(width)
        self.q = nn.Linear(width, width)
        self.kv = nn.Linear(width, 2 * width)
        self.out_cross = nn.Linear(width, width)
        self.norm_ff = nn.LayerNorm(width)
        self.ff = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x_BQC: Tensor, features_BPC: Tensor) -> Tensor:
        """Update the queries: [B, Q, C], [B, P, C] -> [B, Q, C]."""
        q, k, v = self.qkv(self.norm_self(x_BQC)).chunk(3, dim=-1)
        x_BQC = x_BQC + self.out_self(self._attend(q, k, v))
        k, v = self.kv(features_BPC).chunk(2, dim=-1)
        x_BQC = x_BQC + self.out_cross(self._attend(self.q(self.norm_cross(x_BQC)), k, v))
        result: Tensor = x_BQC + self.ff(self.norm_ff(x_BQC))
        return result

    def _attend(self, q_BLC: Tensor, k_BPC: Tensor, v_BPC: Tensor) -> Tensor:
        q, k, v = (x.unflatten(-1, (self.heads, -1)).transpose(1, 2) for x in (q_BLC, k_BPC, v_BPC))
        return functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


class QFormer(nn.Module):
    """Q learnable queries read the vision features, then Linear-GELU-Linear to the LLM's width.

    Args:
        config: number of queries, layers, width and heads.
        vision_width: V.
        llm_width: H.
    """

    def __init__(self, config: ConnectorConfig, vision_width: int, llm_width: int) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.randn(config.queries, config.width) * 0.02)
        self.features = nn.Sequential(nn.Linear(vision_width, config.width), nn.LayerNorm(config.width))
        self.layers = nn.ModuleList(QFormerLayer(config.width, config.heads) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.width)
        self.project = nn.Sequential(nn.Linear(config.width, llm_width), nn.GELU(), nn.Linear(llm_width, llm_width))

    def forward(self, vision_BPV: Tensor) -> Tensor:
        """Visual tokens: [B, P, V] -> [B, Q, H]."""
        features_BPC = self.features(vision_BPV)
        x_BQC = self.queries.expand(len(vision_BPV), -1, -1)
        for layer in self.layers:
            x_BQC = layer(x_BQC, features_BPC)
        tokens_BQH: Tensor = self.project(self.norm(x_BQC))
        return tokens_BQH
