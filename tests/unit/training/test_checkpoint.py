from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from notellm2.artifacts import ArtifactError
from notellm2.training.checkpoint import (
    load_checkpoint,
    load_trained_weights,
    save_checkpoint,
    save_weights,
    trained_weights,
)
from notellm2.training.process_group import Team


class Small(nn.Module):
    """Two trained weights, tied under two names, and a frozen one."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 2)
        self.frozen = nn.Linear(2, 2).requires_grad_(False)
        self.tied = self.first


def build(seed: int = 0) -> tuple[Small, torch.optim.AdamW]:
    torch.manual_seed(seed)
    network = Small()
    groups = [{"params": [network.first.weight], "lr": 1e-2}, {"params": [network.first.bias], "lr": 1e-1}]
    return network, torch.optim.AdamW(groups)


def advance(network: Small, optimiser: torch.optim.Optimizer, steps: int) -> None:
    for _ in range(steps):
        optimiser.zero_grad()
        network.first(torch.rand(4, 3)).square().sum().backward()  # draws from the generator, as dropout does
        optimiser.step()


def test_a_resumed_run_equals_one_that_never_stopped(tmp_path: Path) -> None:
    whole, optimiser = build()
    advance(whole, optimiser, 6)
    part, optimiser = build()
    advance(part, optimiser, 3)
    save_checkpoint(tmp_path, 3, part, optimiser, {"note": "kept"})
    resumed, optimiser = build(seed=99)
    resumed.frozen.load_state_dict(part.frozen.state_dict())
    assert load_checkpoint(tmp_path, resumed, optimiser) == {"note": "kept", "step": 3}
    advance(resumed, optimiser, 3)
    for name, weight in trained_weights(whole).items():
        assert weight.equal(trained_weights(resumed)[name]), name


def test_only_trained_weights_are_kept() -> None:
    assert set(trained_weights(build()[0])) == {"first.weight", "first.bias"}


def test_only_the_newest_checkpoint_stays_and_half_written_ones_are_not_seen(tmp_path: Path) -> None:
    network, optimiser = build()
    for step in (2, 10, 9999):
        save_checkpoint(tmp_path, step, network, optimiser, {})
    assert [p.name for p in tmp_path.iterdir()] == ["step-00009999"]
    left = unfinished(tmp_path)
    for team in (Team(2, 1), Team(2, 0)):
        assert left.exists(), "a process that does not lead removed it: the leader may be writing"
        facts = load_checkpoint(tmp_path, network, optimiser, team)
        assert facts is not None
        assert facts["step"] == 9999
    assert [p.name for p in tmp_path.iterdir()] == ["step-00009999"], "what a kill left is still there"


def test_no_checkpoint_is_no_error(tmp_path: Path) -> None:
    network, optimiser = build()
    unfinished(tmp_path)
    assert load_checkpoint(tmp_path, network, optimiser) is None
    assert not list(tmp_path.iterdir())


def unfinished(folder: Path) -> Path:
    """What a kill leaves in the middle of writing."""
    left = folder / ".step-00010000.123"
    left.mkdir()
    (left / "state.safetensors").write_bytes(b"half")
    return left


def test_a_damaged_checkpoint_says_what_to_remove(tmp_path: Path) -> None:
    network, optimiser = build()
    save_checkpoint(tmp_path, 5, network, optimiser, {})
    state = tmp_path / "step-00000005" / "state.safetensors"
    state.write_bytes(state.read_bytes()[:50])
    with pytest.raises(ArtifactError, match=r"step-00000005: unreadable .* remove .* to train anew"):
        load_checkpoint(tmp_path, network, optimiser)


def test_weights_that_do_not_fit_are_named_and_nothing_is_changed() -> None:
    network, _ = build()
    before = trained_weights(network)
    before = {name: weight.clone() for name, weight in before.items()}
    other = {name: weight + 1 for name, weight in before.items()}
    with pytest.raises(ValueError, match=r"first\.bias"):
        load_trained_weights(network, {"first.weight": other["first.weight"]})
    with pytest.raises(ValueError, match="stranger"):
        load_trained_weights(network, other | {"stranger": torch.zeros(1)})
    with pytest.raises(ValueError, match=r"of another shape: first\.bias"):
        load_trained_weights(network, other | {"first.bias": torch.zeros(1)})
    assert all(weight.equal(before[name]) for name, weight in trained_weights(network).items())
    load_trained_weights(network, other)
    assert all(weight.equal(other[name]) for name, weight in trained_weights(network).items())


def test_weights_are_replaced_in_one_step(tmp_path: Path) -> None:
    path = tmp_path / "best.safetensors"
    for value in (1.0, 2.0):
        save_weights(path, {"w": torch.full((2,), value)})
    assert load_file(path)["w"].tolist() == [2.0, 2.0]
    assert [p.name for p in tmp_path.iterdir()] == ["best.safetensors"]
