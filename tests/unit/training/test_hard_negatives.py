from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from notellm2.artifacts import Artifact, Store
from notellm2.training.batches import PairOrder
from notellm2.training.hard_negatives import HardNegatives
from tests.unit.training.small_run import MODEL, TRAINING, Stages, topic

COUNT, HELD_OUT = 60, 40
"""Notes, and the first of those that are held out."""
PAIRS = np.array([[0, 1], [2, 3], [0, 4], [5, 6], [7, 30]])


def world(root: Path) -> tuple[Artifact, Artifact, dict[str, int], np.ndarray]:
    """Vectors of an earlier data version (other order, one note that is gone), splits, today's rows."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((COUNT, 8)).astype(np.float32)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    order = rng.permutation(COUNT)
    store = Store(root)

    def write(folder: Path) -> None:
        gone = rng.standard_normal((1, 8)).astype(np.float32)
        np.save(folder / "both.npy", np.concatenate([gone, x[order]]))
        (folder / "note_ids.json").write_text(json.dumps(["gone", *(f"n{i}" for i in order)]))

    def split(folder: Path) -> None:
        names = ["train" if i < HELD_OUT else "test" for i in range(COUNT)]
        pq.write_table(pa.table({"note_id": [f"n{i}" for i in range(COUNT)], "split": names}), folder / "notes.parquet")

    rows = {f"n{i}": i for i in range(COUNT)}
    return store.build("vectors", 1, {}, {}, write), store.build("pairs", 1, {}, {}, split), rows, x


@pytest.mark.parametrize("kept", [5, 50])
def test_they_are_the_nearest_training_notes_that_are_no_partners(kept: int, tmp_path: Path) -> None:
    vectors, pairs, rows, x = world(tmp_path)
    hard = HardNegatives.mined(vectors, pairs, rows, PairOrder(PAIRS, 2, 0), kept)
    np.testing.assert_array_equal(hard.notes, [0, 1, 2, 3, 4, 5, 6, 7, 30])
    for note, found in zip(hard.notes, hard.negatives, strict=True):
        partners = {b for pair in PAIRS.tolist() for b in pair if note in pair}
        others = [n for n in range(HELD_OUT) if n not in partners and n != note]
        expected = sorted(others, key=lambda n: -float(x[note] @ x[n]))[:kept]
        assert found[found >= 0].tolist() == expected
        assert (found < 0).sum() == kept - len(expected)


def test_a_draw_is_a_function_of_seed_and_step(tmp_path: Path) -> None:
    vectors, pairs, rows, _ = world(tmp_path)
    hard = HardNegatives.mined(vectors, pairs, rows, PairOrder(PAIRS, 2, 0), 6)
    notes = np.array([0, 5, 59, 0])
    drawn = hard.draw(notes, 2, 1, 7)
    assert len(drawn) == 6, "note 59 has none"
    assert len(set(drawn[:2])) == 2
    assert set(drawn[:2]) <= set(hard.negatives[0])
    np.testing.assert_array_equal(hard.draw(notes, 2, 1, 7), drawn)
    assert not np.array_equal(hard.draw(notes, 2, 1, 8), drawn)
    assert not np.array_equal(hard.draw(notes, 2, 2, 7), drawn)


def test_fewer_than_asked_for_is_all_there_is() -> None:
    hard = HardNegatives(np.array([3, 9]), np.array([[4, -1, -1], [5, 6, 7]]))
    assert hard.draw(np.array([3]), 2, 0, 0).tolist() == [4]
    assert sorted(hard.draw(np.array([9]), 9, 0, 0).tolist()) == [5, 6, 7]
    assert len(HardNegatives(np.zeros(0, np.int64), np.zeros((0, 3), np.int64)).draw(np.array([3]), 2, 0, 0)) == 0


def test_a_training_takes_them_from_the_published_vectors(stages: Stages, tmp_path: Path) -> None:
    from notellm2.training.training_stage import train

    def write(folder: Path) -> None:
        ids = [f"n{i:03d}" for i in range(120)]
        directions = np.eye(10, dtype=np.float32)[[topic(i) for i in range(120)]]
        np.save(folder / "both.npy", directions)
        (folder / "note_ids.json").write_text(json.dumps(ids))

    published = stages.store.build("vectors", 1, {"of": "hard"}, {}, write)

    def trained(hard_negatives: int, earlier: Artifact | None) -> Artifact:
        training = TRAINING.model_copy(update={"hard_negatives": hard_negatives, "steps": 2})
        return train(stages.store, replace(stages.inputs(), published=earlier), MODEL, training)

    with_them, without = trained(2, published), trained(2, None)
    assert with_them.key != without.key
    assert trained(0, published).key == trained(0, None).key, "where none are asked for they are no input"
    first = [json.loads(a.file("metrics.jsonl").read_text().splitlines()[0]) for a in (with_them, without)]
    assert first[0]["chance"] > first[1]["chance"] + 0.1
