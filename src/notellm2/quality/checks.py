"""What a data version is expected to satisfy, as plain data: a name, a severity, a measure in SQL and its bounds.

Nothing here imports DuckDB or Great Expectations. `summaries` measures the checks over the relations it prepares
(``notes``, ``images``, ``interactions`` and views grouped from them), `suites` lets Great Expectations judge the
measured values, so that neither ever holds a million rows in pandas.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Literal

from notellm2.errors import InputError
from notellm2.notes.dataset import DatasetInfo
from notellm2.recipe import QualityConfig

SUITES = ("notes", "images", "interactions", "references", "volume")

Severity = Literal["critical", "warning"]

EVENT_SHAPE = r"[A-Za-z][A-Za-z0-9_.:-]{0,63}"
"""What an event's name looks like: a letter, then at most 63 letters, digits or ``_ . : -``."""

MAX_ID_CHARS = 200
"""Longest id of a note or user, characters."""

COPY_CHARS = 40
"""Least title and content, characters, for equal texts to count as copies; shorter ones ("hello") meet by chance."""

MAX_BUSIEST_MOMENT = 0.5
"""Largest share of the interactions at one microsecond; above it the export has probably lost its timestamps."""

MAX_BEFORE_CREATION = 0.01
"""Largest share of interactions earlier than their note; clocks of clients and servers differ a little."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Check:
    """One expectation about one measured number.

    Attributes:
        suite: one of `SUITES`.
        name: unique over all suites; also the column of the summary frame that Great Expectations reads.
        column: the column of the data it is about, or ``*`` for whole rows.
        severity: critical stops the flow, warning is only shown.
        meaning: a plain sentence that says what is expected.
        relation: the relation of `summaries` that `value`, `failed` and `bad` refer to.
        value: SQL aggregate: the measured number.
        lower: least value that passes; None: no bound.
        upper: largest value that passes; None: no bound.
        failed: SQL aggregate: how many rows are at fault; None where no single row is.
        bad: SQL predicate of the rows shown as samples; None: no samples.
        show: columns of `relation` shown of each sample row.
    """

    suite: str
    name: str
    column: str
    severity: Severity
    meaning: str
    relation: str
    value: str
    lower: float | None = None
    upper: float | None = None
    failed: str | None = None
    bad: str | None = None
    show: tuple[str, ...] = ()


@dataclass(frozen=True)
class Window:
    """When behaviour may have happened: from `start` on, before `end`; both microseconds since 1970 (UTC)."""

    start: int
    end: int

    @classmethod
    def of(cls, config: QualityConfig, now: datetime) -> Window:
        """The window a recipe names; a plain date as `latest` includes that whole day.

        Raises:
            InputError: a bound is not ISO 8601, or they leave no time between them.
        """
        start = moment("recipe: quality.earliest", config.earliest)
        if config.latest is None:
            end = now
        elif _is_date(config.latest):
            end = moment("recipe: quality.latest", config.latest) + timedelta(days=1)
        else:
            end = moment("recipe: quality.latest", config.latest) + timedelta(microseconds=1)
        if end <= start:
            raise InputError(
                f"recipe: quality.earliest ({config.earliest}) is not before quality.latest "
                f"({config.latest or 'now'}); set an earlier quality.earliest or a later quality.latest"
            )
        return cls((start - _EPOCH) // timedelta(microseconds=1), (end - _EPOCH) // timedelta(microseconds=1))

    def __str__(self) -> str:
        bounds = (_EPOCH + timedelta(microseconds=us) for us in (self.start, self.end))
        return " to ".join(f"{bound:%Y-%m-%d %H:%M}" for bound in bounds) + " UTC"


def moment(name: str, text: str) -> datetime:
    """A date or time in ISO 8601, in UTC unless it names an offset.

    Raises:
        InputError: it is neither; the message begins with `name`.
    """
    try:
        found = datetime.combine(date.fromisoformat(text), time()) if _is_date(text) else datetime.fromisoformat(text)
    except ValueError:
        raise InputError(f"{name} is {text!r}; expected a date or time in ISO 8601, such as 2024-01-31") from None
    return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)


def plan(
    config: QualityConfig,
    window: Window,
    info: DatasetInfo,
    previous: DatasetInfo | None,
    source_events: Sequence[str] = (),
    target_events: Sequence[str] = (),
) -> list[Check]:
    """Every check that applies, suite by suite.

    Args:
        config: the thresholds.
        window: when behaviour may have happened.
        info: the data set's own description, compared with what its shards hold.
        previous: the version before this one; None leaves out the comparison with it.
        source_events: events the mining reads as "viewed"; empty leaves out the check that they occur.
        target_events: events the mining reads as "clicked"; empty leaves out the check that they occur.
    """
    return [
        *_notes(config, window),
        *_images(config),
        *_interactions(config, window, source_events, target_events),
        *_references(config),
        *_volume(config, info, previous),
    ]


def _rows(
    suite: str,
    name: str,
    column: str,
    severity: Severity,
    meaning: str,
    relation: str,
    bad: str,
    show: tuple[str, ...],
) -> Check:
    """No row may be bad."""
    count = f"count(*) FILTER ({bad})"
    return Check(suite, name, column, severity, meaning, relation, count, None, 0, count, bad, show)


def _share(
    suite: str,
    name: str,
    column: str,
    severity: Severity,
    meaning: str,
    relation: str,
    bad: str,
    show: tuple[str, ...],
    *,
    most: float | None = None,
    least_good: float | None = None,
) -> Check:
    """At most the share `most` of the rows may be bad, or at least `least_good` must not be."""
    count = f"count(*) FILTER ({bad})"
    counted = count if least_good is None else f"(count(*) - {count})"
    value = f"coalesce({counted} / nullif(count(*), 0), 0)"
    return Check(suite, name, column, severity, meaning, relation, value, least_good, most, count, bad, show)


def _at_least(suite: str, name: str, column: str, meaning: str, relation: str, value: str, lower: float) -> Check:
    """A whole-table number with a least value; no single row is at fault."""
    return Check(suite, name, column, "critical", meaning, relation, value, lower)


def _notes(config: QualityConfig, window: Window) -> list[Check]:
    title, content = config.max_title_chars, config.max_content_chars
    text = ("note_id", "title_start", "content_start")
    return [
        _at_least("notes", "note_count", "*", f"There are at least {config.min_notes:,} notes.", "notes",
                  "count(*)", config.min_notes),
        _rows("notes", "note_id_not_blank", "note_id", "critical", "Every note has an id.", "notes",
              "blank(note_id)", ("note_id", "title_start")),
        Check("notes", "note_id_unique", "note_id", "critical", "No two notes share an id.", "note_ids",
              "coalesce(sum(occurrences) FILTER (occurrences > 1), 0)", None, 0,
              "coalesce(sum(occurrences) FILTER (occurrences > 1), 0)", "occurrences > 1", ("note_id", "occurrences")),
        _rows("notes", "note_id_shape", "note_id", "critical",
              f"Note ids are at most {MAX_ID_CHARS} characters without control characters or blanks around them.",
              "notes", "NOT blank(note_id) AND odd_id(note_id)", ("note_id", "title_start")),
        _rows("notes", "title_length", "title", "critical", f"No title is longer than {title:,} characters.", "notes",
              f"title_chars > {title}", ("note_id", "title_chars", "title_start")),
        _rows("notes", "content_length", "content", "critical", f"No content is longer than {content:,} characters.",
              "notes", f"content_chars > {content}", ("note_id", "content_chars", "content_start")),
        _share("notes", "share_with_text", "title, topics, content", "critical",
               f"At least {_percent(config.min_share_with_text)} of the notes have a title, topics or content.",
               "notes", "NOT has_text", ("note_id", "has_image"), least_good=config.min_share_with_text),
        _rows("notes", "something_to_embed", "*", "warning", "Every note has text or an image.", "notes",
              "NOT has_text AND NOT has_image", ("note_id",)),
        _rows("notes", "topics_not_blank", "topics", "warning", "No topic is blank.", "notes", "blank_topics > 0",
              ("note_id", "blank_topics")),
        _rows("notes", "characters_intact", "title, topics, content", "warning",
              "No text holds U+FFFD, the mark of characters lost in decoding.", "notes", "lost_characters", text),
        _share("notes", "share_duplicate_texts", "title, topics, content", "warning",
               f"At most {_percent(config.max_share_duplicate_texts)} of the notes with {COPY_CHARS} or more "
               "characters repeat another's text.",
               "texts", "nth > 1", text, most=config.max_share_duplicate_texts),
        _rows("notes", "created_at_not_in_future", "created_at", "warning",
              f"No note was created after the window ({window}).", "notes", f"created_us >= {window.end}",
              ("note_id", "created_at")),
    ]  # fmt: skip


def _images(config: QualityConfig) -> list[Check]:
    return [
        _share("images", "share_with_image", "image", "critical",
               f"At least {_percent(config.min_share_with_image)} of the notes have an image.", "images",
               "NOT has_image", ("note_id",), least_good=config.min_share_with_image),
        _rows("images", "image_not_empty", "image", "critical", "Every image has more than 0 bytes.", "images",
              "has_image AND image_bytes = 0", ("note_id", "image_bytes")),
        _rows("images", "image_header_known", "image", "critical",
              "Every image begins like a JPEG, PNG, WebP, GIF or BMP file.", "images",
              "has_image AND image_bytes > 0 AND image_kind IS NULL", ("note_id", "image_bytes")),
        _rows("images", "image_decodes", "image", "critical",
              f"Every one of up to {config.decode_sample:,} images, evenly spread over the data, decodes.", "images",
              "image_ok = false", ("note_id", "image_bytes", "image_kind", "problem")),
        _share("images", "share_duplicate_images", "image", "warning",
               f"At most {_percent(config.max_share_duplicate_images)} of the images repeat another byte by byte.",
               "pictures", "nth > 1", ("note_id", "image_bytes", "same_as"), most=config.max_share_duplicate_images),
    ]  # fmt: skip


def _interactions(
    config: QualityConfig, window: Window, source_events: Sequence[str], target_events: Sequence[str]
) -> list[Check]:
    row = ("user_id", "note_id", "event", "timestamp")
    checks = [
        _at_least("interactions", "interaction_count", "*",
                  f"There are at least {config.min_interactions:,} interactions.", "interactions", "count(*)",
                  config.min_interactions),
        _rows("interactions", "user_id_not_blank", "user_id", "critical", "Every interaction has a user.",
              "interactions", "blank(user_id)", row),
        _rows("interactions", "user_id_shape", "user_id", "critical",
              f"User ids are at most {MAX_ID_CHARS} characters without control characters or blanks around them.",
              "interactions", "NOT blank(user_id) AND odd_id(user_id)", row),
        _rows("interactions", "interaction_note_id_not_blank", "note_id", "critical",
              "Every interaction names a note.", "interactions", "blank(note_id)", row),
        _rows("interactions", "event_shape", "event", "critical",
              "Every event's name is a letter, then at most 63 letters, digits or one of _ . : -", "interactions",
              f"NOT regexp_full_match(coalesce(event, ''), '{EVENT_SHAPE}')", row),
        _rows("interactions", "event_one_spelling", "event", "warning",
              "No event is spelt in two ways that differ in capitals only.", "events", "spellings > 1",
              ("event", "events", "spellings")),
        _rows("interactions", "timestamp_in_window", "timestamp", "critical",
              f"Every interaction happened in the window from {window}.", "interactions",
              f"at_us IS NULL OR at_us < {window.start} OR at_us >= {window.end}", row),
        Check("interactions", "timestamps_spread", "timestamp", "warning",
              f"At most {_percent(MAX_BUSIEST_MOMENT)} of the interactions carry one and the same timestamp.",
              "moments", "coalesce(max(events) / nullif(sum(events), 0), 0)", None, MAX_BUSIEST_MOMENT,
              "coalesce(max(events), 0)", "true", ("timestamp", "events")),
        _at_least("interactions", "user_count", "user_id", f"At least {config.min_users:,} users did something.",
                  "users", "count(*)", config.min_users),
        Check("interactions", "share_top_user", "user_id", "warning",
              f"The busiest user has at most {_percent(config.max_share_top_user)} of the interactions.", "users",
              "coalesce(max(events) / nullif(sum(events), 0), 0)", None, config.max_share_top_user,
              "coalesce(max(events), 0)", "true", ("user_id", "events")),
        Check("interactions", "share_repeats", "*", "warning",
              f"At most {_percent(config.max_share_repeats)} of the interactions repeat a row exactly.", "repeats",
              "coalesce(sum(occurrences - 1) / nullif(sum(occurrences), 0), 0)", None, config.max_share_repeats,
              "coalesce(sum(occurrences - 1), 0)", "occurrences > 1", (*row, "occurrences")),
    ]  # fmt: skip
    for role, events in (("source", source_events), ("target", target_events)):
        if events:
            listed = ", ".join(events)
            quoted = ", ".join("'" + event.replace("'", "''") + "'" for event in events)
            checks.append(
                _at_least("interactions", f"has_{role}_event", "event",
                          f"At least one interaction is a {role} event of the pairs ({listed}).", "interactions",
                          f"count(*) FILTER (event IN ({quoted}))", 1)
            )  # fmt: skip
    return checks


def _references(config: QualityConfig) -> list[Check]:
    row = ("user_id", "note_id", "event", "timestamp")
    return [
        _rows("references", "interaction_note_exists", "note_id", "critical",
              "The note of every interaction is among the notes.", "resolved", "NOT blank(note_id) AND NOT known", row),
        _share("references", "share_before_creation", "timestamp", "warning",
               f"At most {_percent(MAX_BEFORE_CREATION)} of the interactions are earlier than their note.", "resolved",
               "at_us < created_us", (*row, "created_at"), most=MAX_BEFORE_CREATION),
        _share("references", "share_idle_notes", "note_id", "warning",
               f"At most {_percent(config.max_share_idle_notes)} of the notes have no interaction.", "popularity",
               "events = 0", ("note_id",), most=config.max_share_idle_notes),
        _share("references", "share_single_notes", "note_id", "warning",
               f"At most {_percent(config.max_share_single_notes)} of the notes have exactly one interaction.",
               "popularity", "events = 1", ("note_id",), most=config.max_share_single_notes),
    ]  # fmt: skip


def _volume(config: QualityConfig, info: DatasetInfo, previous: DatasetInfo | None) -> list[Check]:
    counted = (
        ("notes", "notes", "count(*)", info.notes, previous.notes if previous else 0),
        (
            "images",
            "images",
            "count(*) FILTER (has_image)",
            info.notes_with_image,
            previous.notes_with_image if previous else 0,
        ),
        ("interactions", "interactions", "count(*)", info.interactions, previous.interactions if previous else 0),
    )
    checks = [
        Check("volume", f"described_{what}", "*", "critical",
              f"The shards hold as many {what} as dataset.json says ({said:,}).", relation, f"abs({count} - {said})",
              None, 0, f"abs({count} - {said})")
        for what, relation, count, said, _ in counted
    ]  # fmt: skip
    # An archive's spare members are no loss of data: nothing asked for them.
    judged = (
        ("share_quarantined", "kind <> 'archive'", "rows and images", info.notes + info.interactions),
        ("share_notes_quarantined", "kind = 'note'", "notes", info.notes),
        ("share_interactions_quarantined", "kind = 'interaction'", "interactions", info.interactions),
        ("share_images_quarantined", "kind = 'image'", "images", info.notes_with_image),
    )
    for name, which, what, kept in judged:
        aside = f"coalesce(sum(rows) FILTER ({which}), 0)"
        checks.append(
            Check("volume", name, "*", "critical",
                  f"The import set aside at most {_percent(config.max_share_quarantined)} of the {what} it met.",
                  "quarantine", f"coalesce({aside} / nullif({aside} + {kept}, 0), 0)", None,
                  config.max_share_quarantined, aside, which, ("kind", "reason", "rows", "first_location"))
        )  # fmt: skip
    least = 1 - config.max_volume_drop
    for what, relation, count, _, before in counted:
        if before:
            checks.append(
                Check("volume", f"{what}_against_previous", "*", "critical",
                      f"At least {_percent(least)} as many {what} as in the previous version ({before:,}).", relation,
                      f"{count} / {before}", least, None, f"greatest({before} - {count}, 0)")
            )  # fmt: skip
    return checks


def _percent(share: float) -> str:
    return f"{100 * share:g} %"


def _is_date(text: str) -> bool:
    try:
        date.fromisoformat(text)
    except ValueError:
        return False
    return True
