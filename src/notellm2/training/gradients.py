"""The gradient between its backward pass and the optimiser: summed over processes, measured by part, clipped."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import nn

from notellm2.model.network.notellm2 import NoteLLM2
from notellm2.training.process_group import Team
from notellm2.training.sharding import held, is_slice


def sum_gradients(network: NoteLLM2, parameters: Sequence[nn.Parameter], team: Team) -> None:
    """Give every process the gradient of the whole batch; slices have been summed on the backward pass."""
    if team.size == 1:
        return
    kept_whole = [parameter for parameter in parameters if not is_slice(parameter)]
    for parameter in kept_whole:
        if parameter.grad is None:  # this process had no share that reaches it
            parameter.grad = torch.zeros_like(parameter)
    if network.log_scale.grad is not None:
        # Every process computed the whole of it.
        network.log_scale.grad /= team.size
    team.sum_([parameter.grad for parameter in kept_whole if parameter.grad is not None])


def gradient_norms(network: NoteLLM2, team: Team) -> dict[str, float]:
    """Compute the gradient's norm by part of the network, ``gradient_norm_llm`` and so on, over sliced weights too."""
    squares: dict[str, float] = {}
    sliced: dict[str, float] = {}
    for name, parameter in network.named_parameters():
        if parameter.grad is not None:
            part = f"gradient_norm_{name.split('.')[0]}"
            sums = sliced if is_slice(parameter) else squares
            sums[part] = sums.get(part, 0.0) + float(held(parameter.grad).square().sum())
    if sliced:
        summed = torch.tensor(list(sliced.values()), dtype=torch.float64, device=team.device)
        team.sum_([summed])
        squares |= dict(zip(sliced, summed.tolist(), strict=True))
    return {part: math.sqrt(value) for part, value in squares.items()}


def clip(parameters: Sequence[nn.Parameter], largest: float, by_part: dict[str, float]) -> float:
    """Scale the gradient down to a norm of at most `largest`; returns the norm it had.

    Args:
        parameters: trained ones.
        largest: of the whole gradient, over all parameters and processes.
        by_part: `gradient_norms` of them.
    """
    if not any(is_slice(parameter) for parameter in parameters):
        return float(nn.utils.clip_grad_norm_(parameters, largest))
    norm = math.sqrt(sum(value**2 for value in by_part.values()))
    factor = min(1.0, largest / (norm + 1e-6))
    for parameter in parameters:
        if parameter.grad is not None:
            held(parameter.grad).mul_(factor)
    return norm
