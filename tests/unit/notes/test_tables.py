"""Tables as folders of part files, and what a refusal says of a table."""

from __future__ import annotations

from pathlib import Path

import duckdb
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from notellm2.errors import InputError
from notellm2.notes.dataset import Dataset
from notellm2.notes.import_export import ImportReport, import_export
from notellm2.recipe import ImageLimits
from tests.unit.notes.exports import INTERACTIONS, NOTES, write_export, write_table


def _import(export: Path) -> ImportReport:
    return import_export(export, export.parent / "data", limits=ImageLimits(), progress=False)


def _ids(report: ImportReport) -> list[str]:
    ids: list[str] = Dataset.open(report.into).notes(["note_id"]).column(0).to_pylist()
    return ids


def test_part_files_follow_each_other_in_natural_order(tmp_path: Path) -> None:
    export = write_export(tmp_path / "export", tables="parquet")
    (export / "notes.parquet").unlink()
    folder = export / "notes.parquet"
    folder.mkdir()
    for name in ("_SUCCESS", ".part-0.parquet.crc", "_metadata"):
        (folder / name).write_text("no rows")
    for part, note in zip((2, 10, 1), NOTES, strict=False):
        write_table(folder / f"part-{part}.parquet", [note, note])
    report = _import(export)
    assert _ids(report) == ["n2", "n0", "n1"]
    assert report.locations["duplicate-id"] == [f"notes.parquet/part-{part}.parquet row 2" for part in (1, 2, 10)]
    assert "notes.parquet: a folder, read as one table of 3 file(s)" in report.render()


def test_csv_parts_have_a_header_each(tmp_path: Path) -> None:
    export = write_export(tmp_path / "export", tables="csv")
    (export / "interactions.csv").unlink()
    (export / "interactions.csv").mkdir()
    write_table(export / "interactions.csv" / "part-0.csv", INTERACTIONS[:7])
    write_table(export / "interactions.csv" / "part-1.csv", [*INTERACTIONS[7:], INTERACTIONS[0] | {"note_id": "x"}])
    report = _import(export)
    assert report.info.interactions == len(INTERACTIONS)
    assert report.locations == {"unknown-note": ["interactions.csv/part-1.csv line 15"]}


def test_partitioned_folders_of_pandas_and_duckdb_give_their_columns(tmp_path: Path) -> None:
    export = write_export(tmp_path / "export", tables="parquet")
    for name in ("notes", "interactions"):
        (export / f"{name}.parquet").unlink()
    notes = pd.DataFrame([{"note_id": f"n{i}", "category": c} for i, c in enumerate(["a b", None, "c/d"])])
    notes.to_parquet(export / "notes.parquet", partition_cols=["category"])
    behaviour = pa.Table.from_pylist([row | {"note_id": f"n{i % 3}"} for i, row in enumerate(INTERACTIONS)])
    with duckdb.connect() as database:
        database.register("behaviour", behaviour)
        target = export / "interactions.parquet"
        database.execute(f"COPY behaviour TO '{target}' (FORMAT parquet, PARTITION_BY (event))")
    report = _import(export)
    rows = Dataset.open(report.into).notes(["note_id", "category"]).to_pylist()
    assert {row["note_id"]: row["category"] for row in rows} == {"n0": "a b", "n1": None, "n2": "c/d"}
    events = Dataset.open(report.into).interactions(["event"]).column(0).to_pylist()
    assert sorted(events) == sorted(row["event"] for row in INTERACTIONS)


def test_a_folder_that_is_not_finished_or_empty_is_refused(tmp_path: Path) -> None:
    export = write_export(tmp_path / "export", tables="parquet")
    (export / "notes.parquet").unlink()
    (export / "notes.parquet").mkdir()
    with pytest.raises(InputError, match=r"notes\.parquet: a folder without files"):
        _import(export)
    (export / "notes.parquet" / "_temporary").mkdir()
    with pytest.raises(InputError, match="the job that writes it is not finished"):
        _import(export)


def test_part_files_of_other_columns_are_named(tmp_path: Path) -> None:
    export = write_export(tmp_path / "export", tables="parquet")
    (export / "notes.parquet").rename(export / "part-0.parquet")
    (export / "notes.parquet").mkdir()
    (export / "part-0.parquet").rename(export / "notes.parquet" / "part-0.parquet")
    pq.write_table(pa.table({"id": ["a"]}), export / "notes.parquet" / "part-1.parquet")
    with pytest.raises(InputError, match=r"notes\.parquet/part-1\.parquet: no column 'note_id'"):
        _import(export)


def test_a_refused_table_says_field_value_and_place_of_its_own_rows(tmp_path: Path) -> None:
    notes = [{"note_id": "a"}, {"note_id": 1.5}]
    rows = [{"user_id": "u", "note_id": "a", "timestamp": 1_714_600_000_000}, {"user_id": 2.5, "note_id": "a"}]
    export = write_export(tmp_path / "export", notes, rows, tables="jsonl")
    with pytest.raises(InputError) as caught:
        _import(export)
    assert str(caught.value).splitlines()[1:] == [
        (
            "  bad-timestamp 1: interactions.jsonl line 1: timestamp: 1714600000000 lies outside the years 1 to 9999; "
            "numbers are seconds, not milliseconds"
        ),
        "  wrong-type 1: interactions.jsonl line 2: user_id: expected text or a whole number, found float '2.5'",
    ]
