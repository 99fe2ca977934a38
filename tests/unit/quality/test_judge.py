"""Planted faults of every kind are found by exactly the expectations that are about them, by column, count and example.

Great Expectations takes a second or two for a data set, so faults that do not touch each other share one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from html import escape
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from notellm2.errors import InputError
from notellm2.notes.dataset import DatasetInfo
from notellm2.quality.images import image_facts
from notellm2.quality.judge import Judge
from notellm2.quality.measures import MEASURES, measures
from notellm2.quality.outcome import Outcome
from notellm2.quality.quality_stage import QualityRules, judge_dataset
from notellm2.quality.suites import load_suites, parameters
from notellm2.quality.summaries import SAMPLES, summarise
from notellm2.quality.window import Window
from notellm2.recipe import ImageLimits, QualityConfig
from tests.unit.quality.small_data import CONFIG, START, Damage, Raw, picture, sound, write

NOW = datetime(2025, 1, 1, tzinfo=UTC)


def judged(
    path: Path, raw: Raw, config: QualityConfig = CONFIG, previous: DatasetInfo | None = None
) -> dict[str, Outcome]:
    """Every expectation's outcome, by name."""
    dataset = write(path, raw)
    rules = QualityRules(config, ImageLimits(), ("view",), ("click", "like"))
    suites = load_suites(config.suites)
    outcomes, _ = judge_dataset(dataset, rules, suites, Window.of(config, NOW), previous, path / "docs")
    return {outcome.expectation.name: outcome for outcome in outcomes}


def failing(
    path: Path, raw: Raw, config: QualityConfig = CONFIG, previous: DatasetInfo | None = None
) -> dict[str, Outcome]:
    """The outcomes of expectations that do not hold, by name."""
    return {name: one for name, one in judged(path, raw, config, previous).items() if not one.success}


@dataclass(frozen=True)
class Found:
    """What must be said of a planted fault: severity, column, rows at fault, and part of the first sample row."""

    severity: str
    column: str
    failed: int | None
    sample: Mapping[str, Any]
    observed: float | None = None


@dataclass(frozen=True)
class Case:
    """Damages that do not touch each other, and all that must be found of them."""

    name: str
    damages: tuple[Damage, ...]
    found: Mapping[str, Found]
    previous: bool = False


def _note(index: int, **values: Any) -> Damage:
    return lambda raw: raw.notes[index].update(values)


def _notes(which: slice, **values: Any) -> Damage:
    def damage(raw: Raw) -> None:
        for note in raw.notes[which]:
            note.update(values)

    return damage


def _rows(indices: list[int], **values: Any) -> Damage:
    def damage(raw: Raw) -> None:
        for index in indices:
            raw.interactions[index].update(values)

    return damage


def _rename(index: int, new: str, *, follow: str | None = None) -> Damage:
    """Give a note another id; its interactions go to `follow`, or with it."""

    def damage(raw: Raw) -> None:
        raw.move(raw.notes[index]["note_id"], new if follow is None else follow)
        raw.notes[index]["note_id"] = new

    return damage


def _idle(raw: Raw) -> None:
    for row in raw.interactions:
        row["note_id"] = f"n{int(row['note_id'][1:]) % 50:03}"


def _single(raw: Raw) -> None:
    for row in raw.interactions[120:]:
        row["note_id"] = f"n{int(row['note_id'][1:]) % 50:03}"


def _early(raw: Raw) -> None:
    raw.notes[7]["created_at"] = START + timedelta(days=30)
    raw.move("n008", "n007")


def _one_moment(raw: Raw) -> None:
    for row in raw.interactions[:700]:
        row["timestamp"] = START + timedelta(hours=1)


def _bot(raw: Raw) -> None:
    for row in raw.interactions[::10]:
        row["user_id"] = "bot"


def _quarantine(raw: Raw) -> None:
    counts = {"image": ("truncated", 8), "note": ("missing-id", 8), "interaction": ("bad-timestamp", 65)}
    raw.quarantine = [
        {"kind": kind, "reason": reason, "location": f"file:{i}"}
        for kind, (reason, count) in counts.items()
        for i in range(count)
    ]


BROKEN = picture(3)[:200]
LONG = "x" * 201
UNSEEN = {"": "''", " ": "' '", " \u3000": r"' \u3000'", "n007\n": r"'n007\n'", " u05": "' u05'"}
"""Values with what a reader would not see, and how pages show them."""
CASES = [
    Case(
        "notes",
        (
            _rename(5, "n003", follow="n003"),
            _rename(6, " \u3000", follow="n003"),
            _rename(7, "n007\n"),
            _rename(8, LONG),
            _note(9, title="y" * 501),
            _note(10, content="é" * 100_001),
            _note(11, title="caf\ufffd"),
            _note(12, content="caf\ufffd <b>bold</b>"),
            _note(13, topics=["tea", " ", ""]),
            _note(14, topics=[None]),
            _note(15, topics=["z" * 201]),
            _note(16, topics=["\ufffd"]),
            _note(17, title="", topics=[], content="", image=None),
            _note(18, created_at=datetime(2025, 1, 1, tzinfo=UTC)),
        ),
        {
            "note_id_unique": Found(
                "critical", "note_id_occurrences", 2, {"note_id": "n003", "note_id_occurrences": 2}
            ),
            "note_id_not_blank": Found("critical", "note_id", 1, {"note_id": " \u3000"}),
            "note_id_shape": Found("critical", "note_id", 2, {"note_id": " \u3000"}),
            "note_id_length": Found("critical", "note_id", 1, {"note_id": "x" * 80 + "… (201 characters)"}),
            "title_length": Found(
                "critical", "title", 1, {"note_id": "n009", "title": "y" * 80 + "… (501 characters)"}
            ),
            "content_length": Found(
                "critical", "content", 1, {"note_id": "n010", "content": "é" * 80 + "… (100,001 characters)"}
            ),
            "title_characters_intact": Found("warning", "title", 1, {"note_id": "n011", "title": "caf\ufffd"}),
            "content_characters_intact": Found("warning", "content", 1, {"content": "caf\ufffd <b>bold</b>"}),
            "topic_not_blank": Found("warning", "topic", 2, {"note_id": "n013", "topic": " "}),
            "topic_not_null": Found("critical", "topic", 1, {"note_id": "n014", "topic": None}),
            "topic_length": Found("warning", "topic", 1, {"note_id": "n015"}),
            "topic_characters_intact": Found("warning", "topic", 1, {"note_id": "n016", "topic": "\ufffd"}),
            "something_to_embed": Found("warning", "has_text_or_image", 1, {"note_id": "n017"}),
            "created_at_not_in_future": Found(
                "warning", "created_at", 1, {"note_id": "n018", "created_at": "2025-01-01T00:00:00+00:00"}
            ),
        },
    ),
    Case(
        "images",
        (
            _note(4, image={"bytes": b"", "path": "a"}),
            _note(5, image={"bytes": b"<html>", "path": "a"}),
            _note(6, image={"bytes": BROKEN, "path": "a"}),
        ),
        {
            "image_not_empty": Found("critical", "image_bytes", 1, {"note_id": "n004", "image_bytes": 0}),
            "image_header_known": Found("critical", "image_kind", 1, {"note_id": "n005", "image_kind": "unknown"}),
            "image_decodes": Found("critical", "image_decodes", 2, {"note_id": "n005", "image_decodes": False}),
        },
    ),
    Case(
        "shares of notes",
        (
            _notes(slice(61), title="", topics=[], content=" "),
            _notes(slice(59, 120), image=None),
            _notes(slice(70, 78), title="a", topics=[], content="b" * 39),
            _notes(slice(8), image={"bytes": picture(3), "path": "a"}),
            _early,
            _idle,
        ),
        {
            "share_with_text": Found("critical", "has_text", 61, {"note_id": "n000", "has_text": False}, 59 / 120),
            "share_with_image": Found("critical", "has_image", 61, {"note_id": "n059", "has_image": False}, 59 / 120),
            "something_to_embed": Found("warning", "has_text_or_image", 2, {"note_id": "n059"}),
            "share_duplicate_texts": Found(
                "warning", "title, topics, content", 7, {"note_id": "n071", "title_start": "a"}, 7 / 59
            ),
            "share_duplicate_images": Found("warning", "image", 7, {"note_id": "n001", "same_as": "n000"}, 7 / 59),
            "share_before_creation": Found(
                "warning",
                "timestamp, note_created_at",
                40,
                {"note_id": "n007", "note_created_at": "2024-01-31T00:00:00+00:00"},
                1160 / 1200,
            ),
            "share_idle_notes": Found("warning", "note_id", 70, {"note_id": "n050"}, 70 / 120),
        },
    ),
    Case(
        "interactions",
        (
            _rows([3, 4], user_id=""),
            _rows([5], user_id=" u05"),
            _rows([6], user_id=LONG),
            _rows([7], note_id=""),
            _rows([9, 11], note_id="gone<b>"),
            _rows([12], event="like it!"),
            _rows([13], event="Like"),
            _rows([14, 15], timestamp=datetime(1970, 1, 1, tzinfo=UTC)),
        ),
        {
            "user_id_not_blank": Found("critical", "user_id", 2, {"user_id": "", "note_id": "n003"}),
            "user_id_shape": Found("critical", "user_id", 1, {"user_id": " u05", "note_id": "n005"}),
            "user_id_length": Found("critical", "user_id", 1, {"note_id": "n006"}),
            "interaction_note_id_not_blank": Found("critical", "note_id", 1, {"note_id": "", "user_id": "u07"}),
            "interaction_note_exists": Found("critical", "note_exists", 3, {"note_exists": False, "user_id": "u07"}),
            "event_shape": Found("critical", "event", 1, {"event": "like it!", "user_id": "u12"}),
            "event_one_spelling": Found("warning", "event", 1, {"event": "like", "spellings": 2}),
            "timestamp_in_window": Found(
                "critical", "timestamp", 2, {"user_id": "u14", "timestamp": "1970-01-01T00:00:00+00:00"}
            ),
        },
    ),
    Case(
        "one moment",
        (_one_moment,),
        {
            "timestamps_spread": Found(
                "warning", "timestamp", 700, {"timestamp": "2024-01-01T01:00:00.000000Z", "events": 700}, 700 / 1200
            ),
            "share_repeats": Found("warning", "*", 340, {"occurrences": 3}, 340 / 1200),
        },
    ),
    Case(
        "volume",
        (
            _bot,
            _single,
            lambda raw: raw.info.update(notes=125, notes_with_image=121, interactions=1190),
            _quarantine,
        ),
        {
            "share_top_user": Found("warning", "user_id", 120, {"user_id": "bot", "events": 120}, 0.1),
            "share_single_notes": Found("warning", "note_id", 70, {"note_id": "n050"}, 70 / 120),
            "described_notes": Found("critical", "*", 5, {}),
            "described_images": Found("critical", "*", 1, {}),
            "described_interactions": Found("critical", "*", 10, {}),
            "share_quarantined": Found("critical", "*", 81, {"kind": "interaction", "rows": 65}, 81 / 1396),
            "share_images_quarantined": Found(
                "critical", "*", 8, {"reason": "truncated", "rows": 8, "first_location": "file:0"}, 8 / 129
            ),
            "share_notes_quarantined": Found("critical", "*", 8, {"kind": "note"}, 8 / 133),
            "share_interactions_quarantined": Found("critical", "*", 65, {"kind": "interaction"}, 65 / 1255),
            "notes_against_previous": Found("critical", "*", 180, {}, 0.4),
        },
        previous=True,
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_faults_are_found_by_column_count_and_example_and_nothing_else_is(tmp_path: Path, case: Case) -> None:
    raw = sound()
    for damage in case.damages:
        damage(raw)
    previous = None
    if case.previous:
        previous = write(tmp_path / "before", sound()).info.model_copy(update={"notes": 300, "interactions": 1300})
    found = failing(tmp_path / "now", raw, previous=previous)
    assert set(found) == set(case.found)
    for name, expected in case.found.items():
        outcome = found[name]
        assert (outcome.expectation.severity, outcome.column, outcome.failed) == (
            expected.severity,
            expected.column,
            expected.failed,
        ), name
        assert len(outcome.samples) <= SAMPLES
        assert (outcome.samples[0] if outcome.samples else {}).items() >= expected.sample.items(), name
        if expected.observed is not None:
            assert outcome.observed == pytest.approx(expected.observed), name
        _assert_in_docs(tmp_path / "now" / "docs", outcome)


def _assert_in_docs(docs: Path, outcome: Outcome) -> None:
    """Great Expectations' own page shows the fault under its column, with the count and every example, escaped."""
    (page,) = (docs / "validations" / outcome.suite).rglob("*.html")
    text = page.read_text()
    begin = text.index(escape(outcome.meaning))
    section = text[begin : text.find("(critical)", begin + len(outcome.meaning) + 20)]
    columns = outcome.expectation.columns
    if len(columns) == 1:
        headings = re.findall(r'id="section-\d+"|<h5[^>]*>\s*(\S+)\s*</h5>', text[:begin])
        assert [name for name in headings if name][-1] == columns[0]
    assert re.search(rf"\b{outcome.failed:,}\b (unexpected values found|row\(s\))", section), outcome.expectation.name
    for sample in outcome.samples:
        for value in sample.values():
            assert escape(UNSEEN.get(value, "null" if value is None else str(value))) in section, value


def test_sound_data_hold_in_every_respect(tmp_path: Path) -> None:
    outcomes = judged(tmp_path, sound())
    assert [name for name, outcome in outcomes.items() if not outcome.success] == []
    assert not any(outcome.samples for outcome in outcomes.values())


def test_nulls_and_types_are_judged_where_a_part_holds_them(tmp_path: Path) -> None:
    dataset = write(tmp_path, sound())
    suites = [suite for suite in load_suites(None) if suite.name == "interactions"]
    with summarise(dataset, image_facts(dataset, 0, ImageLimits()), measures(dataset.info, None)) as summaries:
        judge = Judge(suites, parameters(CONFIG, Window.of(CONFIG, NOW)), summaries)
        row = {"user_id": None, "note_id": "n000", "event": "like", "timestamp": "yesterday"}
        judge.see("interactions", pd.DataFrame([row | {"timestamp": pd.Timestamp(START)}] * 3))
        judge.see("interactions", pd.DataFrame([row | {"user_id": "u", "timestamp": pd.Timestamp(START)}]))
        outcomes = {one.expectation.name: one for one in judge.conclude(tmp_path / "docs")}
    assert {name for name, one in outcomes.items() if not one.success} == {"user_id_not_null"}
    assert outcomes["user_id_not_null"].failed == 3
    assert outcomes["user_id_not_null"].samples[0]["note_id"] == "n000"


def test_counts_below_the_least_fail_without_blaming_rows(tmp_path: Path) -> None:
    config = CONFIG.model_copy(update={"min_notes": 121, "min_interactions": 1201, "min_users": 31})
    found = failing(tmp_path, sound(), config)
    assert {name: (one.observed, one.lower, one.failed) for name, one in found.items()} == {
        "note_count": (120, 121, None),
        "interaction_count": (1200, 1201, None),
        "user_count": (30, 31, None),
    }


def test_a_data_set_without_target_events_fails(tmp_path: Path) -> None:
    raw = sound()
    for row in raw.interactions:
        row["event"] = "view"
    assert set(failing(tmp_path, raw)) == {"has_target_event"}


def test_what_is_no_loss_or_no_copy_holds(tmp_path: Path) -> None:
    raw = sound()
    raw.info["quarantined"] = {"not-named": 5000}  # spare members of an archive
    raw.quarantine = [{"kind": "archive", "reason": "not-named", "location": "a", "lines": 5000}]
    _notes(slice(50), title="hello", topics=[], content="b" * 34)(raw)  # too short to be a copy
    assert failing(tmp_path, raw) == {}


def test_without_a_list_of_the_quarantine_its_totals_count(tmp_path: Path) -> None:
    raw = sound()
    raw.info["quarantined"] = {"broken": 80, "duplicate-id": 5}
    found = failing(tmp_path, raw)
    assert set(found) == {"share_quarantined"}
    assert found["share_quarantined"].failed == 85
    assert found["share_quarantined"].samples[0].items() >= {"reason": "broken", "rows": 80, "kind": "unknown"}.items()


def test_a_foreign_line_in_the_quarantine_is_named(tmp_path: Path) -> None:
    raw = sound()
    raw.quarantine = [{"kind": "note", "reason": "a", "location": "b"}, {"reason": "a"}]
    with pytest.raises(InputError, match=r"quarantine\.jsonl, line 2"):
        failing(tmp_path, raw)


def test_an_empty_data_set_fails_by_its_counts(tmp_path: Path) -> None:
    found = failing(tmp_path, Raw([], []))
    assert {"note_count", "interaction_count", "user_count"} <= set(found)


def test_what_does_not_apply_is_left_out(tmp_path: Path) -> None:
    dataset = write(tmp_path, sound())
    alone = {one.name: one.value for one in measures(dataset.info, None)}
    assert set(alone) == set(MEASURES)
    assert {name for name, value in alone.items() if value == "NULL"} == {
        "source_events",
        "target_events",
        "notes_against_previous",
        "images_against_previous",
        "interactions_against_previous",
    }
    names = judged(tmp_path / "judged", sound())
    assert "notes_against_previous" not in names
    assert "has_source_event" in names


def test_quotes_in_paths_and_events_are_data_not_sql(tmp_path: Path) -> None:
    dataset = write(tmp_path / "it's here", sound())
    counted = measures(dataset.info, None, ("o'clock') OR true --",), ())
    with summarise(dataset, image_facts(dataset, 0, ImageLimits()), counted) as summaries:
        assert summaries.measured["source_events"].value == 0
        assert summaries.measured["note_count"].value == 120
