from __future__ import annotations

import itertools
import json
import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from notellm2.model.network.loss import chance_loss
from notellm2.model.network.note_source import NoteSource, Rows
from notellm2.model.network.notellm2 import NoteLLM2
from notellm2.training import loop
from notellm2.training.batches import PairOrder
from notellm2.training.checkpoint import trained_weights
from notellm2.training.initialise import fit_start
from notellm2.training.loop import TrainingRun, build_optimiser, learning_rate_share, total_steps, train
from notellm2.training.validation import Validation
from tests.unit.conftest import Backbone
from tests.unit.model.tiny import model_config
from tests.unit.training.small_task import CONNECTOR, network_for, training_config

VALIDATION = Validation(np.array([[0, 20], [1, 21], [2, 42]]), np.arange(60))
TIMING = {"pairs_per_s"}


class Killed(Exception):
    """Stands for a kill in the middle of a run."""


def history(folder: Path) -> list[dict[str, float]]:
    lines = (folder / loop.METRICS).read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k not in TIMING} for line in lines]


def run(folder: Path, llm: Path, *, until: int | None = None, **changed: Any) -> tuple[dict[str, Any], NoteLLM2]:
    """Train from the start or the checkpoint; `until`: die while the step's figures are handed out."""
    network, source, pairs = network_for(llm, model_config(connector=CONNECTOR))
    torch.manual_seed(1)
    folder.mkdir(exist_ok=True)

    def watch(step: int, values: Mapping[str, float]) -> None:
        if step == until:
            raise Killed

    figures = train(TrainingRun(network, source, pairs, VALIDATION, training_config(**changed), folder), watch)
    return figures, network


# GPT-2 draws from the generator at every step (dropout), Llama does not.
@pytest.mark.parametrize("llm", ["llama", "gpt2"])
@pytest.mark.parametrize("grad_cache", [False, True])
def test_a_killed_run_continues_bit_for_bit(llm: str, grad_cache: bool, backbone: Backbone, tmp_path: Path) -> None:
    figures, network = run(tmp_path / "whole", backbone(llm), grad_cache=grad_cache)
    with pytest.raises(Killed):
        run(tmp_path / "killed", backbone(llm), until=5, grad_cache=grad_cache)
    assert history(tmp_path / "killed")[-1]["step"] == 5
    with (tmp_path / "killed" / loop.METRICS).open("a") as handle:
        handle.write('{"step": 3, "lo')  # a line that the kill cut
    resumed, continued = run(tmp_path / "killed", backbone(llm), grad_cache=grad_cache)
    weights = trained_weights(network)
    for name, weight in trained_weights(continued).items():
        assert weight.equal(weights[name]), name
    assert history(tmp_path / "killed") == history(tmp_path / "whole")
    assert [row["step"] for row in history(tmp_path / "whole")] == [1, 2, 3, 4, 5, 6]
    assert (tmp_path / "killed" / loop.BEST).read_bytes() == (tmp_path / "whole" / loop.BEST).read_bytes()
    timing = {"pairs_per_s", "train_seconds"}
    assert {k: v for k, v in resumed.items() if k not in timing} == {
        k: v for k, v in figures.items() if k not in timing
    }


def test_a_run_killed_before_its_first_checkpoint_starts_over(backbone: Backbone, tmp_path: Path) -> None:
    with pytest.raises(Killed):
        run(tmp_path / "killed", backbone("llama"), until=2)
    run(tmp_path / "killed", backbone("llama"))
    run(tmp_path / "whole", backbone("llama"))
    assert history(tmp_path / "killed") == history(tmp_path / "whole")


def test_best_weights_are_those_of_the_best_validation(
    backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from safetensors.torch import load_file

    scores = iter([0.2, 0.7, 0.4])
    kept: dict[int, dict[str, torch.Tensor]] = {}

    def judge(network: NoteLLM2, *_: object) -> dict[str, float]:
        kept[len(kept)] = {name: weight.clone() for name, weight in trained_weights(network).items()}
        return {"validation_mrr": next(scores)}

    monkeypatch.setattr(loop, "validate", judge)
    figures, _ = run(tmp_path, backbone("llama"))
    best = load_file(tmp_path / loop.BEST)
    assert all(best[name].equal(weight) for name, weight in kept[1].items())
    assert not best["head.weight"].equal(kept[2]["head.weight"])
    assert (figures["best_step"], figures["best_validation_mrr"]) == (4, 0.7)


def test_figures_of_a_step(backbone: Backbone, tmp_path: Path) -> None:
    figures, _ = run(tmp_path, backbone("llama"))
    first = history(tmp_path)[0]
    assert first["loss"] == pytest.approx(0.9 * first["loss_multimodal"] + 0.1 * first["loss_visual"], rel=1e-5)
    assert 0 <= first["padding_share"] < 0.5
    assert 1 <= first["effective_rank"] <= 8
    parts = [value for name, value in first.items() if name.startswith("gradient_norm_")]
    assert first["gradient_norm"] == pytest.approx(math.sqrt(sum(p * p for p in parts)), rel=1e-4)
    assert {"gradient_norm_llm", "gradient_norm_connector", "gradient_norm_fusion", "gradient_norm_image_word"} <= set(
        first
    )
    assert figures["final_loss"] == history(tmp_path)[-1]["loss"]
    assert first["chance"] <= chance_loss(8) + 1e-9
    assert all(math.isfinite(value) for row in history(tmp_path) for value in row.values())


def test_every_trained_part_moves_and_the_frozen_llm_does_not(backbone: Backbone, tmp_path: Path) -> None:
    before, _, _ = network_for(backbone("llama"), model_config(connector=CONNECTOR))
    _, network = run(tmp_path, backbone("llama"))
    start = dict(before.named_parameters())
    for name, parameter in network.named_parameters():
        assert parameter.equal(start[name]) == (not parameter.requires_grad and name != "head.bias"), name


@pytest.mark.parametrize("llm", ["llama", "qwen2", "gpt2"])
def test_the_language_model_head_is_never_computed(llm: str, backbone: Backbone, tmp_path: Path) -> None:
    network, source, pairs = network_for(backbone(llm), model_config(connector=CONNECTOR))
    vocabulary = network.llm.get_input_embeddings().weight.shape[0]
    widths = set()
    for module in network.modules():
        module.register_forward_hook(
            lambda module, given, made: widths.add(made.shape[-1]) if isinstance(made, torch.Tensor) else None
        )
    train(TrainingRun(network, source, pairs, None, training_config(steps=1), tmp_path))
    assert len(widths) > 3
    assert vocabulary not in widths
    assert not [n for n, p in network.named_parameters() if n.endswith("lm_head.weight")]


def test_learning_rate_rises_then_falls() -> None:
    shares = [learning_rate_share(step, 100, 0.1) for step in range(100)]
    assert shares[:10] == pytest.approx([(i + 1) / 10 for i in range(10)])
    assert max(shares) == 1.0
    assert all(a >= b for a, b in itertools.pairwise(shares[10:]))
    assert shares[55] == pytest.approx(0.05 + 0.95 * 0.5)
    assert 0.05 < shares[-1] < 0.052
    for steps in (1, 2, 3):
        assert all(0 < learning_rate_share(step, steps, share) <= 1 for step in range(steps) for share in (0, 0.1, 1))


def test_total_steps_counts_passes_over_the_pairs() -> None:
    assert total_steps(training_config(steps=None, epochs=2.0), 21) == 6  # 42 pairs, 8 a step
    assert total_steps(training_config(steps=None, epochs=0.001), 21) == 1
    assert total_steps(training_config(steps=4, epochs=9.0), 21) == 4


@pytest.mark.parametrize("image_lr", [None, 4.0])
def test_each_weight_has_one_learning_rate_and_vectors_do_not_decay(image_lr: float | None, backbone: Backbone) -> None:
    network, _, _ = network_for(backbone("llama"), model_config(connector=CONNECTOR))
    config = training_config(lr=1.0, head_lr=2.0, image_lr=image_lr, scale_lr=3.0, weight_decay=0.5)
    peaks = {"llm": 1.0, "head": 2.0, "log_scale": 3.0} | dict.fromkeys(
        ("connector", "fusion", "image_word"), image_lr or 2.0
    )
    found = {
        id(parameter): (group["lr"], group["weight_decay"])
        for group in build_optimiser(network, config).param_groups
        for parameter in group["params"]
    }
    trained = {name: p for name, p in network.named_parameters() if p.requires_grad}
    assert len(found) == len(trained)
    for name, parameter in trained.items():
        assert found[id(parameter)] == (peaks[name.split(".")[0]], 0.5 if parameter.ndim > 1 else 0.0), name


def collapse(network: NoteLLM2) -> None:
    """The failed start: every note on one direction, which contrastive learning at a low rate cannot leave."""
    with torch.no_grad():
        network.head.weight.copy_(torch.ones_like(network.head.weight))


def learn(folder: Path, network: NoteLLM2, source: NoteSource, pairs: Rows, **changed: Any) -> dict[str, Any]:
    config = training_config(steps=40, pairs_per_batch=16, checkpoint_every=1000, **changed)
    return train(TrainingRun(network, source, pairs, None, config, folder))


def test_a_fitted_start_leaves_chance(backbone: Backbone, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = model_config(connector=CONNECTOR)
    network, source, pairs = network_for(backbone("llama"), config)
    started = fit_start(network, source, pairs, config, seed=0, size=64)
    assert started["mean_cosine_after"] < 0.3 < started["mean_cosine_before"]
    assert network.log_scale.item() == pytest.approx(started["log_scale"])
    figures = learn(tmp_path, network, source, pairs)
    rows = history(tmp_path)
    assert rows[0]["loss"] < rows[0]["chance"] + 0.1, "the start is above chance, and will collapse"
    assert figures["left_chance"]
    assert figures["final_loss"] < figures["chance"] - 0.5
    assert rows[-1]["mean_cosine"] < 0.5
    assert "has not left chance" not in caplog.text


def test_a_run_that_stays_at_chance_says_so(
    backbone: Backbone, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Even where masks leave so few entries to compare that the loss is far below ln(2B - 1)."""
    network, source, pairs = network_for(backbone("llama"), model_config(connector=CONNECTOR, centre=False))
    few = pairs[:8]
    collapse(network)
    assert PairOrder(few, 16, 3).not_negatives(PairOrder(few, 16, 3).step(0), known_positives=True).sum() > 64
    with caplog.at_level(logging.WARNING):
        figures = learn(tmp_path, network, source, few, lr=1e-9, head_lr=1e-9, scale_lr=1e-9)
    assert figures["final_loss"] < chance_loss(16) - 2 * loop.LEFT_CHANCE
    assert not figures["left_chance"]
    assert "has not left chance after 10 steps" in caplog.text


def test_a_gradient_that_is_not_finite_stops_the_run(backbone: Backbone, tmp_path: Path) -> None:
    network, source, pairs = network_for(backbone("llama"), model_config(connector=CONNECTOR))
    with torch.no_grad():
        network.head.weight[0, 0] = float("nan")
    with pytest.raises(FloatingPointError, match="step 1: the gradient is not finite"):
        learn(tmp_path, network, source, pairs)


def test_bf16_trains_too(backbone: Backbone, tmp_path: Path) -> None:
    figures, network = run(tmp_path, backbone("llama"), precision="bf16", steps=2)
    assert math.isfinite(figures["final_loss"])
    assert all(weight.dtype == torch.float32 for weight in trained_weights(network).values())
