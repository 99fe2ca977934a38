"""The two tables of an export: one file each, or a folder of part files as Spark, pandas and DuckDB write it.

Rows of part files follow each other in the order of the files' names (``part-2`` before ``part-10``). Positions count
on from file to file, so that one number names a row of the whole table; `ExportTable.place` turns it into a file and a
row or line again. Folders named ``column=value`` give their files that column.
"""

from __future__ import annotations

import bisect
import re
import urllib.parse
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import pyarrow as pa

from notellm2.errors import InputError
from notellm2.notes.compressed import SUFFIXES
from notellm2.notes.csv_rows import read_csv
from notellm2.notes.json_rows import read_jsonl
from notellm2.notes.parquet_rows import read_parquet
from notellm2.notes.rows import Column, Piece, Refusal, Refuse, SourceFile

KINDS = ("parquet", "csv", "jsonl")

_NULL_PARTITION = "__HIVE_DEFAULT_PARTITION__"
_READERS: dict[str, Callable[[SourceFile, int, Refuse], Iterator[Piece]]] = {
    "parquet": read_parquet,
    "csv": read_csv,
    "jsonl": read_jsonl,
}


@dataclass
class ExportTable:
    """One table of an export.

    Attributes:
        path: its file or folder.
        kind: parquet, csv or jsonl.
        files: its files in order; what each of them ignored is complete once `pieces` is exhausted.
        length: rows (parquet) or lines (text files) of all files read so far.
    """

    path: Path
    kind: str
    files: list[SourceFile]
    length: int = 0
    _starts: list[int] = field(default_factory=list)

    @property
    def ignored(self) -> list[str]:
        """Columns that are not read, each once."""
        return list(dict.fromkeys(name for file in self.files for name in file.ignored))

    @property
    def remarks(self) -> list[str]:
        """What a person should know of how the table was read."""
        parts = [f"a folder, read as one table of {len(self.files)} file(s)"] if self.path.is_dir() else []
        return [*parts, *dict.fromkeys(remark for file in self.files for remark in file.remarks)]

    def place(self, first: int, last: int | None = None) -> str:
        """Name a row or a span of one file for a person: ``notes.csv line 7``, ``notes.csv lines 7 to 9``."""
        index = bisect.bisect_left(self._starts, first) - 1
        start = self._starts[index]
        unit = "row" if self.kind == "parquet" else "line"
        name = self.files[index].path.relative_to(self.path.parent).as_posix()
        if last is None or last == first:
            return f"{name} {unit} {first - start}"
        return f"{name} {unit}s {first - start} to {last - start}"

    def pieces(self, rows: int, refuse: Refuse) -> Iterator[Piece]:
        """Read the rows in file order, at most `rows` at a time; `refuse` is called for rows whose form is wrong.

        Raises:
            InputError: the file as a whole cannot be used: unreadable, a column missing or of the wrong type.
        """
        sizes = [file.path.stat().st_size for file in self.files]
        total, before = sum(sizes) or 1, 0
        for file, size in zip(self.files, sizes, strict=True):
            start = self.length
            self._starts.append(start)
            shift = _shifted(refuse, start)
            with _readable(file.path):
                for piece in _READERS[self.kind](file, rows, shift):
                    positions = [position + start for position in piece.positions] if start else piece.positions
                    yield Piece(positions, _with_constants(file, piece), (before + piece.done * size) / total)
            self.length += file.length
            before += size


def is_export(folder: Path) -> bool:
    """Return whether a folder holds a table of notes in one of the forms that an import reads."""
    return any((folder / name).exists() for name in _names("notes"))


def _names(table: str) -> dict[str, str]:
    """Every name that a table's file or folder may have, and the kind of its files."""
    return {f"{table}.parquet": "parquet"} | {f"{table}.{kind}{e}": kind for kind in KINDS[1:] for e in SUFFIXES}


def find_table(export: Path, name: str, columns: Mapping[str, Column]) -> ExportTable:
    """Find the file or folder of a table in an export.

    Raises:
        InputError: there is none, there are several, or it is a folder without files.
    """
    kinds = _names(name)
    names = [candidate for candidate in kinds if (export / candidate).exists()]
    if len(names) != 1:
        raise InputError(
            f"{export}: expected exactly one of {name}.parquet, {name}.csv and {name}.jsonl (CSV and JSON lines also "
            f"as .gz or .zst), found {', '.join(names) or 'none of them'}"
        )
    path, kind = export / names[0], kinds[names[0]]
    files = [SourceFile(file, columns, _partition(file, path)) for file in _part_files(path)]
    return ExportTable(path, kind, files)


def _part_files(path: Path) -> list[Path]:
    """The file itself, or the files of a folder in natural order; hidden ones and marks such as _SUCCESS are none."""
    if not path.is_dir():
        return [path]
    if (path / "_temporary").exists():
        raise InputError(f"{path}: holds _temporary/, so the job that writes it is not finished; export it again")
    files = [
        file
        for file in path.rglob("*")
        if file.is_file() and not any(part[0] in "._" for part in file.relative_to(path).parts)
    ]
    if not files:
        raise InputError(f"{path}: a folder without files; expected a file, or a folder of part files")
    return sorted(files, key=lambda file: _natural(file.relative_to(path).as_posix()))


def _natural(name: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (0, part) for part in re.split(r"(\d+)", name)]


def _partition(file: Path, table: Path) -> dict[str, str | None]:
    """The columns that the names of a file's folders hold."""
    folders = file.relative_to(table).parts[:-1] if file != table else ()
    pairs = (folder.partition("=") for folder in folders if "=" in folder)
    return {name: None if value == _NULL_PARTITION else urllib.parse.unquote(value) for name, _, value in pairs}


def _with_constants(file: SourceFile, piece: Piece) -> Mapping[str, pa.Array | list[str | None]]:
    constants = {
        name: [value] * len(piece.positions)
        for name, value in file.constants.items()
        if name in file.columns and name not in piece.columns
    }
    return {**piece.columns, **constants}


def _shifted(refuse: Refuse, start: int) -> Refuse:
    def shifted(refusal: Refusal) -> None:
        refuse(replace(refusal, first=refusal.first + start, last=refusal.last + start))

    return shifted


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, EOFError, zlib.error, pa.ArrowException) as error:
        raise InputError(f"{path}: cannot be read: {error}; export it again") from error
