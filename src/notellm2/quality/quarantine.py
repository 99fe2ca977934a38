"""What the import set aside, counted by kind and reason."""

from __future__ import annotations

import json

import pyarrow as pa

from notellm2.errors import InputError
from notellm2.notes.dataset import Dataset
from notellm2.notes.quarantine import QUARANTINE

COUNTS = pa.schema(
    [
        pa.field("kind", pa.string(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),
        pa.field("rows", pa.int64(), nullable=False),
        pa.field("first_location", pa.string()),
        pa.field("first_detail", pa.string()),
    ]
)
"""`kind`: note, interaction, image or archive, or unknown where only dataset.json's totals are left."""


def quarantine_counts(dataset: Dataset) -> pa.Table:
    """Count the problems of the import, one row a kind and reason, with the schema `COUNTS`.

    Counted from the import's list of problems; without that file, from the totals in dataset.json.

    Raises:
        InputError: a line of the list is not one of its records.
    """
    path = dataset.path / QUARANTINE
    counts: dict[tuple[str, str], int] = {}
    places: dict[tuple[str, str], str] = {}
    details: dict[tuple[str, str], str | None] = {}
    if not path.exists():
        counts = {("unknown", reason): total for reason, total in dataset.info.quarantined.items()}
    else:
        with path.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                try:
                    record = json.loads(line)
                    kind, reason, place = record["kind"], record["reason"], record["location"]
                    rows = int(record.get("lines", 1))
                except (ValueError, KeyError, TypeError) as error:
                    raise InputError(
                        f"{path}, line {number}: expected a JSON object with kind, reason and location "
                        f"({type(error).__name__}: {error}); import the data set again"
                    ) from None
                counts[kind, reason] = counts.get((kind, reason), 0) + rows
                places.setdefault((kind, reason), place)
                details.setdefault((kind, reason), record.get("detail"))
    table = [
        {
            "kind": kind,
            "reason": reason,
            "rows": count,
            "first_location": places.get((kind, reason)),
            "first_detail": details.get((kind, reason)),
        }
        for (kind, reason), count in counts.items()
    ]
    return pa.Table.from_pylist(table, COUNTS)
