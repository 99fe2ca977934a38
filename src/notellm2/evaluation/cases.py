"""Read the test as arrays: queries, targets and pool as rows of the data set, and the text of these notes."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from notellm2.artifacts import Artifact, ArtifactError, digest_json
from notellm2.errors import InputError
from notellm2.evaluation.baselines import cut_text, whole_text
from notellm2.evaluation.ranks import F64, I64
from notellm2.notes.dataset import Dataset
from notellm2.recipe import TextLimits

_HOUR_US = 3_600_000_000
_COLUMNS = ("note_id", "title", "topics", "content", "category", "created_at")


@dataclass(frozen=True)
class MinedData:
    """A version of the data set and the pairs mined from it: what models are measured on.

    Attributes:
        dataset: the notes.
        md5: their version.
        pairs: artifact with test pairs, pool and popularity.
    """

    dataset: Dataset
    md5: str
    pairs: Artifact


@dataclass(frozen=True)
class Cases:
    """Test pairs against their pool. Rows are positions in the data set, columns positions in the pool.

    Attributes:
        notes: all notes of the data set: note_id, title, topics, content, category, created_at, in order.
        query_rows: i64[Q], row of each pair's query note.
        target_rows: i64[Q], row of each pair's target note.
        pool_rows: i64[P], row of each note of the pool.
        popularity: i64[P], users of each note of the pool.
        now: the latest moment that counts, UTC: of the behaviour the pairs were mined from, or of the notes where
            there is none; None: unknown.
    """

    notes: pa.Table
    query_rows: I64
    target_rows: I64
    pool_rows: I64
    popularity: I64
    now: datetime | None = None

    def columns(self, rows: I64) -> I64:
        """Return the column in the pool of each row of the data set, i64; -1 where it is not in the pool."""
        column = np.full(len(self.notes), -1, np.int64)
        column[self.pool_rows] = np.arange(len(self.pool_rows))
        columns: I64 = column[rows]
        return columns

    def chars(self) -> I64:
        """Count the characters of every note's uncut text (title, topics, content, no separators), i64[N]."""
        topics = pc.utf8_length(pc.binary_join(self.notes["topics"], ""))
        chars = pc.add(pc.add(pc.utf8_length(self.notes["title"]), pc.utf8_length(self.notes["content"])), topics)
        return np.asarray(chars.to_numpy(), np.int64)

    def ages_h(self) -> F64 | None:
        """Compute each note's age at `now` in hours, f64[N]; infinite without a time; None: no note has one."""
        created = self.notes["created_at"].combine_chunks()
        if self.now is None or created.null_count == len(created):
            return None
        ages = np.full(len(created), np.inf)
        known = np.flatnonzero(pc.is_valid(created).to_numpy(zero_copy_only=False))
        micros = created.drop_null().cast(pa.int64()).to_numpy()
        ages[known] = (self.now.timestamp() * 1e6 - micros) / _HOUR_US
        return ages

    def texts(self, rows: I64, limits: TextLimits | None) -> list[str]:
        """Return the text of some notes, within limits or whole."""
        return [
            whole_text(note["title"], note["topics"], note["content"])
            if limits is None
            else cut_text(note["title"], note["topics"], note["content"], limits)
            for note in self.notes.take(pa.array(rows)).to_pylist()
        ]

    def digest(self, data_md5: str) -> str:
        """Digest data version, test pairs and pool: where it is equal, figures and queries compare."""
        pairs = list(zip(self.ids(self.query_rows), self.ids(self.target_rows), strict=True))
        return digest_json([data_md5, pairs, self.ids(self.pool_rows)])[:20]

    def ids(self, rows: I64) -> list[str]:
        """Return the note_id of some rows."""
        ids: list[str] = self.notes["note_id"].take(pa.array(rows)).to_pylist()
        return ids


def read_cases(data: MinedData, smallest_k: int, split: Literal["test", "validation"] = "test") -> Cases:
    """Read the test pairs of a pairs artifact (or its validation pairs) and their pool, and check them.

    Raises:
        InputError: there are no such pairs, or fewer notes in the pool than the smallest cut-off.
        ArtifactError: the pairs name notes that the data set or the pool does not hold.
    """
    dataset, pairs = data.dataset, data.pairs
    notes = dataset.notes(_COLUMNS)
    all_ids = notes["note_id"].combine_chunks()
    pairs_file = pairs.file(f"{split}.parquet")
    pool_file = pairs.file("pool.parquet" if split == "test" else "validation_pool.parquet")
    test = pq.read_table(pairs_file, columns=["query_id", "target_id"])
    pool = pq.read_table(pool_file, columns=["note_id"])
    popularity = pq.read_table(pairs.file("notes.parquet"), columns=["note_id", "popularity"])
    advice = f"raise pairs.{split}_share, or lower pairs.min_support or pairs.min_popularity in the recipe"
    if len(test) == 0:
        raise InputError(f"{pairs_file}: no {split} pairs, so nothing can be evaluated; {advice}")
    if len(pool) < smallest_k:
        raise InputError(
            f"{pool_file}: the pool has {len(pool)} notes, fewer than the smallest of evaluation.ks "
            f"({smallest_k}); {advice}"
        )

    def rows(column: pa.ChunkedArray, among: pa.Array, what: str) -> I64:
        positions = pc.index_in(column, value_set=among)
        if positions.null_count:
            missing = column.filter(pc.is_null(positions))[0].as_py()
            raise ArtifactError(
                f"pairs/{pairs.key}: {what} {missing!r} is not there, and {positions.null_count - 1} more"
            )
        return np.asarray(positions.to_numpy(), np.int64)

    pool_rows = rows(pool["note_id"], all_ids, "the pool's note in the data set,")
    counted = rows(pool["note_id"], popularity["note_id"].combine_chunks(), "the pool's note in notes.parquet,")
    cases = Cases(
        notes=notes,
        query_rows=rows(test["query_id"], all_ids, "the query in the data set,"),
        target_rows=rows(test["target_id"], all_ids, "the target in the data set,"),
        pool_rows=pool_rows,
        popularity=popularity["popularity"].to_numpy().astype(np.int64)[counted],
        now=_latest(dataset, notes, pairs),
    )
    outside = int((cases.columns(cases.target_rows) < 0).sum())
    if outside:
        raise ArtifactError(f"pairs/{pairs.key}: {outside} of {len(test)} {split} targets are not in the pool")
    return cases


def _latest(dataset: Dataset, notes: pa.Table, pairs: Artifact) -> datetime | None:
    if dataset.info.last_interaction is not None:
        last, until = datetime.fromisoformat(dataset.info.last_interaction), pairs.manifest["config"].get("until")
        return last if until is None else min(last, datetime.fromisoformat(until))
    latest: datetime | None = pc.max(notes["created_at"]).as_py()
    return latest


def read_vectors(vectors: Artifact, name: str, cases: Cases) -> npt.NDArray[np.float32]:
    """Read one modality's embeddings f32[N, D], memory-mapped, in the data set's order.

    Raises:
        ArtifactError: the vectors are of other notes than the data set's.
    """
    ids = json.loads(vectors.file("note_ids.json").read_text())
    if ids != cases.notes["note_id"].to_pylist():
        raise ArtifactError(f"vectors/{vectors.key}: note_ids.json does not list the data set's notes in its order")
    array: npt.NDArray[np.float32] = np.load(vectors.file(f"{name}.npy"), mmap_mode="r", allow_pickle=False)
    if len(array) != len(ids):
        raise ArtifactError(f"vectors/{vectors.key}: {name}.npy has {len(array)} rows for {len(ids)} notes")
    return array
