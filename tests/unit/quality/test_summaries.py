"""Every planted defect is found by exactly the check that is about it, with the right number and rows."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from notellm2.errors import InputError
from notellm2.notes.dataset import DatasetInfo
from notellm2.quality.checks import Window
from notellm2.quality.images import image_facts
from notellm2.quality.plan import plan
from notellm2.quality.summaries import SAMPLES, Measured, measure
from notellm2.recipe import ImageLimits, QualityConfig
from tests.unit.quality.small_data import CONFIG, START, Damage, Raw, picture, sound, write

NOW = datetime(2025, 1, 1, tzinfo=UTC)


def failing(
    path: Path, raw: Raw, config: QualityConfig = CONFIG, previous: DatasetInfo | None = None
) -> dict[str, Measured]:
    """The checks whose number is out of bounds, by name."""
    dataset = write(path, raw)
    checks = plan(config, Window.of(config, NOW), dataset.info, previous, ("view",), ("click", "like"))
    measured = measure(dataset, image_facts(dataset, config.decode_sample, ImageLimits()), checks)
    assert [m.check for m in measured] == checks
    return {
        m.check.name: m
        for m in measured
        if (m.check.lower is not None and m.observed < m.check.lower)
        or (m.check.upper is not None and m.observed > m.check.upper)
    }


@dataclass(frozen=True)
class Defect:
    """A damage and what must be said of it: severity, rows at fault, and the first sample row (a part of it)."""

    name: str
    damage: Damage
    severity: str
    failed: int | None
    sample: dict[str, Any]
    observed: float | None = None
    also: frozenset[str] = frozenset()


def _note(index: int, **values: Any) -> Damage:
    return lambda raw: raw.notes[index].update(values)


def _notes(count: int, **values: Any) -> Damage:
    def damage(raw: Raw) -> None:
        for note in raw.notes[:count]:
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


def _busy_user(raw: Raw) -> None:
    for row in raw.interactions[::10]:
        row["user_id"] = "bot"


def _repeated(raw: Raw) -> None:
    raw.interactions.extend([dict(row) for row in raw.interactions[:100]])


def _set_aside(kind: str, reason: str, count: int) -> Damage:
    def damage(raw: Raw) -> None:
        raw.quarantine = [{"kind": kind, "reason": reason, "location": f"file:{i}"} for i in range(count)]

    return damage


BROKEN = picture(3)[:200]
DEFECTS = [
    Defect("note_id_unique", _rename(5, "n003", follow="n003"), "critical", 2, {"note_id": "n003", "occurrences": 2}),
    Defect(
        "note_id_not_blank",
        _rename(5, " \u3000", follow="n003"),
        "critical",
        1,
        {"note_id": " \u3000", "title_start": "Title 5"},
    ),
    Defect("note_id_shape", _rename(5, "n005\n"), "critical", 1, {"note_id": "n005\n"}),
    Defect("title_length", _note(9, title="x" * 501), "critical", 1, {"note_id": "n009", "title_chars": 501}),
    Defect(
        "content_length", _note(9, content="é" * 100_001), "critical", 1, {"note_id": "n009", "content_chars": 100_001}
    ),
    Defect(
        "share_with_text", _notes(61, title="", topics=[], content=" "), "critical", 61, {"note_id": "n000"}, 59 / 120
    ),
    Defect(
        "something_to_embed", _note(4, title="", topics=[], content="", image=None), "warning", 1, {"note_id": "n004"}
    ),
    Defect("topics_not_blank", _note(4, topics=["tea", " ", ""]), "warning", 1, {"note_id": "n004", "blank_topics": 2}),
    Defect("characters_intact", _note(4, content="caf\ufffd"), "warning", 1, {"note_id": "n004"}),
    Defect(
        "share_duplicate_texts",
        _notes(8, title="a", topics=[], content="b" * 39),
        "warning",
        7,
        {"note_id": "n001"},
        7 / 120,
    ),
    Defect(
        "created_at_not_in_future",
        _note(4, created_at=datetime(2025, 1, 1, tzinfo=UTC)),
        "warning",
        1,
        {"note_id": "n004", "created_at": "2025-01-01T00:00:00.000000Z"},
    ),
    Defect("share_with_image", _notes(61, image=None), "critical", 61, {"note_id": "n000"}, 59 / 120),
    Defect("image_not_empty", _note(4, image={"bytes": b"", "path": "a"}), "critical", 1, {"note_id": "n004"}),
    Defect(
        "image_header_known",
        _note(4, image={"bytes": b"<html>", "path": "a"}),
        "critical",
        1,
        {"note_id": "n004", "image_bytes": 6},
        also=frozenset({"image_decodes"}),
    ),
    Defect(
        "image_decodes",
        _note(4, image={"bytes": BROKEN, "path": "a"}),
        "critical",
        1,
        {"note_id": "n004", "image_bytes": 200, "image_kind": "jpeg"},
    ),
    Defect(
        "share_duplicate_images",
        _notes(8, image={"bytes": picture(3), "path": "a"}),
        "warning",
        7,
        {"note_id": "n001", "same_as": "n000"},
        7 / 120,
    ),
    Defect("user_id_not_blank", _rows([3, 4], user_id=""), "critical", 2, {"user_id": "", "note_id": "n003"}),
    Defect("user_id_shape", _rows([3], user_id=" u03"), "critical", 1, {"user_id": " u03"}),
    Defect("interaction_note_id_not_blank", _rows([3], note_id=""), "critical", 1, {"user_id": "u03"}),
    Defect("event_shape", _rows([3], event="like it!"), "critical", 1, {"event": "like it!", "user_id": "u03"}),
    Defect("event_one_spelling", _rows([3], event="Like"), "warning", 1, {"event": "like", "spellings": 2}),
    Defect(
        "timestamp_in_window",
        _rows([3, 5], timestamp=datetime(1970, 1, 1, tzinfo=UTC)),
        "critical",
        2,
        {"user_id": "u03", "timestamp": "1970-01-01T00:00:00.000000Z"},
    ),
    Defect(
        "timestamps_spread",
        _one_moment,
        "warning",
        700,
        {"timestamp": "2024-01-01T01:00:00.000000Z", "events": 700},
        700 / 1200,
        also=frozenset({"share_repeats"}),
    ),
    Defect("share_top_user", _busy_user, "warning", 120, {"user_id": "bot", "events": 120}, 0.1),
    Defect("share_repeats", _repeated, "warning", 100, {"user_id": "u00", "occurrences": 2}, 100 / 1300),
    Defect("interaction_note_exists", _rows([3, 9, 11], note_id="gone"), "critical", 3, {"note_id": "gone"}),
    Defect(
        "share_before_creation",
        _early,
        "warning",
        20,
        {"note_id": "n007", "created_at": "2024-01-31T00:00:00.000000Z"},
        20 / 1200,
    ),
    Defect("share_idle_notes", _idle, "warning", 70, {"note_id": "n050"}, 70 / 120),
    Defect("share_single_notes", _single, "warning", 70, {"note_id": "n050"}, 70 / 120),
    Defect("described_notes", lambda raw: raw.info.update(notes=125), "critical", 5, {}),
    Defect("described_images", lambda raw: raw.info.update(notes_with_image=121), "critical", 1, {}),
    Defect("described_interactions", lambda raw: raw.info.update(interactions=1190), "critical", 10, {}),
    Defect(
        "share_quarantined",
        lambda raw: raw.info.update(quarantined={"broken": 80, "duplicate-id": 5}),
        "critical",
        85,
        {"reason": "broken", "rows": 80, "kind": "unknown"},
        85 / 1405,
    ),
    Defect(
        "share_images_quarantined",
        _set_aside("image", "truncated", 8),
        "critical",
        8,
        {"reason": "truncated", "rows": 8, "first_location": "file:0"},
        8 / 128,
    ),
    Defect("share_notes_quarantined", _set_aside("note", "missing-id", 8), "critical", 8, {"kind": "note"}, 8 / 128),
    Defect(
        "share_interactions_quarantined",
        _set_aside("interaction", "bad-timestamp", 65),
        "critical",
        65,
        {"kind": "interaction"},
        65 / 1265,
    ),
]


def test_sound_data_passes_every_check(tmp_path: Path) -> None:
    assert failing(tmp_path, sound()) == {}


@pytest.mark.parametrize("defect", DEFECTS, ids=lambda defect: defect.name)
def test_a_defect_fails_its_own_check_and_no_other(tmp_path: Path, defect: Defect) -> None:
    raw = sound()
    defect.damage(raw)
    found = failing(tmp_path, raw)
    assert set(found) == {defect.name} | defect.also
    measured = found[defect.name]
    assert measured.check.severity == defect.severity
    assert measured.failed == defect.failed
    if defect.observed is not None:
        assert measured.observed == pytest.approx(defect.observed)
    if defect.sample:
        assert measured.samples[0] | defect.sample == measured.samples[0]
        assert len(measured.samples) <= SAMPLES
    else:
        assert measured.samples == []


def test_counts_below_the_least_fail_without_blaming_rows(tmp_path: Path) -> None:
    config = CONFIG.model_copy(update={"min_notes": 121, "min_interactions": 1201, "min_users": 31})
    found = failing(tmp_path, sound(), config)
    assert {name: (m.observed, m.failed) for name, m in found.items()} == {
        "note_count": (120, None),
        "interaction_count": (1200, None),
        "user_count": (30, None),
    }


def test_a_data_set_without_target_events_fails(tmp_path: Path) -> None:
    raw = sound()
    for row in raw.interactions:
        row["event"] = "view"
    found = failing(tmp_path, raw)
    assert set(found) == {"has_target_event"}
    assert "click, like" in found["has_target_event"].check.meaning


def test_short_texts_that_meet_by_chance_are_no_copies(tmp_path: Path) -> None:
    raw = sound()
    _notes(50, title="hello", topics=[], content="b" * 34)(raw)
    assert failing(tmp_path, raw) == {}


def test_a_loss_against_the_previous_version_fails(tmp_path: Path) -> None:
    previous = write(tmp_path / "before", sound()).info.model_copy(update={"notes": 300, "interactions": 1300})
    found = failing(tmp_path / "now", sound(), previous=previous)
    assert set(found) == {"notes_against_previous"}
    assert found["notes_against_previous"].observed == pytest.approx(0.4)
    assert found["notes_against_previous"].failed == 180


def test_spare_members_of_an_archive_are_no_loss(tmp_path: Path) -> None:
    raw = sound()
    raw.info["quarantined"] = {"not-named": 5000}
    _set_aside("archive", "not-named", 5000)(raw)
    assert failing(tmp_path, raw) == {}


def test_a_foreign_line_in_the_quarantine_is_named(tmp_path: Path) -> None:
    raw = sound()
    raw.quarantine = [{"kind": "note", "reason": "a", "location": "b"}, {"reason": "a"}]
    with pytest.raises(InputError, match=r"quarantine\.jsonl, line 2"):
        failing(tmp_path, raw)


def test_an_empty_data_set_fails_by_its_counts_and_does_not_divide_by_zero(tmp_path: Path) -> None:
    found = failing(tmp_path, Raw([], []))
    assert {"note_count", "interaction_count", "user_count", "share_with_text", "share_with_image"} <= set(found)
    assert found["share_with_text"].observed == 0


def test_long_values_are_cut_in_samples(tmp_path: Path) -> None:
    raw = sound()
    raw.interactions[3]["event"] = "!" * 500
    sample = failing(tmp_path, raw)["event_shape"].samples[0]
    assert len(sample["event"]) == 80


def test_quotes_in_paths_and_events_are_data_not_sql(tmp_path: Path) -> None:
    dataset = write(tmp_path / "it's here", sound())
    checks = plan(CONFIG, Window.of(CONFIG, NOW), dataset.info, None, ("o'clock') OR true --",), ())
    measured = {m.check.name: m for m in measure(dataset, image_facts(dataset, 0, ImageLimits()), checks)}
    assert measured["has_source_event"].observed == 0
    assert measured["note_count"].observed == 120
