"""Weights sharded over two real processes, which `sharded_pair` runs by ``accelerate launch``."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from notellm2.errors import InputError
from notellm2.recipe import Recipe, TrainingConfig
from notellm2.training import loop
from notellm2.training.process_group import Team
from notellm2.training.sharding import shard
from tests.unit.conftest import Backbone
from tests.unit.model.tiny import build_network, model_config
from tests.unit.training.sharded_pair import CASES, from_checkpoint, play
from tests.unit.training.test_loop import history

EXACT = [case for case in CASES if case != "bf16"]
ROOT = Path(__file__).parents[3]


@dataclass(frozen=True)
class Played:
    """Every case by one process and by two, each in a folder of its name; and what the two said."""

    backbones: Path
    alone: Path
    together: Path
    figures: dict[str, Any]


@pytest.fixture(scope="module")
def played(backbone: Backbone, tmp_path_factory: pytest.TempPathFactory) -> Played:
    root = tmp_path_factory.mktemp("sharded")
    alone, together = root / "alone", root / "together"
    backbones = {backbone(llm) for llm, _, _ in CASES.values()}.pop().parent
    for case in CASES:
        play(backbones, alone / case, case)
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    launch += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]
    run = subprocess.run(
        [*launch, "-m", "tests.unit.training.sharded_pair", str(backbones), str(alone), str(together)],
        cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr[-4000:]
    return Played(backbones, alone, together, json.loads((together / "figures.json").read_text()))


def assert_same_weights(found: Path, expected: Path, *, atol: float) -> None:
    weights, others = load_file(found), load_file(expected)
    assert weights.keys() == others.keys()
    for name, weight in weights.items():
        # No softmax sees a key's bias: its gradient is rounding alone, of which AdamW makes whole steps.
        noisy = name.endswith("kv.bias") and atol
        torch.testing.assert_close(weight, others[name], atol=5e-4 if noisy else atol, rtol=0, msg=name)


@pytest.mark.parametrize("case", EXACT)
def test_they_learn_what_one_process_with_whole_weights_learns(case: str, played: Played) -> None:
    ours, theirs = history(played.together / case), history(played.alone / case)
    assert [row["step"] for row in ours] == [row["step"] for row in theirs] == [1, 2, 3, 4, 5, 6]
    for row, other in zip(ours, theirs, strict=True):
        assert row.keys() == other.keys()
        for name in row.keys() - {"padding_share"}:
            close = 2e-4 * max(1.0, abs(other[name]))
            if name.startswith("loss"):
                # What images make differ is a small part of these n_v, and centring divides by it: rounding too.
                close = 3e-5 if name == "loss_visual" else 1e-5
            assert row[name] == pytest.approx(other[name], abs=close), (row["step"], name)
    for name in ("last.safetensors", loop.BEST):
        assert_same_weights(played.together / case / name, played.alone / case / name, atol=1e-5)


def test_the_gradient_is_clipped_as_a_whole(played: Played) -> None:
    """Else the case above would not show that slices and whole weights are scaled alike."""
    assert any(row["gradient_norm"] > 0.5 for row in history(played.alone / "full"))


@pytest.mark.parametrize("case", CASES)
def test_each_holds_half_of_weights_and_moments(case: str, played: Played) -> None:
    """Slices are of whole rows, so odd ones are not halves exactly; a step counter each weight is not sliced."""
    trained = load_file(played.alone / case / "last.safetensors")
    llm, changed, _ = CASES[case]
    network, _ = build_network(played.backbones / llm, model_config(**changed))
    whole = sum(p.numel() * 4 for p in network.parameters()) + 8 * sum(w.numel() for w in trained.values())
    first, second = played.figures[case]["held_bytes"]
    assert 0.45 * whole < second <= first < 0.56 * whole


def test_in_bf16_they_stay_near_whole_weights_in_bf16(played: Played) -> None:
    ours, theirs = history(played.together / "bf16"), history(played.alone / "bf16")
    for row, other in zip(ours, theirs, strict=True):
        # bf16 rounds at 1 of 256, and these hidden states, which differ by a few times that, are centred.
        assert row["loss"] == pytest.approx(other["loss"], abs=0.2)
    weights = load_file(played.together / "bf16" / "last.safetensors")
    assert {weight.dtype for weight in weights.values()} == {torch.float32}


def test_a_killed_run_continues_bit_for_bit(played: Played) -> None:
    assert history(played.together / "again") == history(played.together / "full")
    assert_same_weights(
        played.together / "again" / "last.safetensors", played.together / "full" / "last.safetensors", atol=0
    )


def test_a_checkpoint_serves_one_process_and_sharded_ones_alike(played: Played, tmp_path: Path) -> None:
    """Written sharded and continued whole, and the other way round."""
    resumed = from_checkpoint(played.together / "full", tmp_path / "from two")
    play(played.backbones, resumed, "full")
    for folder in (resumed, played.together / "from one"):
        rows, expected = history(folder), history(played.alone / "full")
        assert [row["loss"] for row in rows] == pytest.approx([row["loss"] for row in expected], abs=1e-5)
        assert_same_weights(folder / "last.safetensors", played.alone / "full" / "last.safetensors", atol=1e-5)


def test_one_process_has_nothing_to_share(backbone: Backbone) -> None:
    with pytest.raises(ValueError, match="set processes to 2 or more"):
        TrainingConfig(sharding="full")
    network, _ = build_network(backbone("llama"), model_config())
    with pytest.raises(InputError, match="one process, nothing to share"):
        shard(network, TrainingConfig(sharding="full", processes=2), Team())


def test_weights_of_four_bits_are_refused(backbone: Backbone) -> None:
    training = {"sharding": "full", "processes": 2}
    with pytest.raises(ValueError, match="cannot slice weights of 4 bits"):
        Recipe.model_validate({"name": "r", "training": training, "model": {"base_weights": "nf4"}})
    network, _ = build_network(backbone("llama"), model_config())
    network.head.weight = torch.nn.Parameter(torch.zeros(8, 16, dtype=torch.uint8), requires_grad=False)
    with pytest.raises(InputError, match="weights of 4 bits cannot be sliced"):
        shard(network, TrainingConfig(**training), Team(size=2))
