"""Save and restore what a run needs to continue bit for bit: safetensors, written beside, flushed, renamed."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from notellm2.artifacts import ArtifactError, fsync_path
from notellm2.training.process_group import ALONE, Team
from notellm2.training.sharding import lay_out, whole

_CENTRE = "head.bias"
"""No gradient ever reaches it (`notellm2.training.validation`)."""
_STATE, _FACTS = "state.safetensors", "facts.json"


def trained_weights(network: nn.Module, *, keep: bool = True) -> dict[str, Tensor]:
    """Collect what a run changes, by name, whole, on the CPU: trainable parameters and the measured centre.

    Args:
        network: of sharded weights every process gives its slices, so all of them call this.
        keep: whether this process wants them; else nothing is returned.
    """
    weights = {}
    for name, parameter in _changed(network).items():
        weight = whole(parameter.detach())
        if keep:
            weights[name] = weight.cpu().contiguous()
    return weights


def load_trained_weights(network: nn.Module, weights: dict[str, Tensor]) -> None:
    """Put trained weights back.

    Raises:
        ValueError: a weight is missing, unexpected or of another shape; names it.
    """
    parameters = _changed(network)
    odd = sorted(parameters.keys() ^ weights.keys())
    odd += sorted(n for n in parameters.keys() & weights.keys() if parameters[n].shape != weights[n].shape)
    if odd:
        raise ValueError(f"trained weights missing, unexpected or of another shape: {', '.join(odd[:8])}")
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(lay_out(weights[name], parameter))


def _changed(network: nn.Module) -> dict[str, nn.Parameter]:
    return {n: p for n, p in network.named_parameters() if p.requires_grad or n == _CENTRE}


def save_weights(path: Path, weights: dict[str, Tensor]) -> None:
    """Write weights in one step: readers see the old file or the new."""
    temporary = path.with_name(f".{path.name}.tmp")
    # Clones, because tied weights share storage and safetensors refuses that.
    save_file({name: tensor.clone() for name, tensor in weights.items()}, temporary)
    fsync_path(temporary)
    temporary.replace(path)
    fsync_path(path.parent)


def save_checkpoint(
    folder: Path,
    step: int,
    network: nn.Module,
    optimiser: torch.optim.Optimizer,
    facts: dict[str, Any],
    team: Team = ALONE,
) -> None:
    """Write ``step-XXXXXXXX`` into `folder` and remove older ones.

    Weights and moments are written whole: any number of processes, with sharded weights or without, can go on from it.

    Args:
        folder: the run's workspace.
        step: steps done.
        network: its trainable weights are saved.
        optimiser: its moments are saved.
        facts: small JSON carried along.
        team: all its processes call this; each one's random state is kept, the first writes.
    """
    random = {"rng/cpu": team.gather(torch.get_rng_state())}
    if torch.cuda.is_available():
        random["rng/cuda"] = team.gather(torch.cuda.get_rng_state(team.device))
    tensors = {f"weight/{name}": tensor.clone() for name, tensor in trained_weights(network, keep=team.leads).items()}
    for group, settings in enumerate(optimiser.param_groups):
        for index, parameter in enumerate(settings["params"]):
            for name, value in optimiser.state.get(parameter, {}).items():
                moment = whole(torch.as_tensor(value).detach())
                if team.leads:
                    tensors[f"moment/{group}/{index}/{name}"] = moment.cpu().clone()
    if not team.leads:
        return
    tensors |= random
    final = folder / f"step-{step:08d}"
    temporary = folder / f".{final.name}.{os.getpid()}"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    save_file(tensors, temporary / _STATE)
    (temporary / _FACTS).write_text(json.dumps({**facts, "step": step}))
    for file in temporary.iterdir():
        fsync_path(file)
    fsync_path(temporary)
    shutil.rmtree(final, ignore_errors=True)
    temporary.rename(final)
    fsync_path(folder)
    for old in sorted(folder.glob("step-*")):
        if old != final:
            shutil.rmtree(old)


def load_checkpoint(
    folder: Path, network: nn.Module, optimiser: torch.optim.Optimizer, team: Team = ALONE
) -> dict[str, Any] | None:
    """Restore the newest checkpoint in `folder`; returns its facts (with ``step``), or None if there is none.

    A process that was not there when it was written (a larger team) keeps its random state. What a kill left of an
    unfinished checkpoint is removed.

    Raises:
        ArtifactError: its tensors cannot be read; says what to remove.
        ValueError: they do not fit the network.
    """
    if team.leads:
        for unfinished in folder.glob(".step-*"):
            shutil.rmtree(unfinished)
    newest = max(folder.glob("step-*"), default=None)
    if newest is None:
        return None
    try:
        tensors = load_file(newest / _STATE)
    except (OSError, SafetensorError) as error:
        raise ArtifactError(f"checkpoint {newest}: unreadable ({error}); remove {folder} to train anew") from error
    load_trained_weights(network, {n.removeprefix("weight/"): t for n, t in tensors.items() if n.startswith("weight/")})
    for group, settings in enumerate(optimiser.param_groups):
        for index, parameter in enumerate(settings["params"]):
            prefix = f"moment/{group}/{index}/"
            state = {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
            if state:
                # Adam keeps its step counter on the CPU and its moments beside the parameter.
                optimiser.state[parameter] = {n: t if n == "step" else lay_out(t, parameter) for n, t in state.items()}
    if team.rank < len(tensors["rng/cpu"]):
        # A copy: torch reads a state from the start of its storage.
        torch.set_rng_state(tensors["rng/cpu"][team.rank].clone())
        if "rng/cuda" in tensors and torch.cuda.is_available():
            torch.cuda.set_rng_state(tensors["rng/cuda"][team.rank].clone(), team.device)
    facts: dict[str, Any] = json.loads((newest / _FACTS).read_text())
    return facts
