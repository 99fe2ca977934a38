"""A data set of 120 notes with the artifacts that evaluation reads, made by hand: no mining, no model."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from notellm2.artifacts import Artifact, Store
from notellm2.evaluation.cases import MinedData
from notellm2.evaluation.report import ReportInput
from notellm2.notes.dataset import INFO, Dataset, DatasetInfo
from notellm2.notes.schema import INTERACTIONS, NOTES, PAIRS

N_NOTES = 120
N_GROUPS = 20
POOL = range(20, 120)
TRAINING = range(80, 120)
NOW = datetime(2025, 3, 8, tzinfo=UTC)
MD5 = "0123456789abcdef0123456789abcdef.dir"


@dataclass(frozen=True)
class SmallRun:
    """A store, its data set, and the artifacts of the earlier stages."""

    store: Store
    dataset: Dataset
    pairs: Artifact
    features: Artifact
    vectors: Artifact
    training: Artifact
    quality: Artifact

    @property
    def mined(self) -> MinedData:
        """What models are measured on."""
        return MinedData(self.dataset, MD5, self.pairs)

    def vectors_with(self, name: str, **noise: float) -> Artifact:
        """Another model's embeddings: how much noise covers the group in `both`, `text`, `image` or `shuffled`."""
        inputs = {"features": self.features}
        return self.store.build("vectors", 1, {"name": name, **noise}, inputs, lambda into: _vectors(into, **noise))


def small_run(root: Path, *, n_pairs: int = 30, pool: range = POOL) -> SmallRun:
    """Notes in 20 groups of six; a pair is two notes of a group, both inputs know the group, text half of it."""
    store = Store(root / "store", {"git_commit": "abc1234"})
    dataset = _dataset(root / "data")
    features = store.build("vision-features", 1, {}, {}, _features)
    return SmallRun(
        store,
        dataset,
        pairs=store.build("pairs", 1, {"n": n_pairs, "pool": len(pool)}, {}, lambda d: _pairs(d, n_pairs, pool)),
        features=features,
        vectors=store.build("vectors", 1, {}, {"features": features}, lambda d: _vectors(d)),
        training=store.build("training", 1, {}, {}, _training),
        quality=store.build("quality", 1, {}, {}, _quality),
    )


def note_ids() -> list[str]:
    """Ids of the notes, in order."""
    return [f"n{i:03d}" for i in range(N_NOTES)]


def metrics_with(**recalls: float | None) -> dict[str, Any]:
    """metrics.json of models with one recall each."""
    return {m: {"all": {"recall@10": r, "recall@50": r, "ndcg@10": r, "mrr": r, "n": 500}} for m, r in recalls.items()}


def page_of(metrics: dict[str, Any], **known: Any) -> ReportInput:
    """What a page shows of a run of which little is known but its metrics."""
    mappings = ("data", "intervals", "space", "thumbnails", "training", "quality", "pairs")
    unknown: dict[str, Any] = {key: {} for key in mappings}
    unknown |= {"recipe": {"name": "small"}, "protocol": {"slices": {}}, "examples": (), "history": ()}
    return ReportInput(metrics=metrics, **(unknown | known))


def jpeg(colour: tuple[int, int, int]) -> bytes:
    """A plain picture."""
    buffer = io.BytesIO()
    Image.new("RGB", (160, 120), colour).save(buffer, "JPEG")
    return buffer.getvalue()


def _dataset(path: Path) -> Dataset:
    rows = []
    for i, note_id in enumerate(note_ids()):
        group = i % N_GROUPS
        short = i % 3 == 0
        rows.append(
            {
                "note_id": note_id,
                "title": f"<b>Note {i}</b>",
                "topics": [f"topic{group}"],
                "content": "" if short else f"words of group{group} and note{i} " * 5,
                "image": None if i % 7 == 0 else {"bytes": jpeg((group * 12, 90, 200 - group * 8)), "path": None},
                "category": None if i % 10 == 0 else f"Kind {group % 3}",
                "created_at": NOW - timedelta(hours=i),
            }
        )
    for room, table in (
        ("notes", pa.Table.from_pylist(rows, schema=NOTES)),
        ("interactions", INTERACTIONS.empty_table()),
    ):
        (path / room).mkdir(parents=True)
        pq.write_table(table, path / room / "part-00000.parquet", row_group_size=50)
    info = DatasetInfo(
        name="small",
        licence="made up",
        source="a test",
        notes=N_NOTES,
        notes_with_image=102,
        interactions=0,
        first_interaction=None,
        last_interaction=NOW.isoformat(),
    )
    (path / INFO).write_text(info.model_dump_json())
    return Dataset.open(path)


def _pairs(into: Path, n_pairs: int, pool: range) -> dict[str, Any]:
    ids = note_ids()
    # Queries 0..19 lie outside the pool, the others in it; the target is the group's note one round later.
    for name, queries in (("test", range(n_pairs)), ("train", TRAINING[:N_GROUPS])):
        pairs = [{"query_id": ids[q], "target_id": ids[q + N_GROUPS], "score": 1.0, "support": 2} for q in queries]
        pq.write_table(pa.Table.from_pylist(pairs, schema=PAIRS), into / f"{name}.parquet")
    pq.write_table(pa.table({"note_id": [ids[i] for i in pool]}), into / "pool.parquet")
    popularity = pa.array([i // 10 for i in range(N_NOTES)], pa.int32())
    # The last forty are training notes; that they are in the pool as well does no harm here.
    split = ["train" if i in TRAINING else "test" for i in range(N_NOTES)]
    pq.write_table(pa.table({"note_id": ids, "split": split, "popularity": popularity}), into / "notes.parquet")
    return {"pairs": {"train": 0, "test": n_pairs}, "dropped": {"test": {"support": 3}}, "seconds": 0.1}


NOISE = {"both": 0.05, "text": 0.5, "image": 1.0, "shuffled": 0.6}


def _features(into: Path) -> None:
    """Random patches, zeros for notes without image."""
    tokens = np.random.default_rng(1).standard_normal((N_NOTES, 3, 16)).astype(np.float16)
    tokens[::7] = 0.0
    np.save(into / "features.npy", tokens)


def _vectors(into: Path, **noise: float) -> None:
    rng = np.random.default_rng(0)
    group = np.eye(N_GROUPS, dtype=np.float32)[np.arange(N_NOTES) % N_GROUPS]
    blur = rng.standard_normal((N_NOTES, N_GROUPS), dtype=np.float32)
    vision = rng.standard_normal((N_NOTES, 16), dtype=np.float32)
    vision[::7] = 0.0
    for name, much in (NOISE | noise).items():
        rows = group + np.float32(much) * blur
        np.save(into / f"{name}.npy", rows / np.linalg.norm(rows, axis=1, keepdims=True))
    np.save(into / "vision.npy", vision)
    (into / "note_ids.json").write_text(json.dumps(note_ids()))


def _training(into: Path) -> dict[str, Any]:
    rows = [
        {"step": s, "loss": 4.8 * 0.9**s, "chance": 4.844, "mean_cosine": 0.9 * 0.8**s, "lr": 1e-3} for s in range(20)
    ]
    (into / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {"steps": 20, "final_loss": rows[-1]["loss"], "pairs_per_s": 12.5, "left_chance": True}


def _quality(into: Path) -> dict[str, Any]:
    entry = {
        "suite": "notes",
        "expectation": "note_count",
        "severity": "critical",
        "success": True,
        "observed": 120,
        "meaning": "enough notes",
    }
    (into / "result.json").write_text(json.dumps([entry]))
    return {"success": True, "critical_failed": [], "warnings": [], "counts": {"notes": 120}}
