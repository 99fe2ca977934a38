"""The description of one backup: its manifest and its list of files, as they lie on disk."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict, ValidationError

from notellm2.artifacts import digest_file, digest_json, fsync_path, write_atomic
from notellm2.errors import InputError

FORMAT = 2
"""Of the manifest; 1 held owners and schema revisions of the databases beside, which are not needed to restore it."""
MANIFEST = "manifest.json"
FILES = "files.jsonl"
ADVICE = "restore another backup (`--at NAME`), or bring the file back from a copy of the folder"


class Saved(NamedTuple):
    """One file of a backup, a line of its list.

    Attributes:
        place: name of the storage that the file belongs to.
        name: its path there.
        sha256: of its bytes, hex; the name of its blob.
        size: bytes.
        mark: changes when the file does; where it is the same, the next backup need not read the file again.
        about: metadata of an object in an object store; empty for files.
    """

    place: str
    name: str
    sha256: str
    size: int
    mark: str
    about: Mapping[str, str]


class Beside(BaseModel):
    """A file that lies beside the manifest: its name, the SHA-256 of its bytes (hex), its size in bytes."""

    model_config = ConfigDict(frozen=True)

    file: str
    sha256: str
    size: int

    @classmethod
    def of(cls, path: Path) -> Beside:
        """Describe a file as it is now, flushed to disk."""
        fsync_path(path)
        return cls(file=path.name, sha256=digest_file(path), size=path.stat().st_size)


class Dump(BaseModel):
    """The dump of one database."""

    model_config = ConfigDict(frozen=True)

    database: str
    beside: Beside


class Content(BaseModel):
    """What a backup has of one storage: the folder or URL it was read from, number of files, their bytes."""

    model_config = ConfigDict(frozen=True)

    where: str
    files: int
    size: int


class Manifest(BaseModel):
    """The description of one backup.

    Attributes:
        format: of manifest and folder.
        name: of the backup.
        created: the moment its databases and pointers are of, ISO 8601, UTC.
        seconds: that making it took.
        versions: of notellm2, mlflow, prefect and postgresql when it was made.
        champion: the registered version that was in use; None: nothing was published.
        publication: the published index that was in use.
        databases: the dumps.
        places: what it has of each storage.
        left_out: what is not in it, and why, a line each.
        problems: what was damaged at its source, a line each; empty where all is well.
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
    places: dict[str, Content]
    left_out: tuple[str, ...]
    problems: tuple[str, ...]
    files: Beside
    digest: str = ""

    @property
    def size(self) -> int:
        """Bytes of all that is in it, each content as often as it occurs."""
        return sum(dump.beside.size for dump in self.databases) + sum(place.size for place in self.places.values())


def read_manifest(path: Path) -> Manifest:
    """Read a manifest of this format or the one before.

    Raises:
        InputError: it is damaged, or of a newer format.
    """
    try:
        raw = json.loads(path.read_bytes())
        if isinstance(raw, dict) and isinstance(raw.get("format"), int) and raw["format"] > FORMAT:
            raise InputError(
                f"{path}: format {raw['format']}, this release reads up to {FORMAT}: use the release that wrote it, or "
                "a newer one"
            )
        manifest = Manifest.model_validate(raw)
    except (OSError, ValueError, ValidationError) as error:
        raise InputError(
            f"{path}: not readable as a backup's manifest ({str(error).splitlines()[0]}); {ADVICE}"
        ) from None
    # Of what was read, not of the fields we know: an older format has others.
    if raw.pop("digest") != digest_json(raw):
        raise InputError(f"{path}: was changed since it was written (its digest does not match); {ADVICE}")
    return manifest


def write_manifest(folder: Path, manifest: Manifest) -> Manifest:
    """Write the manifest with its digest, and return that."""
    digest = digest_json(manifest.model_dump(mode="json", exclude={"digest"}))
    sealed = manifest.model_copy(update={"digest": digest})
    write_atomic(folder / MANIFEST, sealed.model_dump_json(indent=2) + "\n")
    return sealed


def write_files(folder: Path, files: Iterable[Saved]) -> Beside:
    """Write the list of a backup's files, a line a file."""
    path = folder / FILES
    with path.open("w") as lines:
        for saved in sorted(files, key=lambda saved: (saved.place, saved.name)):
            lines.write(json.dumps(saved._asdict(), ensure_ascii=False) + "\n")
    return Beside.of(path)
