"""The facts about images: kinds by header, an even sample that is decoded, no bytes."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest

from notellm2.quality.images import FACTS, image_facts, image_kind
from notellm2.recipe import ImageLimits
from tests.unit.quality.small_data import picture, sound, write


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"\xff\xd8\xff\xe0", "jpeg"),
        (b"\x89PNG\r\n\x1a\n....", "png"),
        (b"RIFF1234WEBPVP8 ", "webp"),
        (b"RIFF1234WAVEfmt ", None),
        (b"GIF89a", "gif"),
        (b"BM....", "bmp"),
        (b"<svg/>", None),
        (b"", None),
    ],
)
def test_kind_by_header(data: bytes, kind: str | None) -> None:
    assert image_kind(data) == kind


def test_facts_hold_no_bytes_and_one_row_a_note_in_file_order(tmp_path: Path) -> None:
    raw = sound()
    raw.notes[1]["image"] = None
    facts = image_facts(write(tmp_path, raw), 0, ImageLimits())
    assert facts.schema.equals(FACTS)
    rows = facts.to_pylist()
    assert [row["note_id"] for row in rows] == [note["note_id"] for note in raw.notes]
    assert rows[1] == dict.fromkeys(FACTS.names) | {"note_id": "n001", "has_image": False}
    assert rows[2]["image_bytes"] == len(picture(2))
    assert rows[2]["image_ok"] is None


@pytest.mark.parametrize("sample", [1, 7, 119, 1000])
def test_the_sample_is_bounded_and_spread(tmp_path: Path, sample: int) -> None:
    raw = sound()
    for index in range(0, 120, 5):
        raw.notes[index]["image"] = None
    facts = image_facts(write(tmp_path, raw), sample, ImageLimits()).to_pylist()
    with_image = [row["image_ok"] for row in facts if row["has_image"]]
    tried = [place for place, ok in enumerate(with_image) if ok]
    assert len(tried) == min(sample, len(with_image))
    gaps = [b - a for a, b in pairwise(tried)]
    assert not gaps or max(gaps) - min(gaps) <= 1


def test_an_image_beyond_the_limits_does_not_decode(tmp_path: Path) -> None:
    facts = image_facts(write(tmp_path, sound()), 256, ImageLimits(max_pixels=63)).to_pylist()
    assert {row["image_ok"] for row in facts} == {False}
    assert "oversized-pixels" in facts[0]["problem"]
