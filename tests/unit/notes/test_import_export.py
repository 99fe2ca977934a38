from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from notellm2.errors import InputError
from notellm2.notes import behaviour
from notellm2.notes import import_export as export_module
from notellm2.notes.dataset import Dataset
from notellm2.notes.images import ImageProblem
from notellm2.notes.import_export import ImportReport, import_export
from notellm2.notes.members import key_of
from notellm2.notes.schema import INTERACTIONS as INTERACTIONS_SCHEMA
from notellm2.notes.schema import NOTES as NOTES_SCHEMA
from notellm2.notes.versions import data_md5
from notellm2.recipe import ImageLimits
from tests.conftest import ROOT
from tests.unit.notes.exports import INTERACTIONS, NOTES, images_of, write_export, write_table

LIMITS = ImageLimits(max_bytes=100_000, max_pixels=1_000_000)


def _import(export: Path, limits: ImageLimits = LIMITS) -> ImportReport:
    return import_export(export, export.parent / "data", limits=limits, name="test", progress=False)


def _records(report: ImportReport) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (report.into / "quarantine.jsonl").read_text().splitlines()]


def _notes(report: ImportReport) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = Dataset.open(report.into).notes(NOTES_SCHEMA.names).to_pylist()
    return rows


@pytest.mark.parametrize("archive", ["images", "images.tar", "images.tar.gz", "images.tgz", "images.zip"])
@pytest.mark.parametrize("tables", ["parquet", "csv", "jsonl"])
def test_every_form_of_an_export_gives_the_same_bytes(tables: str, archive: str, tmp_path: Path) -> None:
    report = _import(write_export(tmp_path / "export", tables=tables, archive=archive))
    assert (report.info.notes, report.info.notes_with_image, report.info.interactions) == (6, 6, 20)
    assert report.quarantined == {}
    assert _records(report) == []
    pictures = images_of(NOTES)
    for found, given in zip(_notes(report), NOTES, strict=True):
        assert found == {
            "note_id": given["note_id"],
            "title": given["title"],
            "topics": given["topics"].split("|"),
            "content": given["content"],
            "image": {"bytes": pictures[given["image_path"]], "path": given["image_path"]},
            "category": given["category"],
            "created_at": datetime.fromtimestamp(given["created_at"], UTC),
        }
    behaviour = Dataset.open(report.into).interactions()
    assert behaviour.schema.equals(INTERACTIONS_SCHEMA)
    assert [row["timestamp"].timestamp() for row in behaviour.to_pylist()] == [row["timestamp"] for row in INTERACTIONS]
    assert behaviour.column("event").to_pylist() == [row["event"] for row in INTERACTIONS]
    other = import_export(
        write_export(tmp_path / "other"), tmp_path / "same", limits=LIMITS, name="test", progress=False
    )
    for room in ("notes", "interactions"):
        assert data_md5(report.into / room) == data_md5(other.into / room)


def test_the_same_import_twice_is_the_same_to_the_last_byte(tmp_path: Path) -> None:
    export = write_export(tmp_path / "export")
    first = data_md5(_import(export).into)
    assert data_md5(_import(export).into) == first


def test_shards_carry_no_pandas_metadata_and_leave_images_uncompressed(tmp_path: Path) -> None:
    report = _import(write_export(tmp_path / "export", tables="parquet"))
    with pq.ParquetFile(report.into / "notes" / "part-00000.parquet") as file:
        assert set(file.metadata.metadata) == {b"ARROW:schema"}
        codecs = {c["path_in_schema"]: c["compression"] for c in file.metadata.row_group(0).to_dict()["columns"]}
    assert codecs["content"] == "ZSTD"
    assert codecs["image.bytes"] == "UNCOMPRESSED"


def test_shards_are_cut_at_their_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("notellm2.notes.shards.NOTES_PER_GROUP", 2)
    monkeypatch.setattr("notellm2.notes.shards.NOTES_PER_SHARD", 4)
    monkeypatch.setattr("notellm2.notes.shards.INTERACTIONS_PER_GROUP", 3)
    monkeypatch.setattr("notellm2.notes.shards.INTERACTIONS_PER_SHARD", 6)
    monkeypatch.setattr("notellm2.notes.import_export._INTERACTIONS_AT_ONCE", 7)
    dataset = Dataset.open(_import(write_export(tmp_path / "export")).into)
    assert [pq.read_metadata(shard).num_rows for shard in dataset.shards("notes")] == [4, 2]
    assert [pq.read_metadata(shard).num_rows for shard in dataset.shards("interactions")] == [6, 6, 6, 2]
    assert dataset.notes().column("note_id").to_pylist() == [note["note_id"] for note in NOTES]
    assert dataset.interactions().column("user_id").to_pylist() == [row["user_id"] for row in INTERACTIONS]


def test_the_bytes_of_images_cut_shards_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("notellm2.notes.shards.NOTE_BYTES_PER_SHARD", 1)
    dataset = Dataset.open(_import(write_export(tmp_path / "export")).into)
    assert len(dataset.shards("notes")) == len(NOTES)


# --- what rows may look like -------------------------------------------------------------------------------------


def _one(note: Mapping[str, Any], tmp_path: Path) -> dict[str, Any]:
    notes = [dict(note), {"note_id": "other"}]
    report = _import(write_export(tmp_path / "export", notes, [INTERACTIONS[0] | {"note_id": "other"}]))
    assert report.quarantined == {}
    return _notes(report)[0]


def test_only_the_id_of_a_note_is_required(tmp_path: Path) -> None:
    assert _one({"note_id": "a"}, tmp_path) == {
        "note_id": "a",
        "title": "",
        "topics": [],
        "content": "",
        "image": None,
        "category": None,
        "created_at": None,
    }


def test_numbers_are_ids_and_lists_are_topics(tmp_path: Path) -> None:
    note = _one({"note_id": 12, "topics": ["a", " b ", ""], "genres": "Drama|War"}, tmp_path)
    assert (note["note_id"], note["topics"], note["category"]) == ("12", ["a", "b"], "Drama")


@pytest.mark.parametrize("tables", ["parquet", "csv", "jsonl"])
def test_the_first_genre_is_the_category_of_a_row_without_one_whatever_its_neighbours_have(
    tables: str, tmp_path: Path
) -> None:
    notes = [{"note_id": f"n{i}", "category": "food" if i == 3 else None, "genres": "Drama|War"} for i in range(6)]
    report = _import(write_export(tmp_path / "export", notes, tables=tables))
    assert [note["category"] for note in _notes(report)] == ["Drama"] * 3 + ["food"] + ["Drama"] * 2


def test_the_guide_names_every_column_and_every_reason() -> None:
    guide = (ROOT / "docs" / "reference" / "export-format.md").read_text()
    cells = " ".join(re.findall(r"^\| (`.*?`) \|", guide, re.MULTILINE))
    named = set(re.findall(r"`([a-z0-9_-]+)`", cells))
    assert {*export_module.COLUMNS, *behaviour.COLUMNS} <= named
    # A reason is a quoted word with hyphens; nothing else in these files is.
    files = ("archive", "behaviour", "import_export", "fields", "images", "members", "csv_rows", "json_rows", "tarball")
    text = "".join((ROOT / "src" / "notellm2" / "notes" / f"{name}.py").read_text() for name in files)
    raised = set(re.findall(r'"([a-z]+(?:-[a-z0-9]+)+)"', text))
    assert len(raised) > 10
    assert raised <= named


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (1_700_000_000, datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC)),
        (1_700_000_000.25, datetime(2023, 11, 14, 22, 13, 20, 250_000, tzinfo=UTC)),
        ("1700000000", datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC)),
        ("2023-11-14", datetime(2023, 11, 14, tzinfo=UTC)),
        ("2023-11-14T22:13:20", datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC)),
        ("2023-11-14 23:13:20+01:00", datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC)),
        ("2023-11-14T22:13:20Z", datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC)),
        (-1, datetime(1969, 12, 31, 23, 59, 59, tzinfo=UTC)),
        ("", None),
    ],
)
def test_times_in_every_spelling(given: Any, expected: datetime | None, tmp_path: Path) -> None:
    assert _one({"note_id": "a", "created_at": given}, tmp_path)["created_at"] == expected


_INSTANT = datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC)


@pytest.mark.parametrize(
    "column",
    [
        pa.array([1_700_000_000], pa.int32()),
        pa.array([1_700_000_000], pa.uint64()),
        pa.array([1.7e9], pa.float64()),
        pa.array([1_700_000_000], pa.timestamp("s")),
        pa.array([1_700_000_000_000], pa.timestamp("ms", tz="Asia/Shanghai")),
        pa.array([1_700_000_000_000_000_999], pa.timestamp("ns")),
        pa.array(["2023-11-14T22:13:20Z"], pa.large_string()),
        pa.array(["1700000000"]).dictionary_encode(),
    ],
    ids=lambda column: str(column.type),
)
def test_times_in_every_column_type(column: pa.Array, tmp_path: Path) -> None:
    export = write_export(tmp_path / "export", [{"note_id": "a"}], INTERACTIONS, tables="parquet")
    table = {"user_id": pa.array([7]), "note_id": pa.array(["a"]).dictionary_encode(), "timestamp": column}
    pq.write_table(pa.table(table), export / "interactions.parquet")
    pq.write_table(pa.table({"note_id": ["a"], "created_at": column}), export / "notes.parquet")
    report = _import(export)
    assert Dataset.open(report.into).interactions().to_pylist() == [
        {"user_id": "7", "note_id": "a", "event": "click", "timestamp": _INSTANT}
    ]
    assert _notes(report)[0]["created_at"] == _INSTANT


def test_dates_are_midnight(tmp_path: Path) -> None:
    export = write_export(tmp_path / "export", [{"note_id": "a"}], INTERACTIONS, tables="parquet")
    for kind in (pa.date32(), pa.date64()):
        table = {"user_id": ["u"], "note_id": ["a"], "timestamp": pa.array([date(2023, 11, 14)], kind)}
        pq.write_table(pa.table(table), export / "interactions.parquet")
        rows = Dataset.open(_import(export).into).interactions().to_pylist()
        assert rows[0]["timestamp"] == datetime(2023, 11, 14, tzinfo=UTC)


def test_a_byte_order_mark_and_windows_line_ends_do_no_harm(tmp_path: Path) -> None:
    export = write_export(tmp_path / "export", tables="csv")
    (export / "notes.csv").write_bytes("\ufeffnote_id,title\r\na,Ä\r\n\r\n".encode())
    (export / "interactions.csv").write_bytes("\ufeffuser_id,note_id,timestamp\r\nu,a,5\r\n".encode())
    report = _import(export)
    assert [(note["note_id"], note["title"]) for note in _notes(report)] == [("a", "Ä")]
    assert report.quarantined == {}


def test_other_columns_are_reported_as_not_read(tmp_path: Path) -> None:
    notes = [note | {"year": 1999} for note in NOTES]
    for tables in ("csv", "parquet", "jsonl"):
        export = write_export(tmp_path / tables, notes, [row | {"rating": 3} for row in INTERACTIONS], tables=tables)
        report = _import(export)
        assert report.ignored == {f"notes.{tables}": ["year"], f"interactions.{tables}": ["rating"]}
        assert f"notes.{tables}: not read: year" in report.render()


# --- rows that are set aside -------------------------------------------------------------------------------------

GOOD_CSV = "a,A,1700000000"
BAD_NOTES = [
    ("csv", b",no id,", "missing-id"),
    ("csv", b"  ,blank id,", "missing-id"),
    ("csv", b"b,two fields", "wrong-field-count"),
    ("csv", b"b,B,1,four fields", "wrong-field-count"),
    ("csv", b"b,\xff\xfe,", "invalid-utf8"),
    ("csv", b"b,B,yesterday", "bad-timestamp"),
    ("csv", b"b,B,1700000000000000", "bad-timestamp"),
    ("csv", b'b,"closed" too early,', "broken-csv"),
    ("csv", b"a,again,", "duplicate-id"),
    ("jsonl", b'{"note_id": "b"', "broken-json"),
    ("jsonl", b"[" * 100_000, "broken-json"),
    ("jsonl", b'["note_id", "b"]', "wrong-type"),
    ("jsonl", b'{"title": "no id"}', "missing-id"),
    ("jsonl", b'{"note_id": null}', "missing-id"),
    ("jsonl", b'{"note_id": 1.5}', "wrong-type"),
    ("jsonl", b'{"note_id": true}', "wrong-type"),
    ("jsonl", b'{"note_id": "b", "title": 7}', "wrong-type"),
    ("jsonl", b'{"note_id": "b", "topics": [1]}', "wrong-type"),
    ("jsonl", b'{"note_id": "b", "topics": ["x", null]}', "wrong-type"),
    ("jsonl", b'{"note_id": "b", "content": {"html": ""}}', "wrong-type"),
    ("jsonl", b'{"note_id": "b", "created_at": "32 May"}', "bad-timestamp"),
    ("jsonl", b'{"note_id": "b", "created_at": NaN}', "bad-timestamp"),
    ("jsonl", b'{"note_id": "b", "created_at": 1e300}', "bad-timestamp"),
    ("jsonl", b'{"note_id": "b", "created_at": false}', "wrong-type"),
    ("jsonl", b'{"note_id": "b", "title": "\xff"}', "invalid-utf8"),
    ("jsonl", b'{"note_id": "b", "title": "\\ud800"}', "invalid-utf8"),
    ("jsonl", b'{"note_id": "a"}', "duplicate-id"),
]


@pytest.mark.parametrize(
    ("kind", "bad", "reason"), BAD_NOTES, ids=[f"{k}-{r}-{i}" for i, (k, _, r) in enumerate(BAD_NOTES)]
)
def test_a_bad_note_is_set_aside_with_its_line(kind: str, bad: bytes, reason: str, tmp_path: Path) -> None:
    export = write_export(tmp_path / "export", [{"note_id": "a"}], [INTERACTIONS[0] | {"note_id": "a"}])
    if kind == "csv":
        (export / "notes.jsonl").unlink()
        lines = [b"note_id,title,created_at", GOOD_CSV.encode(), bad, b"c,C,"]
    else:
        lines = [b"", b'{"note_id": "a", "title": "A"}', bad, b'{"note_id": "c"}']
    (export / f"notes.{kind}").write_bytes(b"\n".join(lines) + b"\n")
    report = _import(export)
    assert report.quarantined == {reason: 1}
    assert report.locations == {reason: [f"notes.{kind} line 3"]}
    (record,) = _records(report)
    assert (record["kind"], record["reason"], record["location"]) == ("note", reason, f"notes.{kind} line 3")
    assert record["detail"]
    assert [note["note_id"] for note in _notes(report)] == ["a", "c"]
    assert f"{reason}: 1: notes.{kind} line 3" in report.render()


BAD_INTERACTIONS = [
    ("csv", b",a,5", "missing-id"),
    ("csv", b"u,,5", "missing-id"),
    ("csv", b"u,a,", "bad-timestamp"),
    ("csv", b"u,a,soon", "bad-timestamp"),
    ("csv", b"u,a,nan", "bad-timestamp"),
    ("csv", b"u,a,1700000000000", "bad-timestamp"),
    ("csv", b"u,a", "wrong-field-count"),
    ("csv", b"\xe9,a,5", "invalid-utf8"),
    ("csv", b"u,stranger,5", "unknown-note"),
    ("jsonl", b'{"user_id": "u", "note_id": "a"}', "bad-timestamp"),
    ("jsonl", b'{"user_id": "u", "note_id": "a", "timestamp": 99999999999999999999999}', "bad-timestamp"),
    ("jsonl", b'{"user_id": "u", "note_id": "a", "timestamp": "0001-01-01T00:00:00+05:00"}', "bad-timestamp"),
    ("jsonl", b'{"user_id": ["u"], "note_id": "a", "timestamp": 5}', "wrong-type"),
    ("jsonl", b'{"user_id": "u", "note_id": "a", "timestamp": 5, "event": ""}', "wrong-type"),
    ("jsonl", b'{"user_id": "u", "note_id": "a", "timestamp": [5]}', "wrong-type"),
    ("jsonl", b'{"user_id": "u", "note_id": 404, "timestamp": 5}', "unknown-note"),
    ("jsonl", b"no json", "broken-json"),
]


@pytest.mark.parametrize(
    ("kind", "bad", "reason"), BAD_INTERACTIONS, ids=[f"{k}-{r}-{i}" for i, (k, _, r) in enumerate(BAD_INTERACTIONS)]
)
def test_a_bad_interaction_is_set_aside_with_its_line(kind: str, bad: bytes, reason: str, tmp_path: Path) -> None:
    export = write_export(tmp_path / "export", [{"note_id": "a"}, {"note_id": "z"}], INTERACTIONS)
    (export / "interactions.jsonl").unlink()
    if kind == "csv":
        lines = [b"user_id,note_id,timestamp", b"v,a,1", bad, b"w,z,2"]
    else:
        good = '{{"user_id": "{}", "note_id": "{}", "timestamp": {}, "event": "click"}}'
        lines = [b"", good.format("v", "a", 1).encode(), bad, good.format("w", "z", 2).encode()]
    (export / f"interactions.{kind}").write_bytes(b"\n".join(lines) + b"\n")
    report = _import(export)
    assert report.locations == {reason: [f"interactions.{kind} line 3"]}
    assert [record["kind"] for record in _records(report)] == ["interaction"]
    kept = Dataset.open(report.into).interactions(["user_id", "note_id"]).to_pylist()
    assert kept == [{"user_id": "v", "note_id": "a"}, {"user_id": "w", "note_id": "z"}]


def test_bad_rows_of_typed_columns_are_set_aside_with_their_row(tmp_path: Path) -> None:
    export = write_export(tmp_path / "export", [{"note_id": "a"}], INTERACTIONS, tables="parquet")
    invalid = pa.array([b"u", b"\xff", b"u", b"u", b"u", b"u"]).cast(pa.binary()).view(pa.string())
    table = {
        "user_id": invalid,
        "note_id": pa.array(["a", "a", None, "x", "a", "a"]),
        "timestamp": pa.array([1.5, 2.0, 3.0, 4.0, float("inf"), None]),
        "event": pa.array(["view"] * 6),
    }
    pq.write_table(pa.table(table), export / "interactions.parquet")
    report = _import(export)
    assert report.locations == {
        "invalid-utf8": ["interactions.parquet row 2"],
        "missing-id": ["interactions.parquet row 3"],
        "unknown-note": ["interactions.parquet row 4"],
        "bad-timestamp": ["interactions.parquet row 5", "interactions.parquet row 6"],
    }
    assert [record["location"][-1] for record in _records(report)] == list("23456")
    assert report.info.interactions == 1


def test_notes_of_typed_columns_are_checked_row_by_row(tmp_path: Path) -> None:
    export = write_export(tmp_path / "export", NOTES, [INTERACTIONS[0] | {"note_id": "a"}], tables="parquet")
    table = {
        "note_id": pa.array(["a", None, "b", "c"]),
        "title": pa.array([b"A", b"", b"\xff", b""]).view(pa.string()),
        "topics": pa.array([["x", "y"], [], None, [None]], pa.list_(pa.string())),
        "created_at": pa.array([0, 0, 0, 0], pa.timestamp("s")),
    }
    pq.write_table(pa.table(table), export / "notes.parquet")
    report = _import(export)
    assert [(note["note_id"], note["topics"]) for note in _notes(report)] == [("a", ["x", "y"])]
    assert report.locations == {
        "missing-id": ["notes.parquet row 2"],
        "invalid-utf8": ["notes.parquet row 3"],
        "wrong-type": ["notes.parquet row 4"],
    }


def test_a_json_line_without_event_is_a_click_whatever_its_neighbours_have(tmp_path: Path) -> None:
    row = {"user_id": "u", "note_id": "n0", "timestamp": 5}
    report = _import(write_export(tmp_path / "export", NOTES, [row | {"event": "view"}, row, row | {"event": "like"}]))
    assert Dataset.open(report.into).interactions(["event"]).column(0).to_pylist() == ["view", "click", "like"]


def test_an_open_quote_costs_rows_but_neither_the_import_nor_the_count(tmp_path: Path) -> None:
    export = write_export(tmp_path / "export", tables="csv")
    (export / "interactions.csv").write_text('user_id,note_id,timestamp\nu,n0,1\n"v,n0,2\nw,n0,3\n')
    report = _import(export)
    assert report.info.interactions == 1
    (record,) = _records(report)
    assert (record["reason"], record["location"]) == ("broken-csv", "interactions.csv lines 3 to 4")
    assert record["lines"] == report.quarantined["broken-csv"] == 2
    assert "is a quote left open?" in record["detail"]


def test_an_endless_line_is_one_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("notellm2.notes.rows.MAX_LINE", 100)
    export = write_export(tmp_path / "export", [{"note_id": "a"}], [INTERACTIONS[0] | {"note_id": "a"}])
    (export / "notes.jsonl").write_text('{"note_id": "a"}\n{"note_id": "' + "b" * 1000 + '"}\n{"note_id": "c"}\n')
    report = _import(export)
    assert report.locations == {"broken-json": ["notes.jsonl line 2"]}
    assert [note["note_id"] for note in _notes(report)] == ["a", "c"]


def test_a_duplicate_keeps_the_first_and_names_it(tmp_path: Path) -> None:
    notes = [*NOTES, NOTES[2] | {"title": "second"}]
    report = _import(write_export(tmp_path / "export", notes))
    assert [note["title"] for note in _notes(report)] == [note["title"] for note in NOTES]
    (record,) = _records(report)
    assert (record["id"], record["location"]) == ("n2", "notes.jsonl line 7")
    assert "notes.jsonl line 3" in record["detail"]


def test_the_report_names_ten_places_and_counts_all(tmp_path: Path) -> None:
    strangers = [INTERACTIONS[0] | {"note_id": f"x{i}"} for i in range(25)]
    report = _import(write_export(tmp_path / "export", NOTES, [*INTERACTIONS, *strangers]))
    assert report.quarantined == {"unknown-note": 25}
    assert len(report.locations["unknown-note"]) == 10
    assert "unknown-note: 25: interactions.jsonl line 21;" in report.render()
    assert "and 15 more" in report.render()
    assert len(_records(report)) == 25
    assert Dataset.open(report.into).info.quarantined == {"unknown-note": 25}


# --- files that cannot be used at all ----------------------------------------------------------------------------


def _refused(export: Path, *parts: str) -> None:
    with pytest.raises(InputError) as caught:
        _import(export)
    for part in parts:
        assert part in str(caught.value)
    assert not (export.parent / "data").exists()
    assert sorted(path.name for path in export.parent.iterdir()) == [export.name], "left-overs beside the export"


def test_a_missing_export_or_table_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nowhere: no such folder"):
        _import(tmp_path / "nowhere")
    export = write_export(tmp_path / "export")
    (export / "interactions.jsonl").unlink()
    _refused(export, "interactions.parquet, interactions.csv and interactions.jsonl", "none of them")


def test_two_tables_of_a_name_are_ambiguous(tmp_path: Path) -> None:
    export = write_export(tmp_path / "export")
    write_table(export / "notes.csv", NOTES)
    _refused(export, "exactly one of", "notes.csv, notes.jsonl")


def test_two_sources_of_images_are_ambiguous(tmp_path: Path) -> None:
    export = write_export(write_export(tmp_path / "export"), archive="images.zip")
    _refused(export, "images, images.zip", "keep one")


@pytest.mark.parametrize("tables", ["parquet", "csv", "jsonl"])
def test_a_missing_column_is_named(tables: str, tmp_path: Path) -> None:
    rows = [{key: value for key, value in row.items() if key != "user_id"} for row in INTERACTIONS]
    export = write_export(tmp_path / "export", NOTES, rows, tables=tables)
    _refused(export, f"interactions.{tables}", "'user_id'")


def test_a_column_of_a_wrong_type_is_named(tmp_path: Path) -> None:
    export = write_export(tmp_path / "export", tables="parquet")
    pq.write_table(pa.table({"note_id": [1.5], "title": ["x"]}), export / "notes.parquet")
    _refused(export, "notes.parquet", "'note_id'", "double", "text or integer")


def test_a_column_that_is_there_twice_is_named(tmp_path: Path) -> None:
    export = write_export(tmp_path / "export", tables="csv")
    (export / "notes.csv").write_text("note_id,title,title\na,b,c\n")
    _refused(export, "notes.csv", "'title'", "more than once")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("notes.parquet", b"PAR1 and nothing else"),
        ("notes.parquet", b""),
        ("notes.csv", b""),
        ("notes.csv", b"note_id,title\n"),
        ("notes.csv", b'"note_id,title\nx'),
        ("notes.jsonl", b""),
        ("notes.jsonl", b"\n\n"),
        ("notes.jsonl", b"nonsense\n"),
    ],
)
def test_an_empty_or_unreadable_table_is_named(name: str, content: bytes, tmp_path: Path) -> None:
    export = write_export(tmp_path / "export")
    (export / "notes.jsonl").unlink()
    (export / name).write_bytes(content)
    _refused(export, name)


def test_a_parquet_file_damaged_in_the_middle_is_named(tmp_path: Path) -> None:
    export = write_export(tmp_path / "export", tables="parquet")
    path = export / "notes.parquet"
    data = bytearray(path.read_bytes())
    data[4:400] = b"\xff" * 396
    path.write_bytes(data)
    _refused(export, "notes.parquet", "cannot be read")


def test_when_no_interaction_is_usable_the_message_says_why(tmp_path: Path) -> None:
    export = write_export(tmp_path / "export", NOTES, [row | {"note_id": "x"} for row in INTERACTIONS])
    _refused(export, "no usable interaction", "unknown-note 20", "interactions.jsonl line 1")


def test_notes_that_name_images_need_images(tmp_path: Path) -> None:
    _refused(write_export(tmp_path / "export", images={}), "notes.jsonl line 1", "'images/n0.png'", "images.tar")


@pytest.mark.parametrize("name", ["images.tar", "images.tar.gz", "images.zip"])
def test_an_archive_that_is_none_is_named(name: str, tmp_path: Path) -> None:
    export = write_export(tmp_path / "export", images={})
    (export / name).write_bytes(b"this is no archive" * 100)
    _refused(export, name, "not a")


# --- where the data set goes -------------------------------------------------------------------------------------


def test_a_data_set_is_replaced_and_its_pin_left_alone(tmp_path: Path) -> None:
    (tmp_path / "data.dvc").write_text("outs: []\n")
    _import(write_export(tmp_path / "one"))
    report = _import(write_export(tmp_path / "two", NOTES[:3], INTERACTIONS[:3]))
    assert Dataset.open(tmp_path / "data").info.notes == report.info.notes == 3
    assert (tmp_path / "data.dvc").read_text() == "outs: []\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "data.dvc", "one", "two"]


def test_replacing_works_where_two_directories_cannot_change_places(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("notellm2.notes.replace._exchange", lambda one, other: False)
    _import(write_export(tmp_path / "one"))
    _import(write_export(tmp_path / "two", NOTES[:3], INTERACTIONS[:3]))
    assert Dataset.open(tmp_path / "data").info.notes == 3
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "one", "two"]


def test_a_failed_import_leaves_the_old_data_set(tmp_path: Path) -> None:
    before = data_md5(_import(write_export(tmp_path / "one")).into)
    export = write_export(tmp_path / "two")
    (export / "interactions.jsonl").write_text("broken\n")
    with pytest.raises(InputError):
        _import(export)
    assert data_md5(tmp_path / "data") == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "one", "two"]


def test_something_else_is_never_replaced(tmp_path: Path) -> None:
    export = write_export(tmp_path / "export")
    other = tmp_path / "data"
    other.mkdir()
    (other / "thesis.txt").write_text("years of work")
    with pytest.raises(InputError, match="not empty and no data set"):
        _import(export)
    assert (other / "thesis.txt").read_text() == "years of work"
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="a file; expected a folder"):
        import_export(export, tmp_path / "file", limits=LIMITS, progress=False)


def test_an_export_inside_its_target_is_not_destroyed(tmp_path: Path) -> None:
    into = _import(write_export(tmp_path / "export")).into
    inner = write_export(into / "raw")
    with pytest.raises(InputError, match="lies inside"):
        _import_into(inner, into)
    assert (inner / "notes.jsonl").exists()


def _import_into(export: Path, into: Path) -> ImportReport:
    return import_export(export, into, limits=LIMITS, progress=False)


def test_an_empty_folder_and_a_link_are_fine_targets(tmp_path: Path) -> None:
    export = write_export(tmp_path / "export")
    real = tmp_path / "disk" / "real"
    real.mkdir(parents=True)
    (tmp_path / "data").symlink_to(real)
    _import(export)
    assert (tmp_path / "data").is_symlink()
    assert Dataset.open(real).info.notes == 6


def test_names_inside_and_outside_the_images_folder() -> None:
    inside: Sequence[str] = ("images/1.jpg", "1.jpg", "./images/1.jpg", "images//1.jpg", "images\\1.jpg")
    assert {key_of(name) for name in inside} == {"1.jpg"}
    assert key_of("images/images/1.jpg") == "images/1.jpg"
    for name in ("../1.jpg", "images/../../1.jpg", "/etc/passwd", "C:\\1.jpg", "\\\\host\\1.jpg", "a/../1.jpg"):
        with pytest.raises(ImageProblem, match="outside-folder"):
            key_of(name)


@pytest.mark.shared
def test_the_real_export_imports_as_it_is(shared: Path, tmp_path: Path) -> None:
    export = shared / "data" / "movielens-posters"
    report = import_export(export, tmp_path / "data", limits=ImageLimits(), progress=False)
    assert (report.info.notes, report.info.notes_with_image, report.info.interactions) == (10_177, 10_177, 391_685)
    assert report.quarantined == {}
    assert report.ignored["interactions.parquet"] == ["rating", "source"]
    assert report.info.first_interaction == "1995-01-09T11:46:49+00:00"
    dataset = Dataset.open(tmp_path / "data")
    ids = pq.read_table(export / "notes.parquet", columns=["note_id"]).column(0).to_pylist()
    assert dataset.notes(["note_id"]).column(0).to_pylist() == ids
    given = pq.read_table(export / "interactions.parquet", columns=["user_id", "timestamp"])
    found = dataset.interactions(["user_id", "timestamp"])
    assert found.column("user_id").to_pylist() == given.column("user_id").to_pylist()
    micros = found.column("timestamp").cast(pa.int64()).to_numpy()
    assert (micros == given.column("timestamp").to_numpy() * 1_000_000).all()
