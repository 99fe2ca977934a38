"""Small plain exports for tests, in every form an export can have."""

from __future__ import annotations

import csv
import gzip
import io
import json
import shutil
import tarfile
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

NOTES: list[dict[str, Any]] = [
    {"note_id": f"n{i}", "title": f"Title {i}", "topics": f"one|topic {i}", "content": f'Über {i}, "so"\nnew line'}
    | {"image_path": f"images/n{i}.png", "category": "food" if i % 2 else None, "created_at": 1_700_000_000 + i}
    for i in range(6)
]
INTERACTIONS: list[dict[str, Any]] = [
    {
        "user_id": f"u{i % 4}",
        "note_id": f"n{i % 6}",
        "event": "like" if i % 3 else "view",
        "timestamp": 1_700_000_000 + i,
    }
    for i in range(20)
]


def encoded(kind: str = "PNG", size: tuple[int, int] = (8, 6), colour: Any = (200, 30, 60), mode: str = "RGB") -> bytes:
    """An image file of one colour."""
    sink = io.BytesIO()
    Image.new(mode, size, colour).save(sink, kind)
    return sink.getvalue()


def picture(seed: int = 0, kind: str = "PNG", size: tuple[int, int] = (32, 32)) -> bytes:
    """An image file with structure, so that cutting it loses pixels."""
    sink = io.BytesIO()
    image = Image.radial_gradient("L").resize(size).rotate(17 * seed)
    Image.merge("RGB", (image, image.rotate(90), image.rotate(45))).save(sink, kind)
    return sink.getvalue()


def images_of(notes: Iterable[Mapping[str, Any]]) -> dict[str, bytes]:
    """A sound picture for every note that names one."""
    return {note["image_path"]: picture(seed) for seed, note in enumerate(notes) if note.get("image_path")}


def write_export(
    folder: Path,
    notes: Sequence[Mapping[str, Any]] = NOTES,
    interactions: Sequence[Mapping[str, Any]] = INTERACTIONS,
    images: Mapping[str, bytes] | None = None,
    *,
    tables: str = "jsonl",
    archive: str = "images",
) -> Path:
    """Write an export; `images` None: a sound picture for every note that names one."""
    folder.mkdir(parents=True, exist_ok=True)
    write_table(folder / f"notes.{tables}", notes)
    write_table(folder / f"interactions.{tables}", interactions)
    write_images(folder / archive, images_of(notes) if images is None else images)
    return folder


def write_table(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Rows as parquet, CSV or JSON lines by the file's name."""
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist([dict(row) for row in rows]), path)
    elif path.suffix == ".csv":
        with path.open("w", newline="") as handle:
            writer = csv.DictWriter(handle, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    else:
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def write_images(path: Path, images: Mapping[str, bytes]) -> None:
    """Images as a folder, tar, gzipped tar or zip by the path's name; names as given, inside."""
    if not images:
        return
    if path.suffix == "":
        for name, data in images.items():
            file = path / name.removeprefix("images/")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(data)
    elif path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as archive:
            for name, data in images.items():
                archive.writestr(name, data)
    else:
        plain = path.with_name(path.name + ".plain")
        with tarfile.open(plain, "w") as tar:
            for name, data in images.items():
                add_member(tar, name, data)
        if path.suffix == ".tar":
            plain.rename(path)
        else:
            with plain.open("rb") as source, gzip.open(path, "wb") as sink:
                shutil.copyfileobj(source, sink)
            plain.unlink()


def add_member(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    """Append a regular member."""
    member = tarfile.TarInfo(name)
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))
