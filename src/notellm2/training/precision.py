"""Choose the number format of a forward pass."""

from __future__ import annotations

import contextlib
from typing import Any

import torch

from notellm2.recipe import TrainingConfig


def in_bf16(config: TrainingConfig, device: torch.device) -> bool:
    """Return whether the recipe asks for bf16, or leaves it to a device that has it."""
    able = device.type == "cuda" and torch.cuda.is_bf16_supported()
    return config.precision == "bf16" or (config.precision == "auto" and able)


def precision(config: TrainingConfig, device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """Return bf16 autocast where it applies; sharded weights are narrow already (`notellm2.training.sharding`)."""
    if in_bf16(config, device) and config.sharding == "none":
        return torch.autocast(device.type, torch.bfloat16)
    return contextlib.nullcontext()
