"""Late fusion: a gate that lets the image back into the embedding (NoteLLM-2, late fusion)."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class LateFusion(nn.Module):
    """Gate the image into the embedding: ñ = z⊙v + (1 - z)⊙n with v = W_p·CLS, z = σ(W·[v; n]), no biases.

    One gate serves the visual embedding n_v and the multimodal embedding n_m alike. (The authors' code calls it with
    its two arguments swapped, which only relabels z.)

    Args:
        vision_width: V, width of the vision encoder's summary.
        llm_width: H, width of the LLM.
    """

    def __init__(self, vision_width: int, llm_width: int) -> None:
        super().__init__()
        self.project = nn.Linear(vision_width, llm_width, bias=False)
        self.gate = nn.Linear(2 * llm_width, llm_width, bias=False)
        nn.init.xavier_normal_(self.gate.weight)

    def forward(self, n_BH: Tensor, summary_BV: Tensor) -> Tensor:
        """Fuse: [B, H], [B, V] -> [B, H]."""
        v_BH = self.project(summary_BV)
        z_BH = torch.sigmoid(self.gate(torch.cat([v_BH, n_BH], dim=-1)))
        fused: Tensor = z_BH * v_BH + (1 - z_BH) * n_BH
        return fused
