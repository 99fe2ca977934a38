"""Every check of a data version, suite by suite: what is expected of notes, images, interactions and volumes."""

from __future__ import annotations

from collections.abc import Sequence

from notellm2.notes.dataset import DatasetInfo
from notellm2.quality.checks import COPY_CHARS, MAX_ID_CHARS, Check, Expected, Fault, Window
from notellm2.quality.volume import percent, volume_checks
from notellm2.recipe import QualityConfig

EVENT_SHAPE = r"[A-Za-z][A-Za-z0-9_.:-]{0,63}"
"""What an event's name looks like: a letter, then at most 63 letters, digits or ``_ . : -``."""

MAX_BUSIEST_MOMENT = 0.5
"""Largest share of the interactions at one microsecond; above it the export has probably lost its timestamps."""

MAX_BEFORE_CREATION = 0.01
"""Largest share of interactions earlier than their note; clocks of clients and servers differ a little."""


def plan(
    config: QualityConfig,
    window: Window,
    info: DatasetInfo,
    previous: DatasetInfo | None,
    source_events: Sequence[str] = (),
    target_events: Sequence[str] = (),
) -> list[Check]:
    """List every check that applies, suite by suite.

    Args:
        config: the thresholds.
        window: when behaviour may have happened.
        info: the data set's own description, compared with what its shards hold.
        previous: the version before this one; None leaves out the comparison with it.
        source_events: events the mining reads as "viewed"; empty leaves out the check that they occur.
        target_events: events the mining reads as "clicked"; empty leaves out the check that they occur.
    """
    return [
        *_note_rows(config),
        *_note_texts(config, window),
        *_images(config),
        *_interaction_rows(config, window),
        *_interaction_shares(config),
        *_pair_events(source_events, target_events),
        *_references(config),
        *volume_checks(config, info, previous),
    ]


def _note_rows(config: QualityConfig) -> list[Check]:
    title, content = config.max_title_chars, config.max_content_chars
    return [
        Check.at_least(
            Expected("notes.note_count", "*", f"There are at least {config.min_notes:,} notes."),
            "notes",
            "count(*)",
            config.min_notes,
        ),
        Check.no_row(
            Expected("notes.note_id_not_blank", "note_id", "Every note has an id."),
            Fault("notes", "blank(note_id)", ("note_id", "title_start")),
        ),
        Check(
            Expected("notes.note_id_unique", "note_id", "No two notes share an id."),
            relation="note_ids",
            value="coalesce(sum(occurrences) FILTER (occurrences > 1), 0)",
            upper=0,
            failed="coalesce(sum(occurrences) FILTER (occurrences > 1), 0)",
            bad="occurrences > 1",
            show=("note_id", "occurrences"),
        ),
        Check.no_row(
            Expected(
                "notes.note_id_shape",
                "note_id",
                f"Note ids are at most {MAX_ID_CHARS} characters without control characters or blanks around them.",
            ),
            Fault("notes", "NOT blank(note_id) AND odd_id(note_id)", ("note_id", "title_start")),
        ),
        Check.no_row(
            Expected("notes.title_length", "title", f"No title is longer than {title:,} characters."),
            Fault("notes", f"title_chars > {title}", ("note_id", "title_chars", "title_start")),
        ),
        Check.no_row(
            Expected("notes.content_length", "content", f"No content is longer than {content:,} characters."),
            Fault("notes", f"content_chars > {content}", ("note_id", "content_chars", "content_start")),
        ),
    ]


def _note_texts(config: QualityConfig, window: Window) -> list[Check]:
    text = ("note_id", "title_start", "content_start")
    return [
        Check.share(
            Expected(
                "notes.share_with_text",
                "title, topics, content",
                f"At least {percent(config.min_share_with_text)} of the notes have a title, topics or content.",
            ),
            Fault("notes", "NOT has_text", ("note_id", "has_image")),
            least_good=config.min_share_with_text,
        ),
        Check.no_row(
            Expected("notes.something_to_embed", "*", "Every note has text or an image.", severity="warning"),
            Fault("notes", "NOT has_text AND NOT has_image", ("note_id",)),
        ),
        Check.no_row(
            Expected("notes.topics_not_blank", "topics", "No topic is blank.", severity="warning"),
            Fault("notes", "blank_topics > 0", ("note_id", "blank_topics")),
        ),
        Check.no_row(
            Expected(
                "notes.characters_intact",
                "title, topics, content",
                "No text holds U+FFFD, the mark of characters lost in decoding.",
                severity="warning",
            ),
            Fault("notes", "lost_characters", text),
        ),
        Check.share(
            Expected(
                "notes.share_duplicate_texts",
                "title, topics, content",
                f"At most {percent(config.max_share_duplicate_texts)} of the notes with {COPY_CHARS} or more "
                "characters repeat another's text.",
                severity="warning",
            ),
            Fault("texts", "nth > 1", text),
            most=config.max_share_duplicate_texts,
        ),
        Check.no_row(
            Expected(
                "notes.created_at_not_in_future",
                "created_at",
                f"No note was created after the window ({window}).",
                severity="warning",
            ),
            Fault("notes", f"created_us >= {window.end}", ("note_id", "created_at")),
        ),
    ]


def _images(config: QualityConfig) -> list[Check]:
    return [
        Check.share(
            Expected(
                "images.share_with_image",
                "image",
                f"At least {percent(config.min_share_with_image)} of the notes have an image.",
            ),
            Fault("images", "NOT has_image", ("note_id",)),
            least_good=config.min_share_with_image,
        ),
        Check.no_row(
            Expected("images.image_not_empty", "image", "Every image has more than 0 bytes."),
            Fault("images", "has_image AND image_bytes = 0", ("note_id", "image_bytes")),
        ),
        Check.no_row(
            Expected(
                "images.image_header_known", "image", "Every image begins like a JPEG, PNG, WebP, GIF or BMP file."
            ),
            Fault("images", "has_image AND image_bytes > 0 AND image_kind IS NULL", ("note_id", "image_bytes")),
        ),
        Check.no_row(
            Expected(
                "images.image_decodes",
                "image",
                f"Every one of up to {config.decode_sample:,} images, evenly spread over the data, decodes.",
            ),
            Fault("images", "image_ok = false", ("note_id", "image_bytes", "image_kind", "problem")),
        ),
        Check.share(
            Expected(
                "images.share_duplicate_images",
                "image",
                f"At most {percent(config.max_share_duplicate_images)} of the images repeat another byte by byte.",
                severity="warning",
            ),
            Fault("pictures", "nth > 1", ("note_id", "image_bytes", "same_as")),
            most=config.max_share_duplicate_images,
        ),
    ]


_ROW = ("user_id", "note_id", "event", "timestamp")


def _interaction_rows(config: QualityConfig, window: Window) -> list[Check]:
    return [
        Check.at_least(
            Expected(
                "interactions.interaction_count", "*", f"There are at least {config.min_interactions:,} interactions."
            ),
            "interactions",
            "count(*)",
            config.min_interactions,
        ),
        Check.no_row(
            Expected("interactions.user_id_not_blank", "user_id", "Every interaction has a user."),
            Fault("interactions", "blank(user_id)", _ROW),
        ),
        Check.no_row(
            Expected(
                "interactions.user_id_shape",
                "user_id",
                f"User ids are at most {MAX_ID_CHARS} characters without control characters or blanks around them.",
            ),
            Fault("interactions", "NOT blank(user_id) AND odd_id(user_id)", _ROW),
        ),
        Check.no_row(
            Expected("interactions.interaction_note_id_not_blank", "note_id", "Every interaction names a note."),
            Fault("interactions", "blank(note_id)", _ROW),
        ),
        Check.no_row(
            Expected(
                "interactions.event_shape",
                "event",
                "Every event's name is a letter, then at most 63 letters, digits or one of _ . : -",
            ),
            Fault("interactions", f"NOT regexp_full_match(coalesce(event, ''), '{EVENT_SHAPE}')", _ROW),
        ),
        Check.no_row(
            Expected(
                "interactions.event_one_spelling",
                "event",
                "No event is spelt in two ways that differ in capitals only.",
                severity="warning",
            ),
            Fault("events", "spellings > 1", ("event", "events", "spellings")),
        ),
        Check.no_row(
            Expected(
                "interactions.timestamp_in_window",
                "timestamp",
                f"Every interaction happened in the window from {window}.",
            ),
            Fault("interactions", f"at_us IS NULL OR at_us < {window.start} OR at_us >= {window.end}", _ROW),
        ),
    ]


def _interaction_shares(config: QualityConfig) -> list[Check]:
    return [
        Check(
            Expected(
                "interactions.timestamps_spread",
                "timestamp",
                f"At most {percent(MAX_BUSIEST_MOMENT)} of the interactions carry one and the same timestamp.",
                severity="warning",
            ),
            relation="moments",
            value="coalesce(max(events) / nullif(sum(events), 0), 0)",
            upper=MAX_BUSIEST_MOMENT,
            failed="coalesce(max(events), 0)",
            bad="true",
            show=("timestamp", "events"),
        ),
        Check.at_least(
            Expected("interactions.user_count", "user_id", f"At least {config.min_users:,} users did something."),
            "users",
            "count(*)",
            config.min_users,
        ),
        Check(
            Expected(
                "interactions.share_top_user",
                "user_id",
                f"The busiest user has at most {percent(config.max_share_top_user)} of the interactions.",
                severity="warning",
            ),
            relation="users",
            value="coalesce(max(events) / nullif(sum(events), 0), 0)",
            upper=config.max_share_top_user,
            failed="coalesce(max(events), 0)",
            bad="true",
            show=("user_id", "events"),
        ),
        Check(
            Expected(
                "interactions.share_repeats",
                "*",
                f"At most {percent(config.max_share_repeats)} of the interactions repeat a row exactly.",
                severity="warning",
            ),
            relation="repeats",
            value="coalesce(sum(occurrences - 1) / nullif(sum(occurrences), 0), 0)",
            upper=config.max_share_repeats,
            failed="coalesce(sum(occurrences - 1), 0)",
            bad="occurrences > 1",
            show=(*_ROW, "occurrences"),
        ),
    ]


def _pair_events(source_events: Sequence[str], target_events: Sequence[str]) -> list[Check]:
    checks = []
    for role, events in (("source", source_events), ("target", target_events)):
        if events:
            listed = ", ".join(events)
            quoted = ", ".join("'" + event.replace("'", "''") + "'" for event in events)
            checks.append(
                Check.at_least(
                    Expected(
                        f"interactions.has_{role}_event",
                        "event",
                        f"At least one interaction is a {role} event of the pairs ({listed}).",
                    ),
                    "interactions",
                    f"count(*) FILTER (event IN ({quoted}))",
                    1,
                )
            )
    return checks


def _references(config: QualityConfig) -> list[Check]:
    return [
        Check.no_row(
            Expected(
                "references.interaction_note_exists", "note_id", "The note of every interaction is among the notes."
            ),
            Fault("resolved", "NOT blank(note_id) AND NOT known", _ROW),
        ),
        Check.share(
            Expected(
                "references.share_before_creation",
                "timestamp",
                f"At most {percent(MAX_BEFORE_CREATION)} of the interactions are earlier than their note.",
                severity="warning",
            ),
            Fault("resolved", "at_us < created_us", (*_ROW, "created_at")),
            most=MAX_BEFORE_CREATION,
        ),
        Check.share(
            Expected(
                "references.share_idle_notes",
                "note_id",
                f"At most {percent(config.max_share_idle_notes)} of the notes have no interaction.",
                severity="warning",
            ),
            Fault("popularity", "events = 0", ("note_id",)),
            most=config.max_share_idle_notes,
        ),
        Check.share(
            Expected(
                "references.share_single_notes",
                "note_id",
                f"At most {percent(config.max_share_single_notes)} of the notes have exactly one interaction.",
                severity="warning",
            ),
            Fault("popularity", "events = 1", ("note_id",)),
            most=config.max_share_single_notes,
        ),
    ]
