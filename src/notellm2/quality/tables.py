"""The tables that suites of expectations are about, and their columns.

A suite file names its table. Rows of ``notes``, ``topics`` and ``interactions`` are read part by part; ``summary`` is
one row of numbers counted over the whole data set.
"""

from __future__ import annotations

from dataclasses import dataclass

from notellm2.quality.measures import MEASURES


@dataclass(frozen=True)
class Table:
    """A table of rows to judge.

    Attributes:
        columns: its columns.
        show: the columns that tell a person which row is meant; shown beside each unexpected value.
    """

    columns: tuple[str, ...]
    show: tuple[str, ...] = ()


_BEHAVIOUR = ("user_id", "note_id", "event", "timestamp")

SUMMARY = "summary"

TABLES = {
    "notes": Table(
        (
            "note_id",
            "note_id_occurrences",
            "title",
            "content",
            "topic_count",
            "category",
            "created_at",
            "has_text",
            "has_image",
            "has_text_or_image",
            "image_bytes",
            "image_kind",
            "image_decodes",
            "image_problem",
        ),
        ("note_id",),
    ),
    "topics": Table(("note_id", "topic"), ("note_id",)),
    "interactions": Table((*_BEHAVIOUR, "note_exists", "note_created_at"), _BEHAVIOUR),
    SUMMARY: Table(MEASURES),
}
"""Table name to table. `image_bytes` is a number, `image_kind` "unknown" where the header is none of an image's, and
`image_decodes` null where the image was not tried; the bytes themselves are in no table."""
