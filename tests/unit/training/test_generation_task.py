"""The generative task inside a training: its gradient, its share of each process, and its place in a run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from notellm2.artifacts import Store
from notellm2.model.backbones.load import load_language_head
from notellm2.model.bundle.bundle import Bundle
from notellm2.model.network.generation import Exercises, generation_loss
from notellm2.model.network.notellm2 import NoteLLM2
from notellm2.model.network.prompt import encode_texts
from notellm2.notes.schema import Note
from notellm2.recipe import GenerationConfig
from notellm2.training.generation_task import GenerationTask
from notellm2.training.process_group import Team
from tests.unit.conftest import Backbone
from tests.unit.model.tiny import build_network, model_config
from tests.unit.training.small_run import MODEL, TRAINING, Stages
from tests.unit.training.small_task import training_config
from tests.unit.training.test_training_stage import history

WEIGHT = 0.5


def generation_task(backbone: Backbone) -> tuple[GenerationTask, NoteLLM2]:
    config = model_config()
    network, language = build_network(backbone("llama"), config)
    notes = [Note(f"n{i}", f"a walk {i}", ("hills",) * (i % 3), "we walked " * (i % 4)) for i in range(9)]
    categories = ["trips" if i % 2 else None for i in range(9)]
    texts = encode_texts(language.tokenizer, notes, config)
    made = Exercises.of(language.tokenizer, notes, categories, texts, config)
    return GenerationTask(made, load_language_head(str(backbone("llama")))), network


def gradient(network: NoteLLM2) -> Tensor:
    parts = [p.grad.flatten() for _, p in sorted(network.named_parameters()) if p.grad is not None]
    network.zero_grad(set_to_none=True)
    return torch.cat(parts)


class Half(Team):
    """One of two processes whose sums nobody answers: what it adds by itself."""

    def sum_(self, tensors: object) -> None:
        """Nothing."""


def test_gradient_is_that_of_the_mean_over_answer_tokens_whatever_the_chunks_and_processes(backbone: Backbone) -> None:
    task, network = generation_task(backbone)
    rows = np.array([0, 1, 2, 2, 3, 4, 5, 7, 8])
    config = training_config(chunk_notes=3, generation=GenerationConfig(weight=WEIGHT))
    found = task.backward(network, rows, 5, config, Team())
    chunked = gradient(network)
    chosen = task.exercises.choose(np.unique(rows), 0.5, np.random.default_rng([config.seed, 4, 5]))
    assert {name for _, name in chosen} == {"topics", "category"}
    tokens, answers = task.exercises.batch(chosen)
    assert network.llm is not None
    mean = generation_loss(network.llm, task.head_WH, tokens, answers) / answers.sum()
    (WEIGHT * mean).backward()
    assert found == pytest.approx(float(mean), rel=1e-5)
    whole = gradient(network)
    torch.testing.assert_close(chunked, whole, atol=1e-6, rtol=1e-4)
    halves = []
    for rank in (0, 1):
        task.backward(network, rows, 5, config, Half(size=2, rank=rank))
        halves.append(gradient(network))
    torch.testing.assert_close(halves[0] + halves[1], whole, atol=1e-6, rtol=1e-4)
    assert float(halves[0].abs().max()) > 0


def test_it_trains_the_llm_alone(backbone: Backbone) -> None:
    task, network = generation_task(backbone)
    task.backward(network, np.arange(9), 0, training_config(generation=GenerationConfig(weight=1.0)), Team())
    reached = {name.split(".")[0] for name, p in network.named_parameters() if p.grad is not None}
    assert reached == {"llm"}


def test_a_run_with_the_task_logs_its_loss_and_bundles_as_any_other(stages: Stages, tmp_path: Path) -> None:
    model = MODEL.model_copy(update={"tuning": "full"})
    config = TRAINING.model_copy(update={"generation": GenerationConfig(weight=1.0), "lr": 2e-2, "steps": 60})
    trained = stages.train(model, config, store=Store(tmp_path))
    losses = [row["loss_generation"] for row in history(trained)]
    assert losses[-1] < losses[0] - 0.1
    off = config.model_copy(update={"generation": GenerationConfig()})
    plain = stages.train(model, off, store=Store(tmp_path))
    assert "loss_generation" not in history(plain)[0]
    names = [set(load_file(one.file("bundle") / "llm" / "model.safetensors")) for one in (trained, plain)]
    assert names[0] == names[1]
    assert not any("lm_head" in name for name in names[0]), "the head of the language model is in the bundle"
    notes = next(iter(stages.dataset.batches()))[:3]
    assert Bundle.load(trained.file("bundle")).embed(notes).shape == (3, 8)
