"""Import of the plain export layout into a data set.

An export is a folder with ``notes.{parquet,csv,jsonl}``, ``interactions.{parquet,csv,jsonl}`` and the images as
``images/``, ``images.tar`` (also ``.tar.gz``, ``.tgz``) or ``images.zip``.

notes: ``note_id``; optional ``title``, ``topics`` (a list, or one text joined by ``|``), ``content``, ``image_path``
(``images/12.jpg`` or ``12.jpg``), ``category`` (where empty the first of ``genres``), ``created_at``.
interactions: ``user_id``, ``note_id``, ``timestamp``; optional ``event`` (else every row is a ``click``).
Times are Unix seconds, ISO 8601 text (UTC unless it names an offset) or typed columns; ids text or whole numbers. Other
columns are not read, and the report says so. Rows keep their order, since the evaluation protocols depend on it.

A problem of a row or an image never stops an import and is never passed over: it is counted, its place is reported,
and it is written to ``quarantine.jsonl`` in the data set. A problem of a whole file is an `InputError`, and then
nothing is written. Memory is bounded by a row group (16 MiB of notes) and the ids of the notes, not by the export.
Measured: 10,177 notes with 64 MB of images and 391,685 interactions take 4 s on one core and 233 MB.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from notellm2.artifacts import write_atomic
from notellm2.errors import InputError
from notellm2.notes import behaviour, fields, replace
from notellm2.notes.archive import Images, find_images, open_images
from notellm2.notes.dataset import INFO, DatasetInfo
from notellm2.notes.fields import FieldProblem
from notellm2.notes.images import ImageProblem, decode_image
from notellm2.notes.quarantine import QUARANTINE, Kind, Problem, Quarantine
from notellm2.notes.rows import Column, Piece, Refusal
from notellm2.notes.shards import InteractionShards, NoteShards
from notellm2.notes.tables import ExportTable, find_table
from notellm2.printable import printable
from notellm2.recipe import ImageLimits

COLUMNS = {
    "note_id": Column(("text", "integer"), required=True),
    "title": Column(("text",)),
    "topics": Column(("text", "list")),
    "content": Column(("text",)),
    "image_path": Column(("text",)),
    "category": Column(("text",)),
    "genres": Column(("text", "list")),
    "created_at": Column(("text", "time")),
}
"""Columns of the notes' table; the first of ``genres`` is the category of a row without ``category``."""

_LISTS = ("topics", "genres")
_NOTES_AT_ONCE = 512
_INTERACTIONS_AT_ONCE = 64 * 1024

Advance = Callable[[float], None]


@dataclass(frozen=True)
class ImportReport:
    """What came of an import.

    Attributes:
        into: the data set.
        info: its description: counts, time span, quarantined by reason.
        locations: reason to its first places, at most ten.
        unshown: reason to number of rows, images or members at further places.
        details: reason to what is wrong with its first row, image or member.
        ignored: file to its columns that were not read.
        remarks: file to what a person should know of how it was read.
        seconds: wall time.
    """

    into: Path
    info: DatasetInfo
    locations: dict[str, list[str]] = field(default_factory=dict)
    unshown: dict[str, int] = field(default_factory=dict)
    details: dict[str, str] = field(default_factory=dict)
    ignored: dict[str, list[str]] = field(default_factory=dict)
    remarks: dict[str, list[str]] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def quarantined(self) -> dict[str, int]:
        """Reason to number of rows, images or archive members set aside."""
        return self.info.quarantined

    def render(self) -> str:
        """Format the report as plain text for a terminal."""
        info = self.info
        span = f", {info.first_interaction} to {info.last_interaction}" if info.first_interaction else ""
        lines = [
            f"Imported {printable(info.name)} into {self.into} in {self.seconds:.1f} s",
            f"  {info.notes:,} notes, {info.notes_with_image:,} with an image",
            f"  {info.interactions:,} interactions{span}",
        ]
        lines += [f"  {file}: {remark}" for file, remarks in self.remarks.items() for remark in remarks]
        lines += [f"  {file}: not read: {printable(', '.join(names))}" for file, names in self.ignored.items() if names]
        if self.quarantined:
            lines.append(
                f"  {sum(self.quarantined.values()):,} set aside, details in {self.into / QUARANTINE} "
                "(a note whose image is set aside stays, without image)"
            )
            for reason, count in self.quarantined.items():
                places = self.locations.get(reason, [])
                more = f" and {self.unshown[reason]:,} more" if self.unshown.get(reason) else ""
                lines.append(f"    {reason}: {count:,}: {printable('; '.join(places))}{more}")
                if reason in self.details:
                    lines.append(f"      the first: {printable(self.details[reason])}")
        else:
            lines.append("  nothing set aside")
        return "\n".join(lines)


def import_export(
    export: Path,
    into: Path,
    *,
    limits: ImageLimits,
    name: str | None = None,
    licence: str | None = None,
    progress: bool = True,
) -> ImportReport:
    """Import a plain export; `into` is replaced in one step when the new data set is complete.

    Args:
        export: the export's folder.
        into: the data set to write: missing, empty, or a data set to replace.
        limits: bounds of the images.
        name: of the data set; None: the export folder's name.
        licence: of the data; None: "not stated".
        progress: show a progress bar where the terminal can.

    Raises:
        InputError: the export as a whole cannot be used, or `into` is something else than a data set; `into` is then
            as it was.
    """
    started = time.monotonic()
    target = _target(export, into)
    notes = find_table(export, "notes", COLUMNS)
    interactions = find_table(export, "interactions", behaviour.COLUMNS)
    images = find_images(export)
    with replace.building(target) as directory:
        with Quarantine(directory / QUARANTINE) as quarantine, _bars(progress) as bar:
            with_image, note_ids = _import_notes(notes, images, directory, quarantine, limits, bar("notes"))
            count, span = _import_interactions(interactions, note_ids, directory, quarantine, bar("interactions"))
        info = DatasetInfo(
            name=name or export.resolve().name,
            licence=licence or "not stated",
            source="plain export: " + ", ".join(path.name for path in (notes.path, interactions.path, images) if path),
            notes=len(note_ids),
            notes_with_image=with_image,
            interactions=count,
            first_interaction=_iso(span[0]),
            last_interaction=_iso(span[1]),
            quarantined=dict(sorted(quarantine.counts.items())),
        )
        write_atomic(directory / INFO, info.model_dump_json(indent=2) + "\n")
        replace.publish(directory, target)
    return ImportReport(
        into,
        info,
        quarantine.locations,
        unshown=dict(quarantine.unshown),
        details={problem.reason: problem.detail for problem in reversed(quarantine.reasons())},
        ignored={table.path.name: table.ignored for table in (notes, interactions)},
        remarks={table.path.name: table.remarks for table in (notes, interactions)},
        seconds=time.monotonic() - started,
    )


def _target(export: Path, into: Path) -> Path:
    """The directory to write, free of links, after checking that writing there destroys nothing else."""
    if not export.is_dir():
        raise InputError(f"{export}: no such folder; an export is a folder with notes, interactions and images")
    target = into.resolve()
    if target.exists() and not target.is_dir():
        raise InputError(f"{into}: a file; expected a folder for the data set")
    if target.is_dir() and any(target.iterdir()) and not (target / INFO).is_file():
        raise InputError(f"{into}: not empty and no data set (no {INFO}); name another folder")
    if export.resolve().is_relative_to(target):
        raise InputError(f"{export}: lies inside {into}, which the import would replace; name another folder")
    return target


def _import_notes(
    table: ExportTable, images: Path | None, directory: Path, quarantine: Quarantine, limits: ImageLimits, done: Advance
) -> tuple[int, pa.Array]:
    """Write the notes' shards; the number of notes with an image, and the ids."""

    refuse = _refusing("note", table, quarantine)
    seen: dict[str, int] = {}
    lists: Counter[str] = Counter()
    with_image = 0
    with _images(images, limits, directory.parent) as source, NoteShards(directory / "notes") as shards:
        for piece in table.pieces(_NOTES_AT_ONCE, refuse):
            for position, raw in _records(piece):
                lists.update(name for name in _LISTS if fields.is_listed(raw.get(name)))
                try:
                    note = _note(raw)
                except FieldProblem as problem:
                    place = table.place(position)
                    quarantine.add(Problem("note", problem.reason, place, problem.detail, _id(raw)))
                    continue
                path, identifier = note.pop("image_path"), note["note_id"]
                if identifier in seen:
                    first = f"first at {table.place(seen[identifier])}, which stays"
                    quarantine.add(Problem("note", "duplicate-id", table.place(position), first, identifier))
                    continue
                seen[identifier] = position
                note["image"] = None
                if path:
                    place = table.place(position)
                    if source is None:
                        raise InputError(
                            f"{table.path.parent}: {place} names the image {path!r}, but there is no folder images/, "
                            "images.tar or images.zip; add it, or leave out the column image_path"
                        )
                    note["image"] = _image(source, path, place, identifier, quarantine, limits)
                with_image += note["image"] is not None
                shards.add(note)
            done(piece.done)
        for location, reason, detail in source.remaining() if source else ():
            quarantine.add(Problem("archive", reason, location, detail))
    table.files[0].remarks += [
        f"{name}: the text of a list (such as ['a', 'b']) in {rows:,} row(s), read as that list"
        for name, rows in lists.items()
    ]
    if not seen:
        raise InputError(f"{table.path}: no usable note{_reasons(quarantine, 'note')}")
    return with_image, pa.array(list(seen), pa.string())


def _import_interactions(
    table: ExportTable, note_ids: pa.Array, directory: Path, quarantine: Quarantine, done: Advance
) -> tuple[int, tuple[int | None, int | None]]:
    """Write the interactions' shards; their number, and the first and last time in microseconds."""

    refuse = _refusing("interaction", table, quarantine)
    count = 0
    first: int | None = None
    last: int | None = None
    with InteractionShards(directory / "interactions") as shards:
        for piece in table.pieces(_INTERACTIONS_AT_ONCE, refuse):
            rows, problems = behaviour.read_interactions(piece, note_ids)
            for problem in problems:
                place = table.place(problem.position)
                quarantine.add(Problem("interaction", problem.reason, place, problem.detail, problem.identifier))
            if rows.num_rows:
                shards.add(rows)
                count += rows.num_rows
                times = pc.min_max(rows.column("timestamp").cast(pa.int64())).as_py()
                first = times["min"] if first is None else min(first, times["min"])
                last = times["max"] if last is None else max(last, times["max"])
            done(piece.done)
    if not count:
        raise InputError(f"{table.path}: no usable interaction{_reasons(quarantine, 'interaction')}")
    return count, (first, last)


@contextmanager
def _images(path: Path | None, limits: ImageLimits, spool: Path) -> Iterator[Images | None]:
    if path is None:
        yield None
    else:
        with open_images(path, limits, spool) as images:
            yield images


def _image(
    source: Images, path: str, place: str, identifier: str, quarantine: Quarantine, limits: ImageLimits
) -> dict[str, Any] | None:
    """A note's image as the schema has it; None, and set aside, if it cannot be used."""
    try:
        data = source.read(path)
        decode_image(data, limits)
    except ImageProblem as problem:
        location = f"{place}, {source.name}: {path}"
        quarantine.add(Problem("image", problem.reason, location, problem.detail, identifier))
        return None
    return {"bytes": data, "path": path}


def _records(piece: Piece) -> Iterator[tuple[int, dict[str, Any]]]:
    """Rows as dictionaries of raw values, each with its position."""
    names = list(piece.columns)
    columns = [behaviour.raw_values(piece.columns[name]) for name in names]
    for position, *row in zip(piece.positions, *columns, strict=True):
        yield position, dict(zip(names, row, strict=True))


def _note(raw: dict[str, Any]) -> dict[str, Any]:
    """The columns of `schema.NOTES` but for the image, and image_path."""
    category = fields.text(raw.get("category"), "category").strip()
    return {
        "note_id": fields.identifier(raw.get("note_id"), "note_id"),
        "title": fields.text(raw.get("title"), "title"),
        "topics": fields.topics(raw.get("topics")),
        "content": fields.text(raw.get("content"), "content"),
        "category": category or next(iter(fields.topics(raw.get("genres"), "genres")), None),
        "created_at": fields.moment(raw.get("created_at"), "created_at"),
        "image_path": fields.text(raw.get("image_path"), "image_path").strip(),
    }


def _id(raw: dict[str, Any]) -> str | None:
    try:
        return fields.identifier(raw.get("note_id"), "note_id")
    except FieldProblem:
        return None


def _reasons(quarantine: Quarantine, kind: Kind) -> str:
    """Why nothing of a table was left, for a message: each reason with its count, first place and first detail."""
    parts = [f"\n  {p.reason} {p.lines:,}: {printable(f'{p.location}: {p.detail}')}" for p in quarantine.reasons(kind)]
    return "".join([", set aside were:", *parts]) if parts else "; the table has no rows"


def _refusing(kind: Kind, table: ExportTable, quarantine: Quarantine) -> Callable[[Refusal], None]:
    """A function that sets aside what a reader refuses."""

    def refuse(refusal: Refusal) -> None:
        place = table.place(refusal.first, refusal.last)
        quarantine.add(Problem(kind, refusal.reason, place, refusal.detail, lines=refusal.lines))

    return refuse


def _iso(micros: int | None) -> str | None:
    return None if micros is None else (fields.EPOCH + timedelta(microseconds=micros)).isoformat()


@contextmanager
def _bars(wanted: bool) -> Iterator[Callable[[str], Advance]]:
    """Progress bars on standard error, one a table; silent where that is no terminal."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    with Progress(
        *columns, TimeRemainingColumn(), console=console, disable=not (wanted and console.is_terminal)
    ) as bars:

        def bar(title: str) -> Advance:
            task = bars.add_task(f"importing {title}", total=1.0)

            def advance(done: float) -> None:
                bars.update(task, completed=done)

            return advance

        yield bar
