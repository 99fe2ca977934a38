"""Exports from public bug reports, reduced: each ends as the README of its folder says it should."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from notellm2.errors import InputError
from notellm2.notes.dataset import Dataset
from notellm2.notes.import_export import ImportReport, import_export
from notellm2.quality.quarantine import quarantine_counts
from notellm2.recipe import ImageLimits

pytestmark = pytest.mark.shared


@pytest.fixture
def cases(shared: Path) -> Path:
    folder = shared / "cases"
    if not folder.is_dir():
        pytest.skip(f"needs the collected cases in {folder}")
    return folder


def _import(export: Path, tmp_path: Path) -> ImportReport:
    return import_export(export, tmp_path / "data", limits=ImageLimits(), progress=False)


def _ids(report: ImportReport) -> list[str]:
    ids: list[str] = Dataset.open(report.into).notes(["note_id"]).column(0).to_pylist()
    return ids


def _refusal(export: Path, tmp_path: Path) -> str:
    with pytest.raises(InputError) as caught:
        _import(export, tmp_path)
    return str(caught.value)


def test_01_an_open_quote_in_behaviour_is_counted_by_lines(cases: Path, tmp_path: Path) -> None:
    report = _import(cases / "01-open-quote" / "export", tmp_path)
    assert (report.info.interactions, report.quarantined) == (200, {"broken-csv": 800})
    assert "broken-csv: 800: interactions.csv lines 202 to 1001" in report.render()
    (row,) = quarantine_counts(Dataset.open(report.into)).to_pylist()
    assert (row["kind"], row["rows"]) == ("interaction", 800)


def test_01_an_open_quote_in_notes_is_counted_by_lines(cases: Path, tmp_path: Path) -> None:
    for name in ("export-notes", "export-notes2"):
        export = cases / "01-open-quote" / name
        report = _import(export, tmp_path)
        lines = (export / "notes.csv").read_bytes().count(b"\n")
        lost = sum(report.quarantined.get(reason, 0) for reason in ("broken-csv", "wrong-field-count"))
        assert report.info.notes + lost == lines - 1, name


def test_01_the_middle_of_a_text_is_no_note(cases: Path, tmp_path: Path) -> None:
    report = _import(cases / "01-open-quote" / "export-backslash", tmp_path)
    notes: list[dict[str, Any]] = Dataset.open(report.into).notes().to_pylist()
    assert report.quarantined == {}
    assert [note["title"] for note in notes if note["note_id"] in ("n40", "n41")] == ['the "best" one', "title 41"]


def test_04_a_folder_of_parquet_parts_is_one_table(cases: Path, tmp_path: Path) -> None:
    report = _import(cases / "04-spark-folder" / "export", tmp_path)
    assert report.quarantined == {}
    assert report.info.notes == len(set(_ids(report))) > 0
    assert "notes.parquet: a folder, read as one table of 2 file(s)" in report.render()


@pytest.mark.parametrize(
    ("export", "words"),
    [
        ("08-times/export-bigquery", ["interactions.csv line 2", "timestamp", " UTC' is neither Unix seconds nor"]),
        ("21-parquet-types/int_ms", ["interactions.parquet row 1", "timestamp", "seconds, not milliseconds"]),
        ("09-float-ids/export", ["interactions.csv line 2", "note_id: no note '0.0' was kept"]),
        ("09-float-ids/export-jsonl", ["interactions.jsonl line", "user_id: expected text or a whole number", "float"]),
        ("22-wrong-place/export", ["interactions.jsonl line", "_id: expected text or a whole number"]),
    ],
)
def test_22_a_refusal_names_field_value_and_place_in_its_table(
    export: str, words: list[str], cases: Path, tmp_path: Path
) -> None:
    message = _refusal(cases / export, tmp_path)
    assert "no usable interaction" in message
    for word in words:
        assert word in message
    assert "notes." not in message


def test_08_times_that_cannot_be_read_are_set_aside_with_their_value(cases: Path, tmp_path: Path) -> None:
    report = _import(cases / "08-times" / "export", tmp_path)
    records = [json.loads(line) for line in (report.into / "quarantine.jsonl").read_text().splitlines()]
    assert {record["reason"] for record in records} == {"bad-timestamp"}
    assert all(record["detail"].startswith("timestamp: ") for record in records)


def test_09_names_that_look_like_nothing_stay_ids(cases: Path, tmp_path: Path) -> None:
    report = _import(cases / "09-float-ids" / "export-nan-names", tmp_path)
    assert {"nan", "null", "NA", "007", "1e5"} <= set(_ids(report))
