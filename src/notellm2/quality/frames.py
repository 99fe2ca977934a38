"""Reads the tables to judge, part by part, as pandas frames of bounded size.

A part of notes has at most 20,480 rows or 64 MiB as the importer cuts them, a frame of interactions `ROWS`. Texts are
Arrow's, so that a regular expression is run by RE2 over the whole column. Image bytes are never read here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from notellm2.notes.dataset import Dataset
from notellm2.notes.schema import INTERACTIONS, NOTES
from notellm2.quality.summaries import KnownNotes

if TYPE_CHECKING:
    import pandas as pd

ROWS = 1 << 17
"""Most rows of a frame."""

_NOTE_COLUMNS = ["note_id", "title", "topics", "content", "category", "created_at"]
_NOT_BLANK = r"[^\s\p{Z}\p{C}]"


def note_frames(
    dataset: Dataset, facts: pa.Table, repeated: dict[str, int]
) -> Iterator[tuple[pd.DataFrame, pd.DataFrame]]:
    """Frames of the tables `notes` and `topics`, part by part.

    Args:
        dataset: the data set.
        facts: what is known of its images (`images.image_facts`), a row a note in file order.
        repeated: note ids that occur more than once, and how often.
    """
    start = 0
    for rows in _parts(dataset, "notes", NOTES, _NOTE_COLUMNS):
        yield _notes(rows, facts.slice(start, len(rows)), repeated), _topics(rows)
        start += len(rows)


def interaction_frames(dataset: Dataset, known: KnownNotes) -> Iterator[pd.DataFrame]:
    """Frames of the table `interactions`, part by part, each row with what the notes say of its note.

    Args:
        dataset: the data set.
        known: every note.
    """
    import pandas as pd

    ids = pd.Index(known.ids, dtype=object)
    for rows in _parts(dataset, "interactions", INTERACTIONS, INTERACTIONS.names):
        found = ids.get_indexer(rows["note_id"].to_pandas().astype(object))
        created = known.created_us[found] if len(ids) else np.ma.zeros(len(rows), np.int64)
        missing = (found < 0) | np.ma.getmaskarray(created)
        moments = pa.array(np.ma.getdata(created), mask=missing).cast(pa.timestamp("us", tz="UTC"))
        rows = rows.append_column("note_exists", pa.array(found >= 0))
        yield _frame(rows.append_column("note_created_at", moments))


def _parts(dataset: Dataset, room: str, schema: pa.Schema, columns: Sequence[str]) -> Iterator[pa.Table]:
    """Rows of every part, in file order, at most `ROWS` at once; of an empty data set one table without rows."""
    parts = 0
    for shard in dataset.shards(room):
        with pq.ParquetFile(shard, pre_buffer=False) as file:
            for batch in file.iter_batches(batch_size=ROWS, columns=list(columns)):
                yield pa.Table.from_batches([batch])
                parts += 1
    if not parts:
        yield schema.empty_table().select(list(columns))


def _notes(rows: pa.Table, facts: pa.Table, repeated: dict[str, int]) -> pd.DataFrame:
    topics = pc.binary_join(pc.fill_null(rows["topics"], []), " ")
    parts = [rows["title"], rows["content"], topics]
    has_text = pc.fill_null(pc.match_substring_regex(parts[0], _NOT_BLANK), False)
    for part in parts[1:]:
        has_text = pc.or_(has_text, pc.fill_null(pc.match_substring_regex(part, _NOT_BLANK), False))
    has_image = facts["has_image"]
    unknown = pc.and_(pc.is_null(facts["image_kind"]), pc.fill_null(pc.greater(facts["image_bytes"], 0), False))
    occurrences = [repeated.get(note_id, 1) for note_id in rows["note_id"].to_pylist()] if repeated else [1] * len(rows)
    columns: dict[str, Any] = {
        "note_id": rows["note_id"],
        "note_id_occurrences": pa.array(occurrences, pa.int64()),
        "title": rows["title"],
        "content": rows["content"],
        "topic_count": pc.cast(pc.list_value_length(rows["topics"]), pa.int64()),
        "category": rows["category"],
        "created_at": rows["created_at"],
        "has_text": has_text,
        "has_image": has_image,
        "has_text_or_image": pc.or_(has_text, has_image),
        "image_bytes": facts["image_bytes"],
        "image_kind": pc.if_else(unknown, "unknown", facts["image_kind"]),
        "image_decodes": facts["image_ok"],
        "image_problem": facts["problem"],
    }
    return _frame(pa.table(columns))


def _topics(rows: pa.Table) -> pd.DataFrame:
    topics = rows["topics"].combine_chunks()
    owners = pc.take(rows["note_id"], pc.list_parent_indices(topics))
    return _frame(pa.table({"note_id": owners, "topic": pc.list_flatten(topics)}))


def _frame(rows: pa.Table) -> pd.DataFrame:
    """A frame whose texts are Arrow's, whatever this pandas does by default; null is NaN, NaT or None."""
    import pandas as pd

    text = pd.StringDtype("pyarrow", na_value=np.nan)
    frame: pd.DataFrame = rows.to_pandas(types_mapper={pa.string(): text}.get)
    return frame
