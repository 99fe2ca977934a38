"""What a forward pass computes in."""

from __future__ import annotations

import contextlib
from typing import Any

import torch

from notellm2.recipe import TrainingConfig


def precision(config: TrainingConfig, device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """bf16 autocast where the recipe asks for it, or leaves it to a device that has it."""
    able = device.type == "cuda" and torch.cuda.is_bf16_supported()
    if config.precision == "bf16" or (config.precision == "auto" and able):
        return torch.autocast(device.type, torch.bfloat16)
    return contextlib.nullcontext()
