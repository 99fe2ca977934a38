"""Stage "linear": embed every note with a linear map of its TF-IDF vector and its frozen image features.

It is what a tuned model has to beat (`linear_map.py`), trained on the same pairs of training notes and on the text that
the TF-IDF baseline reads. Vocabulary, singular vectors, scales and matrix are fitted on training notes alone.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer
from threadpoolctl import threadpool_limits

from notellm2.artifacts import Artifact, Store
from notellm2.errors import InputError
from notellm2.evaluation.baselines import cut_text, terms
from notellm2.evaluation.cases import MinedData
from notellm2.evaluation.linear_map import MapSettings, train_map
from notellm2.evaluation.ranks import F32, I64, blocks
from notellm2.recipe import TextLimits

logger = logging.getLogger(__name__)

STAGE, VERSION = "linear", 1
FEATURES_STAGE = "vision-features"  # of `embedding.vectors_stage`, which leads to torch
SETTINGS = MapSettings()
TEXT_WIDTH = 256
"""Singular vectors of the TF-IDF matrix that are kept."""
_MIN_NOTES = 2
_FITTED_NOTES = 50_000
_MAX_WORDS = 100_000
_BLOCK = 1024
_SEED = 0


def linear_vectors(store: Store, data: MinedData, features: Artifact, limits: TextLimits) -> Artifact:
    """Train the linear map on the training pairs, and embed every note with it.

    Takes seconds for thousands of notes and some minutes at most: the steps are bounded, and so are the notes that the
    text's statistics are taken from (50,000). It is the same for every model of one data set, pairs and encoder.

    Args:
        store: where the artifact goes.
        data: the notes and their mined pairs.
        features: the frozen encoder's (stage "vision-features"): features.npy float16[N, P, V].
        limits: how much of a note's text is read.

    Returns:
        Stage "linear": linear.npy float32[N, 64], rows of length 1, in data set order; note_ids.json. The summary has
        the loss, steps, pairs, and the width of the text's and the image's features.

    Raises:
        InputError: there are no training pairs.
    """

    def write(into: Path) -> dict[str, Any]:
        started = time.monotonic()
        ids = data.dataset.notes(("note_id",))["note_id"].combine_chunks()
        pairs = _rows(data.pairs, "train.parquet", ids, ("query_id", "target_id"))
        if len(pairs) == 0:
            raise InputError(f"{data.pairs.file('train.parquet')}: no training pairs for the linear baseline")
        notes = _training_notes(data.pairs, ids)
        # Small products: threads would wait for each other longer than they work.
        with threadpool_limits(1, "blas"):
            text, image = text_features(data, limits, notes), image_features(features, notes)
            inputs = np.concatenate([text, image], axis=1)
            trained = train_map(inputs, pairs, SETTINGS)
            np.save(into / "linear.npy", trained.embed(inputs))
        (into / "note_ids.json").write_text(json.dumps(ids.to_pylist()))
        seconds = round(time.monotonic() - started, 1)
        logger.info("linear baseline: %d steps on %d pairs in %.1f s", trained.steps, len(pairs), seconds)
        facts = {"loss": round(trained.loss, 4), "steps": trained.steps, "pairs": len(pairs), "seconds": seconds}
        return {**facts, "text_width": text.shape[1], "image_width": image.shape[1]}

    inputs: dict[str, Artifact | str] = {"data": data.md5, "pairs": data.pairs, "features": features}
    settings = {"text": limits.model_dump(), "text_width": TEXT_WIDTH, "map": asdict(SETTINGS)}
    return store.build(STAGE, VERSION, settings, inputs, write)


def text_features(data: MinedData, limits: TextLimits, notes: I64) -> F32:
    """Compute TF-IDF vectors of all notes, cut to their leading singular vectors and scaled to about 1.

    Args:
        data: the notes.
        limits: how much of their text is read.
        notes: i64, rows of the training notes, which the statistics are of.

    Returns:
        f32[N, at most 256]; of width 0 where the training notes share no word.
    """
    texts = _texts(data, limits)
    fitted = [texts[row] for row in _sample(notes)]
    vectorizer = TfidfVectorizer(
        analyzer=terms, sublinear_tf=True, min_df=_MIN_NOTES, max_features=_MAX_WORDS, dtype=np.float32
    )
    try:
        counted = vectorizer.fit_transform(fitted)
    except ValueError:  # No word is in two notes.
        return np.zeros((len(texts), 0), np.float32)
    width = min(TEXT_WIDTH, min(counted.shape) - 1)
    if width < 1:
        return np.zeros((len(texts), 0), np.float32)
    cut = TruncatedSVD(width, random_state=_SEED).fit(counted)
    rows: F32 = cut.transform(vectorizer.transform(texts)).astype(np.float32)
    return rows / max(float(np.sqrt((rows[notes] ** 2).mean())), 1e-9)


def image_features(features: Artifact, notes: I64) -> F32:
    """Average the patches of every note's image, standardised on training notes; without patches the summary.

    Args:
        features: features.npy float16[N, P, V], index 0 the summary, zeros without image.
        notes: i64, rows of the training notes.

    Returns:
        f32[N, V], zeros without image.
    """
    tokens = np.load(features.file("features.npy"), mmap_mode="r", allow_pickle=False)
    first = 1 if tokens.shape[1] > 1 else 0
    rows = np.empty((len(tokens), tokens.shape[2]), np.float32)
    for some in blocks(len(tokens), _BLOCK):
        rows[some] = tokens[some, first:].mean(axis=1, dtype=np.float32)
    pictured = (rows != 0).any(axis=1)
    known = rows[notes[pictured[notes]]]
    if len(known):
        rows -= known.mean(axis=0)
        rows /= known.std(axis=0) + np.float32(1e-6)
    rows[~pictured] = 0
    return rows


def _texts(data: MinedData, limits: TextLimits) -> list[str]:
    notes = data.dataset.notes(("title", "topics", "content"))
    return [
        cut_text(note["title"], note["topics"], note["content"], limits)
        for batch in notes.to_batches(max_chunksize=_BLOCK)
        for note in batch.to_pylist()
    ]


def _training_notes(pairs: Artifact, ids: pa.Array) -> I64:
    """i64: rows of the notes that are held out for nothing."""
    notes = pq.read_table(pairs.file("notes.parquet"), columns=["note_id", "split"])
    training = notes.filter(pc.equal(notes["split"], "train"))
    return np.asarray(pc.index_in(training["note_id"], value_set=ids).to_numpy(), np.int64)


def _rows(pairs: Artifact, file: str, ids: pa.Array, columns: Sequence[str]) -> I64:
    table = pq.read_table(pairs.file(file), columns=list(columns))
    ends = [pc.index_in(table[name], value_set=ids).to_numpy() for name in columns]
    return np.stack(ends, axis=1).astype(np.int64)


def _sample(notes: I64) -> Iterator[int]:
    drawn = np.random.default_rng(_SEED).permutation(notes)[:_FITTED_NOTES]
    return iter(np.sort(drawn).tolist())
