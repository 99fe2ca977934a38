"""Trainings that one process does by itself and two do with sharded weights: `accelerate launch -m` this module."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from notellm2.model.backbones.load import load_language_head
from notellm2.model.network.generation import Exercises
from notellm2.model.network.prompt import encode_texts
from notellm2.recipe import GenerationConfig, LoraSettings, ModelConfig
from notellm2.training.checkpoint import save_weights, trained_weights
from notellm2.training.generation_task import GenerationTask
from notellm2.training.initialise import fit_start
from notellm2.training.loop import METRICS, TrainingRun, train
from notellm2.training.process_group import ALONE, Team
from notellm2.training.sharding import shard
from notellm2.training.validation import Validation
from tests.unit.model.tiny import build_network, model_config
from tests.unit.training.small_task import CONNECTOR, NOTES, TOPICS, WORDS, notes_of_topics, task, training_config

VALIDATION = Validation(np.array([[0, 20], [1, 21], [2, 42]]), np.arange(61))
"""61 notes: one process embeds one more than the other."""
GENERATION = GenerationConfig(weight=0.3)
CASES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    # One note a chunk: where a batch has an odd number of them, one process ends without.
    "full": ("llama", {"tuning": "full"}, {"chunk_notes": 1, "pairs_per_batch": 5, "clip_norm": 0.5}),
    "lora": (
        "qwen2",
        {"lora": LoraSettings(rank=2, alpha=4, dora=True, embeddings=True), "dim": 7},
        {"grad_cache": True, "generation": GENERATION, "pairs_per_batch": 7, "chunk_notes": 3},
    ),
    "bf16": ("gpt2", {"tuning": "full"}, {"precision": "bf16", "image_dropout": 0.3}),
    "no LLM": ("llama", {"prompt": "vision", "late_fusion": False}, {}),
}
"""An LLM, a variant and its training: each other parts, other shares of the two processes."""


def play(backbones: Path, folder: Path, case: str, team: Team = ALONE) -> dict[str, Any]:
    """Train a case into `folder`, from its checkpoint if there is one; several processes shard the weights."""
    llm, changed, settings = CASES[case]
    model = model_config(connector=CONNECTOR, **changed)
    network, language = build_network(backbones / llm, model)
    for module in network.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0  # what a process drops is its own affair
    source, pairs = task(language.tokenizer, model)
    both = {"processes": 2, "sharding": "full"} if team.size > 1 else {}
    config = training_config(**settings, **both)
    if team.size > 1:
        shard(network, config, team)
    if model.reads_text and not any(folder.glob("step-*")):
        fit_start(network, source, pairs, model, seed=0, size=64)
    folder.mkdir(parents=True, exist_ok=True)
    generation = generation_task(backbones / llm, language.tokenizer, model) if config.generation.weight else None
    figures = train(TrainingRun(network, source, pairs, VALIDATION, config, folder, team, generation))
    weights = trained_weights(network, keep=team.leads)
    if team.leads:
        save_weights(folder / "last.safetensors", weights)
    return figures


def generation_task(llm: Path, words: Any, model: ModelConfig) -> GenerationTask:
    notes = notes_of_topics()
    categories = [WORDS[i % TOPICS] if i % 3 else None for i in range(NOTES)]
    texts = encode_texts(words, notes, model)
    return GenerationTask(Exercises.of(words, notes, categories, texts, model), load_language_head(str(llm)))


def from_checkpoint(played: Path, folder: Path) -> Path:
    """A run that was killed at its end and goes on from its checkpoint at step 3."""
    (checkpoint,) = played.glob("step-*")
    shutil.copytree(checkpoint, folder / checkpoint.name)
    shutil.copyfile(played / METRICS, folder / METRICS)
    return folder


def main(backbones: Path, alone: Path, together: Path) -> None:
    team = Team.joined()
    figures = {case: play(backbones, together / case, case, team) for case in CASES}
    team.wait()
    for name, played in (("again", together / "full"), ("from one", alone / "full")):
        if team.leads:
            from_checkpoint(played, together / name)
        team.wait()
        play(backbones, together / name, "full", team)
    if team.leads:
        (together / "figures.json").write_text(json.dumps(figures))
    team.wait()


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
