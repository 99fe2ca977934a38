"""Connectors: from the frozen encoder's features to the LLM's visual tokens (NoteLLM-2, the connector).

Shape suffixes: B notes, P vision tokens (summary + patches), V vision width, Q queries, C connector width, H LLM width.
"""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from notellm2.model.backbones.multimodal import PretrainedConnector

if TYPE_CHECKING:
    from notellm2.recipe import ConnectorConfig


def build_connector(config: ConnectorConfig, vision_width: int, llm_width: int) -> nn.Module:
    """Build the connector of a recipe: a module from [B, P, V] to [B, Q, H]."""
    if config.kind == "none":
        return PretrainedConnector(config.queries, vision_width, llm_width)
    kinds: dict[str, type[QFormer | PatchMLP | QueryConnector]] = {
        "qformer": QFormer,
        "qformer-prenorm": QueryConnector,
        "perceiver": QueryConnector,
        "mlp": PatchMLP,
    }
    return kinds[config.kind](config, vision_width, llm_width)


_START_STD = {"qformer": 0.02, "qformer-prenorm": 0.02, "perceiver": 1.0, "mlp": 0.1}
"""By kind, where the recipe leaves it open. In a pre-norm residual stream queries of 0.02 are drowned by the first
attention: the visual tokens of an image then start as copies of one (effective rank 1.1 of 16 at 16 x 6 x 768)."""


def _start(config: ConnectorConfig, width: int) -> nn.Parameter:
    """[Q, width]: one start for each visual token, drawn from a normal distribution."""
    std = _START_STD[config.kind] if config.query_std is None else config.query_std
    return nn.Parameter(torch.randn(config.queries, width) * std)


class QFormer(nn.Module):
    """BLIP-2's Q-Former (arXiv 2301.12597, section 3.1) without its text side, as NoteLLM-2's authors released it.

    Post-norm, dropout, and cross-attention to the features as they are in layers 0, 2, 4, …; queries start at
    N(0, 0.02²) and are normed before the first layer. Then Linear-GELU-Linear to the LLM's width. 49.9 M weights at
    6 layers, V = 768 and H = 256.

    Args:
        config: number of queries, layers, width, heads and dropout.
        vision_width: V.
        llm_width: H.
    """

    def __init__(self, config: ConnectorConfig, vision_width: int, llm_width: int) -> None:
        from transformers import Blip2QFormerConfig
        from transformers.models.blip_2.modeling_blip_2 import Blip2QFormerModel

        super().__init__()
        self.queries = _start(config, config.width)
        self.former = Blip2QFormerModel(
            Blip2QFormerConfig(
                hidden_size=config.width,
                intermediate_size=4 * config.width,
                num_hidden_layers=config.layers,
                num_attention_heads=config.heads,
                encoder_hidden_size=vision_width,
                cross_attention_frequency=2,
                hidden_dropout_prob=config.dropout,
                attention_probs_dropout_prob=config.dropout,
            )
        )
        self.project = nn.Sequential(nn.Linear(config.width, llm_width), nn.GELU(), nn.Linear(llm_width, llm_width))

    def forward(self, vision_BPV: Tensor) -> Tensor:
        """Read visual tokens from vision features: [B, P, V] -> [B, Q, H]."""
        queries_BQC = self.queries.expand(vision_BPV.shape[0], -1, -1)
        read = self.former(query_embeds=queries_BQC, encoder_hidden_states=vision_BPV)
        tokens_BQH: Tensor = self.project(read.last_hidden_state)
        return tokens_BQH


class QFormerLayer(nn.Module):
    """Self-attention over the queries, cross-attention to the vision features, feed-forward; pre-norm."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
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
        x_BQC = x_BQC + self.out_self(_attend(q, k, v, self.heads))
        k, v = self.kv(features_BPC).chunk(2, dim=-1)
        x_BQC = x_BQC + self.out_cross(_attend(self.q(self.norm_cross(x_BQC)), k, v, self.heads))
        result: Tensor = x_BQC + self.ff(self.norm_ff(x_BQC))
        return result


class PerceiverLayer(nn.Module):
    """One attention of the queries to the features and to themselves together, feed-forward; pre-norm.

    The resampler of Flamingo (arXiv 2204.14198, section 3.1.1): keys and values are the features followed by the
    queries, so a layer needs one attention where the Q-Former's has two.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width)
        self.q = nn.Linear(width, width, bias=False)
        self.kv = nn.Linear(width, 2 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.norm_ff = nn.LayerNorm(width)
        self.ff = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x_BQC: Tensor, features_BPC: Tensor) -> Tensor:
        """Update the queries: [B, Q, C], [B, P, C] -> [B, Q, C]."""
        normed = self.norm(x_BQC)
        k, v = self.kv(torch.cat([features_BPC, normed], dim=1)).chunk(2, dim=-1)
        x_BQC = x_BQC + self.out(_attend(self.q(normed), k, v, self.heads))
        result: Tensor = x_BQC + self.ff(self.norm_ff(x_BQC))
        return result


class QueryConnector(nn.Module):
    """Q learnable queries read the vision features, then Linear-GELU-Linear to the LLM's width.

    Args:
        config: kind of the layers, number of queries, layers, width and heads.
        vision_width: V.
        llm_width: H.
    """

    def __init__(self, config: ConnectorConfig, vision_width: int, llm_width: int) -> None:
        super().__init__()
        layer = PerceiverLayer if config.kind == "perceiver" else QFormerLayer
        self.queries = _start(config, config.width)
        self.features = nn.Sequential(nn.Linear(vision_width, config.width), nn.LayerNorm(config.width))
        self.layers = nn.ModuleList(layer(config.width, config.heads) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.width)
        self.project = nn.Sequential(nn.Linear(config.width, llm_width), nn.GELU(), nn.Linear(llm_width, llm_width))

    def forward(self, vision_BPV: Tensor) -> Tensor:
        """Read visual tokens from vision features: [B, P, V] -> [B, Q, H]."""
        features_BPC = self.features(vision_BPV)
        x_BQC = self.queries.expand(vision_BPV.shape[0], -1, -1)
        for layer in self.layers:
            x_BQC = layer(x_BQC, features_BPC)
        tokens_BQH: Tensor = self.project(self.norm(x_BQC))
        return tokens_BQH


class PatchMLP(nn.Module):
    """A perceptron on each patch, then the mean of each cell of a grid (as LLaVA's projector, with pooling).

    The summary is left out. Where both the number of patches and Q are squares the patches are averaged in the cells
    of a √Q x √Q grid, else in Q runs of raster order. Cell i of n along N patches reads patches ⌊iN/n⌋ to ⌈(i+1)N/n⌉.
    A learnt vector for each cell tells the LLM which is which; without, their means are nearly one (rank 1.1 of 16
    where patches share a direction).

    Args:
        config: number of visual tokens, hidden layers and hidden width.
        vision_width: V.
        llm_width: H.
    """

    def __init__(self, config: ConnectorConfig, vision_width: int, llm_width: int) -> None:
        super().__init__()
        self.tokens = config.queries
        widths = [vision_width] + [config.width] * config.layers
        hidden = [m for a, b in itertools.pairwise(widths) for m in (nn.Linear(a, b), nn.GELU())]
        self.project = nn.Sequential(nn.LayerNorm(vision_width), *hidden, nn.Linear(widths[-1], llm_width))
        self.cells = None if config.query_std == 0 else _start(config, llm_width)

    def forward(self, vision_BPV: Tensor) -> Tensor:
        """Read visual tokens from vision features: [B, P, V] -> [B, Q, H]."""
        x_BHP = self.project(vision_BPV[:, 1:]).transpose(1, 2)
        side, cells = math.isqrt(x_BHP.shape[2]), math.isqrt(self.tokens)
        if side**2 == x_BHP.shape[2] and cells**2 == self.tokens:
            x_BHQ = functional.adaptive_avg_pool2d(x_BHP.unflatten(2, (side, side)), cells).flatten(2)
        else:
            x_BHQ = functional.adaptive_avg_pool1d(x_BHP, self.tokens)
        tokens_BQH = x_BHQ.transpose(1, 2)
        return tokens_BQH if self.cells is None else tokens_BQH + self.cells


def visual_token_rank(tokens_BQH: Tensor) -> float:
    """Average the effective rank of an image's visual tokens: 1 where they are copies of one, Q where orthogonal.

    The exponential of the entropy of the normalised squared singular values of each [Q, H].
    """
    values_BQ = torch.linalg.svdvals(tokens_BQH.detach().float().cpu()).square()
    shares_BQ = values_BQ / values_BQ.sum(-1, keepdim=True).clamp(min=1e-30)
    return float(torch.exp(-(shares_BQ * shares_BQ.clamp(min=1e-12).log()).sum(-1)).mean())


def _attend(q_BLC: Tensor, k_BPC: Tensor, v_BPC: Tensor, heads: int) -> Tensor:
    q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q_BLC, k_BPC, v_BPC))
    return functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
