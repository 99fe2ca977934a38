"""CSV in broken and odd forms: every line is imported, set aside with its place, or named in a broken span."""

from __future__ import annotations

import csv
import gzip
import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from notellm2.errors import InputError
from notellm2.notes.rows import Column, Refusal
from notellm2.notes.tables import ExportTable, find_table

COLUMNS = {name: Column(("text", "integer"), required=name == "id") for name in ("id", "title", "content")}
HEADER = "id,title,content\n"


class Reading:
    """A table read to its end: kept rows with their positions, and what was refused."""

    def __init__(self, folder: Path, pieces: int = 3) -> None:
        self.table: ExportTable = find_table(folder, "notes", COLUMNS)
        self.rows: list[tuple[Any, ...]] = []
        self.positions: list[int] = []
        self.refused: list[Refusal] = []
        for piece in self.table.pieces(pieces, self.refused.append):
            columns = [piece.columns.get(name, [None] * len(piece.positions)) for name in COLUMNS]
            lists = [column if isinstance(column, list) else column.to_pylist() for column in columns]
            self.rows += list(zip(*lists, strict=True))
            self.positions += list(piece.positions)

    @property
    def lines_refused(self) -> int:
        return sum(refusal.lines for refusal in self.refused)


def read_text(folder: Path, text: str | bytes, name: str = "notes.csv") -> Reading:
    folder.mkdir(exist_ok=True)
    (folder / name).write_bytes(text.encode(errors="surrogateescape") if isinstance(text, str) else text)
    return Reading(folder)


def test_an_open_quote_loses_the_rest_and_says_which_lines(tmp_path: Path) -> None:
    lines = [f"n{i},title {i},words {i}\n" for i in range(100)]
    lines[40] = 'n40,"left open,words\n'
    reading = read_text(tmp_path, HEADER + "".join(lines))
    assert [row[0] for row in reading.rows] == [f"n{i}" for i in range(40)]
    (refusal,) = reading.refused
    assert (refusal.first, refusal.last, refusal.lines) == (42, 101, 60)
    assert reading.table.place(refusal.first, refusal.last) == "notes.csv lines 42 to 101"


def test_a_line_in_the_middle_of_a_broken_text_is_never_a_row(tmp_path: Path) -> None:
    # The quotes are neither doubled nor escaped, so the record is broken; its second line looks like a row.
    text = HEADER + 'n1,"the "best one","line one\nn2,stolen,line two\nend of it"\nn2,real,x\n'
    reading = read_text(tmp_path, text)
    assert reading.rows == [("n2", "real", "x")]
    assert [(refusal.first, refusal.last) for refusal in reading.refused] == [(2, 4)]


def test_a_stray_quote_within_one_line_costs_that_line(tmp_path: Path) -> None:
    reading = read_text(tmp_path, HEADER + 'n1,"a"b,c\nn2,t,c\n')
    assert [row[0] for row in reading.rows] == ["n2"]
    assert [(refusal.first, refusal.last, refusal.reason) for refusal in reading.refused] == [(2, 2, "broken-csv")]


def test_a_record_of_several_lines_with_too_many_fields_is_named_as_a_span(tmp_path: Path) -> None:
    reading = read_text(tmp_path, HEADER + 'n1,t,"a\nb",c\nn2,t,c\n')
    assert [row[0] for row in reading.rows] == ["n2"]
    assert [(r.first, r.last, r.reason) for r in reading.refused] == [(2, 3, "wrong-field-count")]


def test_quotes_escaped_by_backslashes_are_read_and_said(tmp_path: Path) -> None:
    text = HEADER + 'n1,"the \\"best\\" one","line one\nn2,stolen,\\\\ line two"\nn2,real,x\n'
    reading = read_text(tmp_path, text)
    assert reading.rows == [("n1", 'the "best" one', "line one\nn2,stolen,\\ line two"), ("n2", "real", "x")]
    assert reading.refused == []
    assert reading.table.remarks == ['quotes within quotes are written \\", and were read so']


def test_a_backslash_before_a_closing_quote_is_a_backslash_where_quotes_are_doubled(tmp_path: Path) -> None:
    reading = read_text(tmp_path, HEADER + 'n1,"C:\\dir\\","a ""word"""\nn2,t,c\n')
    assert reading.rows == [("n1", "C:\\dir\\", 'a "word"'), ("n2", "t", "c")]
    assert reading.table.remarks == []


def test_a_field_beyond_the_limit_ends_where_its_quotes_do(tmp_path: Path) -> None:
    body = "\n".join(f"n{i},fake,row" for i in range(20_000))
    reading = read_text(tmp_path, HEADER + f'a,t,"{body}\n"\nb,t,c\n')
    assert [row[0] for row in reading.rows] == ["b"]
    assert reading.lines_refused == 20_001


def test_an_endless_line_is_one_problem_and_its_quotes_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("notellm2.notes.rows.MAX_LINE", 50)
    reading = read_text(tmp_path, HEADER + 'a,t,"' + "x" * 200 + '"\nb,t,c\n')
    assert [row[0] for row in reading.rows] == ["b"]
    assert [(refusal.first, refusal.last) for refusal in reading.refused] == [(2, 2)]


def physical_lines(data: bytes) -> int:
    return data.count(b"\n") + (not data.endswith(b"\n") and data != b"")


WORDS = st.text(st.sampled_from('ab,"\\\n é\u2028'), max_size=8)
ROWS = st.lists(st.tuples(st.text("abc", min_size=1, max_size=3), WORDS, WORDS), max_size=12)
STRAY = st.sampled_from(['"', '"x', "\n", ",", '\\"', "\r", "\x00", '",'])


@settings(max_examples=300, deadline=None)
@given(rows=ROWS, strays=st.lists(st.tuples(st.integers(0, 10_000), STRAY), max_size=3))
def test_every_line_of_a_csv_is_accounted_for(rows: Any, strays: Any, tmp_path_factory: pytest.TempPathFactory) -> None:
    sink = io.StringIO(newline="")
    csv.writer(sink, lineterminator="\n").writerows(rows)
    text = sink.getvalue()
    for position, stray in strays:
        at = position % (len(text) + 1)
        text = text[:at] + stray + text[at:]
    data = (HEADER + text).encode()
    reading = read_text(tmp_path_factory.mktemp("csv"), data)
    spans = {line for refusal in reading.refused for line in range(refusal.first, refusal.last + 1)}
    assert len(spans) == reading.lines_refused, "a line is named twice"
    assert not spans & set(reading.positions)
    assert reading.table.length == physical_lines(data)
    # What is neither the header nor refused belongs to the row before it, or is blank.
    begins = sorted({*reading.positions, *spans})
    lines = data.split(b"\n")
    owner = 1
    for number in range(2, physical_lines(data) + 1):
        owner = number if number in begins else owner
        continued = owner in reading.positions
        assert number in spans or continued or not lines[number - 1].strip(b"\r"), (number, text)
    if not strays:
        assert reading.refused == []
        blank = [row for row in rows if not any(row)]
        assert len(reading.rows) == len(rows) - len(blank)


@settings(max_examples=100, deadline=None)
@given(rows=ROWS, broken=st.lists(st.sampled_from(["", "{", "[]", "7", '{"id": "x"', " "]), max_size=4), data=st.data())
def test_every_line_of_json_lines_is_accounted_for(
    rows: Any, broken: Any, data: Any, tmp_path_factory: pytest.TempPathFactory
) -> None:
    lines = [json.dumps(dict(zip(COLUMNS, row, strict=True))) for row in rows] + broken
    lines = ['{"id": "first"}', *data.draw(st.permutations(lines))]
    reading = read_text(tmp_path_factory.mktemp("jsonl"), "\n".join(lines), "notes.jsonl")
    blank = sum(not line.strip() for line in lines)
    assert len(reading.rows) == len(rows) + 1
    assert len(reading.rows) + reading.lines_refused + blank == len(lines)
    named = [*reading.positions, *(refusal.first for refusal in reading.refused)]
    assert len(set(named)) == len(lines) - blank


@settings(max_examples=50, deadline=None)
@given(sizes=st.lists(st.integers(0, 7), min_size=1, max_size=4), pieces=st.integers(1, 5))
def test_every_row_of_parquet_part_files_is_accounted_for(
    sizes: list[int], pieces: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("parquet")
    (folder / "notes.parquet").mkdir()
    for part, size in enumerate(sizes):
        ids = [f"{part}-{row}" for row in range(size)]
        pq.write_table(pa.table({"id": pa.array(ids, pa.string())}), folder / "notes.parquet" / f"part-{part}.parquet")
    reading = Reading(folder, pieces)
    assert len(reading.rows) == sum(sizes) == reading.table.length
    places = [reading.table.place(position) for position in reading.positions]
    expected = [f"notes.parquet/part-{p}.parquet row {row + 1}" for p, size in enumerate(sizes) for row in range(size)]
    assert places == expected


def test_compressed_text_is_read_by_its_name(tmp_path: Path) -> None:
    text = (HEADER + "n1,Größe,c\n").encode()
    zstd = pa.BufferOutputStream()
    with pa.CompressedOutputStream(zstd, "zstd") as sink:
        sink.write(text)
    packed = {"notes.csv.gz": gzip.compress(text), "notes.csv.zst": zstd.getvalue().to_pybytes()}
    for name, data in packed.items():
        assert read_text(tmp_path / name, data, name).rows == [("n1", "Größe", "c")]


def test_a_cut_gzip_is_an_error_of_the_file(tmp_path: Path) -> None:
    data = gzip.compress((HEADER + "n1,a,b\n" * 1000).encode())
    with pytest.raises(InputError, match=r"notes\.csv\.gz: cannot be read"):
        read_text(tmp_path, data[:-30], "notes.csv.gz")
