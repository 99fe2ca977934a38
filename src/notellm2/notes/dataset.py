"""A data set on disk: parquet shards of notes and interactions, and ``dataset.json``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ValidationError

from notellm2.errors import InputError
from notellm2.notes.schema import INTERACTIONS, NOTES, SCHEMA_VERSION, Note

INFO = "dataset.json"


class DatasetInfo(BaseModel):
    """``dataset.json``: what the data set is and what came of its import."""

    name: str
    licence: str
    source: str
    schema_version: int = SCHEMA_VERSION
    notes: int
    notes_with_image: int
    interactions: int
    first_interaction: str | None
    last_interaction: str | None
    quarantined: dict[str, int] = {}
    """Reason to number of rows or images set aside by the import; details are in quarantine.jsonl."""


@dataclass(frozen=True)
class Dataset:
    """A readable data set; open it with `Dataset.open`.

    Attributes:
        path: its directory.
        info: its description.
    """

    path: Path
    info: DatasetInfo

    @classmethod
    def open(cls, path: Path) -> Dataset:
        """Open a data set and check that its shards carry the expected columns and number of rows (footers only).

        Raises:
            InputError: the directory is no data set, of another schema version, or damaged; says what to do.
        """
        try:
            info = DatasetInfo.model_validate_json((path / INFO).read_text())
        except FileNotFoundError:
            raise InputError(
                f"{path}: no data set here (expected {INFO}); make one with `notellm2 import EXPORT --into {path}`"
            ) from None
        except NotADirectoryError:
            raise InputError(f"{path}: a file; expected the folder of a data set") from None
        except (ValidationError, UnicodeDecodeError) as error:
            raise InputError(f"{path / INFO}: not a data set's description: {error}") from None
        if info.schema_version != SCHEMA_VERSION:
            raise InputError(
                f"{path / INFO}: schema version {info.schema_version}, expected {SCHEMA_VERSION}; import it again"
            )
        dataset = cls(path, info)
        for room, schema, rows in (("notes", NOTES, info.notes), ("interactions", INTERACTIONS, info.interactions)):
            stored = sum(_checked_rows(shard, schema) for shard in dataset.shards(room))
            if stored != rows:
                raise InputError(
                    f"{path / room}: {stored} rows, {INFO} says {rows}; a shard is missing or foreign: import it again"
                )
        return dataset

    def shards(self, room: str) -> list[Path]:
        """List the parquet files of ``notes`` or ``interactions``, in order.

        Raises:
            InputError: there is none.
        """
        shards = sorted((self.path / room).glob("part-*.parquet"))
        if not shards:
            raise InputError(f"{self.path / room}: no part-*.parquet; import the data set again")
        return shards

    def notes(self, columns: Sequence[str] = ("note_id", "title", "topics", "content")) -> pa.Table:
        """Read chosen columns of all notes as one table, in file order; ``image`` needs memory for all images."""
        return self._table("notes", columns)

    def interactions(self, columns: Sequence[str] = tuple(INTERACTIONS.names)) -> pa.Table:
        """Read chosen columns of all interactions as one table, in file order."""
        return self._table("interactions", columns)

    def texts(self) -> list[Note]:
        """Read all notes without their images, in file order."""
        columns = self.notes().to_pydict()
        fields = zip(columns["note_id"], columns["title"], columns["topics"], columns["content"], strict=True)
        return [Note(note_id, title, tuple(topics), content) for note_id, title, topics, content in fields]

    def batches(self, rows: int = 256) -> Iterator[list[Note]]:
        """Yield all notes with their images, in file order, `rows` at a time; memory stays bounded by the batch."""
        columns = ["note_id", "title", "topics", "content", "image"]
        for shard in self.shards("notes"):
            with pq.ParquetFile(shard) as file:
                for batch in file.iter_batches(batch_size=rows, columns=columns):
                    yield [_note(row) for row in batch.to_pylist()]

    def _table(self, room: str, columns: Sequence[str]) -> pa.Table:
        tables = [pq.read_table(shard, columns=list(columns), partitioning=None) for shard in self.shards(room)]
        return pa.concat_tables(tables)


def _checked_rows(shard: Path, schema: pa.Schema) -> int:
    """The number of rows of a shard whose footer is sound and whose columns are the expected ones."""
    try:
        with pq.ParquetFile(shard) as file:
            columns, rows = file.schema_arrow, file.metadata.num_rows
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{shard}: cannot be read: {error}; fetch the data again, or import it again") from None
    if not columns.equals(schema):
        raise InputError(f"{shard}: expected the columns\n{schema}\nfound\n{columns}\nimport it again")
    return int(rows)


def _note(row: dict[str, Any]) -> Note:
    image = row["image"]
    return Note(
        note_id=row["note_id"],
        title=row["title"],
        topics=tuple(row["topics"]),
        content=row["content"],
        image=image["bytes"] if image else None,
    )
