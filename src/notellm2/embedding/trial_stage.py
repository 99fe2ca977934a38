"""Stage "trial-vectors": embed only the notes that validation looks at, with a model that is tried out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from notellm2.artifacts import Artifact, Store
from notellm2.notes.dataset import Dataset

STAGE, VERSION = "trial-vectors", 1
_BATCH = 64


def embed_validation(
    store: Store, dataset: Dataset, data_md5: str, pairs: Artifact, training: Artifact, features: Artifact
) -> Artifact:
    """Embed queries, targets and pool of the validation pairs with both inputs, and no other note.

    Files: ``rows.npy`` int64[M], rising rows of the data set, and ``both.npy`` float32[M, D], their embeddings, rows of
    length 1.

    Args:
        store: where the artifact goes.
        dataset: the notes, of version `data_md5`.
        data_md5: see `dataset`.
        pairs: with validation pairs and their pool.
        training: the model bundle that is tried out.
        features: frozen vision features of all notes.
    """

    def write(folder: Path) -> dict[str, Any]:
        from notellm2.embedding.vectors_stage import open_model
        from notellm2.model.network.note_source import embed_chunks
        from notellm2.progress import track

        rows = _validation_rows(dataset, pairs)
        bundle, source = open_model(store, dataset, data_md5, training, features)
        embedded = np.empty((len(rows), bundle.dim), np.float32)
        with track("vectors of the validation notes", len(rows), "notes") as advance:
            for chunk, embeddings in embed_chunks(bundle.network, source, rows, size=_BATCH):
                embedded[chunk] = embeddings
                advance(len(chunk))
        np.save(folder / "rows.npy", rows)
        np.save(folder / "both.npy", embedded)
        return {"notes": len(rows), "dim": bundle.dim}

    inputs: dict[str, Artifact | str] = {
        "data": data_md5,
        "pairs": pairs,
        "training": training,
        "features": features,
    }
    return store.build(STAGE, VERSION, {}, inputs, write)


def _validation_rows(dataset: Dataset, pairs: Artifact) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Rows of the data set, rising."""
    ids = dataset.notes(("note_id",))["note_id"].combine_chunks()
    wanted = pq.read_table(pairs.file("validation.parquet"), columns=["query_id", "target_id"])
    pool = pq.read_table(pairs.file("validation_pool.parquet"), columns=["note_id"])
    named = pa.chunked_array([*wanted["query_id"].chunks, *wanted["target_id"].chunks, *pool["note_id"].chunks])
    return np.unique(pc.index_in(named, value_set=ids).to_numpy().astype(np.int64))
