"""What a backup consists of, as it is written down."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict

from notellm2.artifacts import digest_file, digest_json, fsync_path, write_atomic

FORMAT = 1
MANIFEST = "manifest.json"
FILES = "files.jsonl"


class Saved(NamedTuple):
    """A file of a backup.

    Attributes:
        place: which of the backup's places it belongs to.
        name: its path there.
        sha256: of its bytes, hex; the name of its blob.
        size: bytes.
        mark: changes when the file does; where it is the same, the next backup need not read the file again.
        about: what an object store says of it beside its bytes (metadata); empty for files.
    """

    place: str
    name: str
    sha256: str
    size: int
    mark: str
    about: Mapping[str, str]


class Beside(BaseModel):
    """A file that lies beside the manifest.

    Attributes:
        file: its name.
        sha256: of its bytes, hex.
        size: bytes.
    """

    model_config = ConfigDict(frozen=True)

    file: str
    sha256: str
    size: int

    @classmethod
    def of(cls, path: Path) -> Beside:
        """A file as it is now, flushed to disk."""
        fsync_path(path)
        return cls(file=path.name, sha256=digest_file(path), size=path.stat().st_size)


class Dump(BaseModel):
    """A database of a backup.

    Attributes:
        database: its name.
        owner: the role that owns it.
        schemas: revision of its tables by the name of the table that alembic keeps it in.
        beside: the dump.
    """

    model_config = ConfigDict(frozen=True)

    database: str
    owner: str
    schemas: dict[str, str]
    beside: Beside


class PlaceSummary(BaseModel):
    """What a backup has of a place.

    Attributes:
        where: the folder or URL it was read from.
        files: their number.
        size: their bytes.
    """

    model_config = ConfigDict(frozen=True)

    where: str
    files: int
    size: int


class Manifest(BaseModel):
    """What a backup is.

    Attributes:
        format: of manifest and folder.
        name: of the backup.
        created: the moment its databases and pointers are of, ISO 8601, UTC.
        seconds: that making it took.
        versions: of what it was made with and from: notellm2, mlflow, prefect, postgresql.
        champion: the registered version that was in use; None: nothing was published.
        publication: the published index that was in use.
        databases: the dumps.
        places: by name.
        left_out: what is not in it, and why, a line each.
        problems: what could not be saved whole, a line each; empty where all is well.
        files: the list of files.
        digest: of all the above.
    """

    model_config = ConfigDict(frozen=True)

    format: int = FORMAT
    name: str
    created: str
    seconds: float
    versions: dict[str, str]
    champion: str | None
    publication: str | None
    databases: tuple[Dump, ...]
    places: dict[str, PlaceSummary]
    left_out: tuple[str, ...]
    problems: tuple[str, ...]
    files: Beside
    digest: str = ""

    def sealed(self) -> Manifest:
        """The same with its digest."""
        return self.model_copy(update={"digest": self._expected()})

    @property
    def is_sound(self) -> bool:
        """Whether no field was changed since it was sealed."""
        return self.digest == self._expected()

    @property
    def size(self) -> int:
        """Bytes of all that is in it, each content as often as it occurs."""
        dumps = sum(dump.beside.size for dump in self.databases)
        return dumps + sum(place.size for place in self.places.values())

    def _expected(self) -> str:
        return digest_json(self.model_dump(mode="json", exclude={"digest"}))


def write_files(folder: Path, files: Sequence[Saved]) -> Beside:
    """Write the list of a backup's files; see the module."""
    path = folder / FILES
    with path.open("w") as lines:
        for saved in sorted(files, key=lambda saved: (saved.place, saved.name)):
            lines.write(json.dumps(saved._asdict(), ensure_ascii=False) + "\n")
    return Beside.of(path)


def write_manifest(folder: Path, manifest: Manifest) -> Manifest:
    """Seal the manifest and write it."""
    sealed = manifest.sealed()
    write_atomic(folder / MANIFEST, sealed.model_dump_json(indent=2) + "\n")
    return sealed
