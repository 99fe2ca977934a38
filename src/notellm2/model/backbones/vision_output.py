"""What of a vision encoder's output is the summary and what the patches.

Shape suffixes: B images, P vision tokens (index 0 the summary, then patches), V width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


def has_class_token(model: nn.Module) -> bool:
    """Return whether the encoder puts a summary of its own before the patches (ViT, CLIP, DINOv2)."""
    return any(name.endswith(("cls_token", "class_embedding")) for name, _ in model.named_parameters())


def register_tokens(config: Any) -> int:
    """Register tokens of an encoder (DINOv2 with registers, DINOv3): scratch space after its class token, no patches.

    Args:
        config: its transformers configuration, or that of a two-tower model.
    """
    return int(getattr(getattr(config, "vision_config", config), "num_register_tokens", 0))


def summary_and_patches(output: Any, class_token: bool, registers: int = 0) -> Tensor:
    """Return an encoder's output as [B, P, V]: its summary, then the patches.

    The summary is the class token where there is one, the pooled map of a convolutional network (MobileNetV2, whose
    grid gives the patches), else the encoder's own pooled output (SigLIP), else the patches' mean.

    Args:
        output: what the encoder returned, with `last_hidden_state`.
        class_token: whether its first token is a summary.
        registers: tokens behind the summary that are no patches; left out.
    """
    last: Tensor = output.last_hidden_state
    if last.ndim == 4:  # [B, V, rows, columns]: a convolutional map
        patches = last.flatten(2).transpose(1, 2)
        summary = patches.mean(1)
    elif class_token:
        return torch.cat([last[:, :1], last[:, 1 + registers :]], 1) if registers else last
    else:
        patches = last
        pooled = getattr(output, "pooler_output", None)
        summary = pooled if pooled is not None and pooled.shape[-1] == last.shape[-1] else patches.mean(1)
    return torch.cat([summary[:, None], patches], 1)
