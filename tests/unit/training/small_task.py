"""A task that can be learnt in seconds: each note has a topic, told by half of its text and half of its image."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from notellm2.model.network.note_source import NoteSource, Rows
from notellm2.model.network.notellm2 import NoteLLM2
from notellm2.model.network.prompt import encode_texts, layout
from notellm2.notes.schema import Note
from notellm2.recipe import ConnectorConfig, ModelConfig, TrainingConfig
from tests.unit.model.tiny import VISION, build_network

NOTES, TOPICS = 320, 20
WORDS = [
    "hill", "walk", "river", "bridge", "day", "closed", "ran", "low", "all", "image",
    "title", "topic", "content", "note", "one", "word", "山", "散步", "一整天", "图片",
]  # fmt: skip


def notes_of_topics() -> list[Note]:
    """Note i is of topic i % TOPICS, which its first word tells."""
    topic = np.arange(NOTES) % TOPICS
    return [Note(f"n{i}", f"{WORDS[t]} {WORDS[(t + i // TOPICS) % TOPICS]}") for i, t in enumerate(topic)]


def task(words: Any, config: ModelConfig) -> tuple[NoteSource, Rows]:
    """Notes, and pairs of notes of one topic."""
    rng = np.random.default_rng(0)
    topic = np.arange(NOTES) % TOPICS
    notes = notes_of_topics()
    vision = rng.standard_normal((TOPICS, *VISION))[topic] + 0.3 * rng.standard_normal((NOTES, *VISION))
    pairs = np.array([[i, (i + TOPICS * (1 + j)) % NOTES] for i in range(NOTES) for j in range(8)])
    source = NoteSource(layout(words, config), encode_texts(words, notes, config), vision.astype(np.float16))
    return source, pairs


def network_for(folder: Path, config: ModelConfig) -> tuple[NoteLLM2, NoteSource, Rows]:
    """A network in training mode with its task, the same at every call."""
    network, language = build_network(folder, config)
    if network.centred:
        torch.nn.init.zeros_(network.head.bias)
    source, pairs = task(language.tokenizer, config)
    return network.train(), source, pairs


def training_config(**changed: Any) -> TrainingConfig:
    """Six quick steps."""
    quick: dict[str, Any] = {
        "steps": 6,
        "pairs_per_batch": 8,
        "chunk_notes": 6,
        "checkpoint_every": 3,
        "validate_every": 2,
        "log_every": 1,
        "seed": 3,
    }
    return TrainingConfig(**(quick | changed))


CONNECTOR = ConnectorConfig(queries=2, layers=1, width=8, heads=2)
