"""What is counted over the whole data set in SQL, because no part of it could know: the columns of the table `summary`.

Nothing here imports DuckDB or Great Expectations. `summaries` measures these numbers over the relations it prepares
(``notes``, ``images``, ``interactions`` and views grouped from them); the suites say what is expected of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from notellm2.notes.dataset import DatasetInfo

COPY_CHARS = 40
"""Least title and content, characters, for equal texts to count as copies; shorter ones ("hello") meet by chance."""

_ROW = ("user_id", "note_id", "event", "timestamp")


@dataclass(frozen=True)
class Measure:
    """One number of the whole data set.

    Attributes:
        name: the column of the table `summary`.
        column: the column of the data it is about, or ``*`` for whole rows.
        relation: the relation of `summaries` that `value`, `failed` and `bad` refer to.
        value: SQL aggregate: the number; null where it does not apply.
        failed: SQL aggregate: how many rows are at fault if the number is refused; None where no single row is.
        bad: SQL predicate of the rows shown as samples; None: no samples.
        show: columns of `relation` shown of each sample row.
    """

    name: str
    column: str
    relation: str
    value: str
    failed: str | None = None
    bad: str | None = None
    show: tuple[str, ...] = ()


MEASURES = (
    "note_count",
    "interaction_count",
    "user_count",
    "share_with_text",
    "share_with_image",
    "share_duplicate_texts",
    "share_duplicate_images",
    "events_of_two_spellings",
    "source_events",
    "target_events",
    "share_busiest_moment",
    "share_top_user",
    "share_repeats",
    "share_idle_notes",
    "share_single_notes",
    "undescribed_notes",
    "undescribed_images",
    "undescribed_interactions",
    "share_quarantined",
    "share_notes_quarantined",
    "share_interactions_quarantined",
    "share_images_quarantined",
    "notes_against_previous",
    "images_against_previous",
    "interactions_against_previous",
)
"""Names of all measures: the columns that a suite over the table `summary` may name."""


def measures(
    info: DatasetInfo,
    previous: DatasetInfo | None,
    source_events: Sequence[str] = (),
    target_events: Sequence[str] = (),
) -> list[Measure]:
    """List every measure; what does not apply, such as a comparison without an earlier version, has the value null.

    Args:
        info: the data set's own description, compared with what its shards hold.
        previous: the version before this one; None: there is none to compare with.
        source_events: events the mining reads as "viewed"; empty: not counted.
        target_events: events the mining reads as "clicked"; empty: not counted.
    """
    return [
        *_counts(source_events, target_events),
        *_note_shares(),
        *_behaviour_shares(),
        *_described(info),
        *_quarantined(info),
        *_against(previous),
    ]


def _counts(source_events: Sequence[str], target_events: Sequence[str]) -> list[Measure]:
    return [
        Measure("note_count", "*", "notes", "count(*)"),
        Measure("interaction_count", "*", "interactions", "count(*)"),
        Measure("user_count", "user_id", "users", "count(*)"),
        Measure("source_events", "event", "interactions", _count_of(source_events)),
        Measure("target_events", "event", "interactions", _count_of(target_events)),
    ]


def _count_of(events: Sequence[str]) -> str:
    quoted = ", ".join("'" + event.replace("'", "''") + "'" for event in events)
    return f"count(*) FILTER (event IN ({quoted}))" if events else "NULL"


def _share(name: str, column: str, relation: str, bad: str, show: tuple[str, ...]) -> Measure:
    """The share of a relation's rows that are at fault."""
    failed = f"count(*) FILTER ({bad})"
    return Measure(name, column, relation, f"coalesce({failed} / nullif(count(*), 0), 0)", failed, bad, show)


def _largest(name: str, column: str, relation: str, show: tuple[str, ...]) -> Measure:
    """The largest group's share of the interactions."""
    largest = "coalesce(max(events), 0)"
    return Measure(name, column, relation, "coalesce(max(events) / nullif(sum(events), 0), 0)", largest, "true", show)


def _note_shares() -> list[Measure]:
    kept = "coalesce(count(*) FILTER ({0}) / nullif(count(*), 0), 0)"
    texts, text = "title, topics, content", ("note_id", "title_start", "content_start")
    return [
        Measure("share_with_text", texts, "notes", kept.format("has_text")),
        Measure("share_with_image", "image", "images", kept.format("has_image")),
        _share("share_duplicate_texts", texts, "texts", "nth > 1", text),
        _share("share_duplicate_images", "image", "pictures", "nth > 1", ("note_id", "image_bytes", "same_as")),
        _share("share_idle_notes", "note_id", "popularity", "events = 0", ("note_id",)),
        _share("share_single_notes", "note_id", "popularity", "events = 1", ("note_id",)),
    ]


def _behaviour_shares() -> list[Measure]:
    two = "count(*) FILTER (spellings > 1)"
    repeats = "coalesce(sum(occurrences - 1), 0)"
    return [
        Measure(
            "events_of_two_spellings", "event", "events", two, two, "spellings > 1", ("event", "events", "spellings")
        ),
        _largest("share_busiest_moment", "timestamp", "moments", ("timestamp", "events")),
        _largest("share_top_user", "user_id", "users", ("user_id", "events")),
        Measure(
            "share_repeats",
            "*",
            "repeats",
            "coalesce(sum(occurrences - 1) / nullif(sum(occurrences), 0), 0)",
            repeats,
            "occurrences > 1",
            (*_ROW, "occurrences"),
        ),
    ]


_COUNTED = (
    ("notes", "notes", "count(*)"),
    ("images", "images", "count(*) FILTER (has_image)"),
    ("interactions", "interactions", "count(*)"),
)


def _of(info: DatasetInfo) -> dict[str, int]:
    return {"notes": info.notes, "images": info.notes_with_image, "interactions": info.interactions}


def _described(info: DatasetInfo) -> list[Measure]:
    return [
        Measure(f"undescribed_{what}", "*", relation, difference, difference)
        for what, relation, count in _COUNTED
        for difference in [f"abs({count} - {_of(info)[what]})"]
    ]


def _quarantined(info: DatasetInfo) -> list[Measure]:
    # An archive's spare members are no loss of data: nothing asked for them.
    judged = (
        ("share_quarantined", "kind <> 'archive'", info.notes + info.interactions),
        ("share_notes_quarantined", "kind = 'note'", info.notes),
        ("share_interactions_quarantined", "kind = 'interaction'", info.interactions),
        ("share_images_quarantined", "kind = 'image'", info.notes_with_image),
    )
    show = ("kind", "reason", "rows", "first_location", "first_detail")
    return [
        Measure(name, "*", "quarantine", f"coalesce({aside} / nullif({aside} + {kept}, 0), 0)", aside, which, show)
        for name, which, kept in judged
        for aside in [f"coalesce(sum(rows) FILTER ({which}), 0)"]
    ]


def _against(previous: DatasetInfo | None) -> list[Measure]:
    before = _of(previous) if previous else {}
    return [
        Measure(
            f"{what}_against_previous",
            "*",
            relation,
            f"{count} / {before[what]}" if before.get(what) else "NULL",
            f"greatest({before[what]} - {count}, 0)" if before.get(what) else None,
        )
        for what, relation, count in _COUNTED
    ]
