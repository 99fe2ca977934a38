"""A data set of 120 notes, its pairs, and the stages up to training, small enough to run in a test."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from notellm2.artifacts import Artifact, Store
from notellm2.embedding.vectors_stage import vision_features
from notellm2.model.backbones.backbones_stage import Corpus, build_backbones
from notellm2.notes.dataset import INFO, Dataset, DatasetInfo
from notellm2.notes.schema import INTERACTIONS, NOTES, PAIRS
from notellm2.recipe import (
    BackbonesConfig,
    ConnectorConfig,
    ImageLimits,
    LoraSettings,
    ModelConfig,
    TinyLLMConfig,
    TinyVisionConfig,
    TrainingConfig,
)
from notellm2.training.training_stage import TrainingInputs, train
from tests.unit.model.tiny import png

COUNT, TOPICS = 120, 10
BROKEN, BARE = 5, 11
"""Rows of the note whose image does not decode, and of one with neither image nor content."""
MD5 = "0123456789abcdef0123456789abcdef.dir"
BACKBONES = BackbonesConfig(
    llm=TinyLLMConfig(vocabulary=320, width=16, layers=1, heads=2, steps=3, batch=8),
    vision=TinyVisionConfig(image_px=16, patch_px=8, width=16, layers=1, heads=2, steps=3, batch=8),
)
MODEL = ModelConfig(
    connector=ConnectorConfig(queries=2, layers=1, width=8, heads=2), dim=8, lora=LoraSettings(rank=2, alpha=4)
)
TRAINING = TrainingConfig(steps=6, pairs_per_batch=8, checkpoint_every=2, validate_every=3, log_every=1)
Watch = Callable[[int, Mapping[str, float]], None]


def topic(row: int) -> int:
    return row % TOPICS


def dataset(path: Path) -> Dataset:
    """Notes of ten topics, told by text and colour; the last 20 are held out."""
    rows: list[dict[str, Any]] = []
    for i in range(COUNT):
        image = png((topic(i) * 25, 250 - topic(i) * 20, i)) if i % 7 else None
        if i == BROKEN:
            image = b"no image"
        rows.append(
            {
                "note_id": f"n{i:03d}",
                "title": f"title of {topic(i)} and {i}",
                "topics": [f"topic{topic(i)}"],
                "content": f"words about {topic(i)} " * (1 + i % 3),
                "image": None if image is None or i == BARE else {"bytes": image, "path": None},
                "category": None,
                "created_at": None,
            }
        )
    rows[BARE] |= {"content": ""}
    for room, table in (("notes", pa.Table.from_pylist(rows, NOTES)), ("interactions", INTERACTIONS.empty_table())):
        (path / room).mkdir(parents=True)
        pq.write_table(table, path / room / "part-00000.parquet")
    info = DatasetInfo(
        name="small",
        licence="made up",
        source="a test",
        notes=COUNT,
        notes_with_image=sum(row["image"] is not None for row in rows),
        interactions=0,
        first_interaction=None,
        last_interaction=None,
    )
    (path / INFO).write_text(info.model_dump_json())
    return Dataset.open(path)


def write_pairs(folder: Path) -> None:
    splits = {"train": range(100), "validation": range(100, COUNT), "test": range(0)}
    for name, rows in splits.items():
        pairs = [
            {"query_id": f"n{a:03d}", "target_id": f"n{b:03d}", "score": 1.0, "support": 2}
            for a in rows
            for b in rows
            if a != b and topic(a) == topic(b) and (b - a) % 30 < 21
        ]
        pq.write_table(pa.Table.from_pylist(pairs, PAIRS), folder / f"{name}.parquet")
    held_out = [f"n{i:03d}" for i in splits["validation"]]
    pq.write_table(pa.table({"note_id": held_out}), folder / "validation_pool.parquet")
    split = ["train"] * 100 + ["validation"] * 20
    pq.write_table(pa.table({"note_id": [f"n{i:03d}" for i in range(COUNT)], "split": split}), folder / "notes.parquet")


@dataclass(frozen=True)
class Stages:
    """A store with everything that training reads."""

    store: Store
    dataset: Dataset
    pairs: Artifact
    backbones: Artifact
    features: Artifact

    @classmethod
    def build(cls, root: Path) -> Stages:
        store = Store(root / "store")
        data = dataset(root / "data")
        pairs = store.build("pairs", 1, {}, {}, write_pairs)
        backbones = build_backbones(store, Corpus(data, MD5, pairs, ImageLimits()), BACKBONES, MODEL)
        return cls(store, data, pairs, backbones, vision_features(store, data, MD5, backbones, ImageLimits()))

    def train(
        self,
        model: ModelConfig = MODEL,
        training: TrainingConfig = TRAINING,
        *,
        store: Store | None = None,
        on_metrics: Watch = lambda step, values: None,
    ) -> Artifact:
        return train(store or self.store, self.inputs(), model, training, on_metrics=on_metrics)

    def inputs(self, **changed: Artifact) -> TrainingInputs:
        """What a training reads, some of it another artifact."""
        return replace(TrainingInputs(self.dataset, MD5, self.pairs, self.backbones, self.features), **changed)


def vectors(artifact: Artifact, name: str) -> np.ndarray:
    loaded: np.ndarray = np.load(artifact.file(f"{name}.npy"))
    return loaded
