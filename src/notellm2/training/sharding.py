"""Weights sharded over the processes of a training, so that a model which fits none of them is still trained.

Each process holds a slice (along the first axis) of every weight, of its gradient and of its AdamW moments. A layer's
weights are gathered when it computes, forward and backward, and let go behind it; its gradient is summed and sliced at
once (torch's ``fully_shard``; the method is ZeRO's third stage, arXiv 1910.02054). Frozen weights are sliced as well.
What a process computes is what it computes without: only where the weights lie differs.

Since gathering takes every process, all of them must run the network equally often: see `is_sharded`.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor

from notellm2.errors import InputError
from notellm2.model.network.notellm2 import NoteLLM2
from notellm2.recipe import TrainingConfig
from notellm2.training.precision import in_bf16
from notellm2.training.process_group import Team


def shard(network: NoteLLM2, config: TrainingConfig, team: Team) -> None:
    """Slice a network over the processes and move the slices to their devices, a layer at a time; changes it in place.

    The logit scale and the row of ``<IMG_EMB>`` stay whole in every process.

    Args:
        network: equal in all processes; on the CPU, so that no device ever holds it whole.
        config: in bf16 the language model's and the connector's weights are gathered, and computed with, as bf16. (As
            autocast, which casts after gathering, would keep a whole copy for the backward pass.)
        team: all its processes call this.

    Raises:
        InputError: there is one process, or the language model is held in 4 bits.
    """
    if team.size == 1:
        raise InputError("training.sharding full: there is one process, nothing to share; set it to none")
    if any(not parameter.is_floating_point() for parameter in network.parameters()):
        raise InputError("training.sharding full: weights of 4 bits cannot be sliced; use model.base_weights bf16")
    # The outputs of our units are never written into, which is what torch warns of.
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")
    mesh = init_device_mesh(team.device.type, (team.size,))
    plain = MixedPrecisionPolicy()
    narrow = MixedPrecisionPolicy(torch.bfloat16, torch.float32) if in_bf16(config, team.device) else plain
    for wide, part in ((False, network.llm), (False, network.connector), (True, network.fusion), (True, network.head)):
        for unit in units(part):
            module = fully_shard(unit, mesh=mesh, reshard_after_forward=True, mp_policy=plain if wide else narrow)
            # Gradients of a batch's shares are summed, not averaged.
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)
    whole = {network.log_scale} | ({network.image_word} if network.image_word is not None else set())
    for parameter in whole:
        parameter.data = parameter.data.to(team.device)
    fully_shard(network, mesh=mesh, ignored_params=whole)
    for method in ("hidden", "embed"):
        register_fsdp_forward_method(network, method)


def is_sharded(network: NoteLLM2) -> bool:
    """Return whether the network's weights are sliced: then each process must run it as often as the others."""
    return isinstance(network.head.weight, DTensor)


def is_slice(tensor: Tensor) -> bool:
    """Return whether the process holds only a slice of this weight, gradient or moment."""
    return isinstance(tensor, DTensor)


def whole(tensor: Tensor) -> Tensor:
    """Gather a weight or moment as one tensor; all processes call this for a sliced one."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def held(tensor: Tensor) -> Tensor:
    """Return this process's part of a weight, gradient or moment; changing it changes the tensor."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def lay_out(value: Tensor, parameter: Tensor) -> Tensor:
    """Lay out a whole tensor with the device, type and slicing of a weight; where sliced, the leader's value counts."""
    value = value.to(parameter.device, parameter.dtype)
    if not isinstance(parameter, DTensor):
        return value
    sliced: Tensor = distribute_tensor(value, parameter.device_mesh, parameter.placements)
    return sliced


def held_bytes(network: nn.Module, optimiser: torch.optim.Optimizer) -> int:
    """Count the bytes of weights and of the optimiser's state that this process holds."""
    state = [value for values in optimiser.state.values() for value in values.values() if isinstance(value, Tensor)]
    return sum(held(tensor).numel() * tensor.element_size() for tensor in (*network.parameters(), *state))


def units(part: nn.Module | None) -> Iterator[nn.Module]:
    """List the modules whose weights are gathered together, inner ones first: each layer, the words, and the rest."""
    if part is None:
        return
    words = getattr(part, "get_input_embeddings", lambda: None)()
    for unit in (*_layers(part), words, part):
        if unit is not None and next(unit.parameters(), None) is not None:
            yield unit


def _layers(module: nn.Module) -> Iterator[nn.Module]:
    """Members of the outermost module lists: the layers of a transformer, whatever its architecture calls them."""
    for child in module.children():
        yield from child if isinstance(child, nn.ModuleList) else _layers(child)
