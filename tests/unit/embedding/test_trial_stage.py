"""Vectors of a model that is tried out: the validation notes alone, as the whole embedding has them."""

from __future__ import annotations

import numpy as np
import pyarrow.parquet as pq

from notellm2.embedding import vectors_stage
from notellm2.embedding.trial_stage import embed_validation
from tests.unit.training.small_run import COUNT, MD5, Stages, vectors


def test_only_the_validation_notes_are_embedded_and_as_ever(stages: Stages) -> None:
    trained = stages.train()
    made = embed_validation(stages.store, stages.dataset, MD5, stages.pairs, trained, stages.features)
    rows = np.load(made.file("rows.npy"))
    pairs = pq.read_table(stages.pairs.file("validation.parquet")).to_pylist()
    pool = pq.read_table(stages.pairs.file("validation_pool.parquet"))["note_id"].to_pylist()
    named = {note for pair in pairs for note in (pair["query_id"], pair["target_id"])} | set(pool)
    assert [f"n{row:03d}" for row in rows] == sorted(named)
    assert 0 < len(rows) < COUNT
    whole = vectors_stage.embed(stages.store, stages.dataset, MD5, trained, stages.features)
    np.testing.assert_allclose(np.load(made.file("both.npy")), vectors(whole, "both")[rows], atol=1e-5)
