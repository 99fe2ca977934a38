"""The published pointer: one small JSON file that says which index and which model version are served.

    <published>/current.json              the pointer, replaced by one rename
    <published>/versions/<version>/       immutable; the index artifact's files and publication.json

Readers follow the pointer alone. It names model and index together, so they can never be seen half changed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from notellm2.errors import InputError
from notellm2.index.layout import FILES, FileEntry

POINTER = "current.json"
VERSIONS = "versions"
PUBLICATION = "publication.json"
FORMAT = 1
# A directory's name and nothing that could lead elsewhere: the pointer may have been damaged.
_VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*\Z")


class NothingPublished(InputError):
    """No index has been published there yet."""


class PublicationDamaged(InputError):
    """The pointer, or a file of the version it names, is missing or not what was published."""


@dataclass(frozen=True)
class Publication:
    """One published pair of model version and index.

    Attributes:
        version: name of its directory under ``versions/``.
        model_name: registered model.
        model_version: its version, which embedded the notes.
        data_md5: data version the notes are from.
        index_key: key of the index artifact.
        kind: of the index: "flat", "ivf-sq8", "hnsw".
        dimension: width of a vector.
        count: notes.
        published: when the pointer moved to it, ISO 8601, UTC.
        files: what each of its files must be.
        history: versions that were current, the newest (this one) first; those kept for rollback.
    """

    version: str
    model_name: str
    model_version: str
    data_md5: str
    index_key: str
    kind: str
    dimension: int
    count: int
    published: str
    files: Mapping[str, FileEntry]
    history: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """All of it as plain JSON."""
        plain = {name: getattr(self, name) for name in (*_TEXTS, *_NUMBERS)}
        files = {name: {"sha256": entry.sha256, "bytes": entry.size} for name, entry in self.files.items()}
        return {"format": FORMAT, **plain, "files": files, "history": list(self.history)}

    def directory(self, published: Path) -> Path:
        """Where its files are."""
        return published / VERSIONS / self.version


_TEXTS = ("version", "model_name", "model_version", "data_md5", "index_key", "kind", "published")
_NUMBERS = ("dimension", "count")


def read_pointer(published: Path) -> Publication:
    """What is published now.

    Raises:
        NothingPublished: there is no pointer.
        PublicationDamaged: the pointer is not readable as one.
    """
    path = published / POINTER
    try:
        return read_publication(path)
    except FileNotFoundError:
        raise NothingPublished(
            f"nothing is published in {published}: a retraining whose gate passes publishes its index "
            "(python -m flows.retrain --recipe recipes/sample.yaml)"
        ) from None


def read_publication(path: Path) -> Publication:
    """A pointer, or a version's own record of the same form.

    Raises:
        FileNotFoundError: there is no such file.
        PublicationDamaged: it is not readable; names the field.
    """
    try:
        value = json.loads(path.read_bytes())
        if value["format"] != FORMAT:
            raise ValueError(f"format {value['format']!r}, this release reads {FORMAT}")
        texts = {name: _typed(value, name, str) for name in _TEXTS}
        numbers = {name: _typed(value, name, int) for name in _NUMBERS}
        files = {
            str(name): FileEntry(_typed(entry, "sha256", str), _typed(entry, "bytes", int))
            for name, entry in value["files"].items()
        }
        history = tuple(value["history"])
        for name in (texts["version"], *history, *files):
            if not _VERSION.match(name):
                raise ValueError(f"{name!r} is no plain name")
        lacking = sorted(set(FILES) - files.keys())
        if lacking:
            raise ValueError(f"it lists no {', '.join(lacking)}")
    except FileNotFoundError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        what = f"field {error} is missing" if isinstance(error, KeyError) else str(error)
        raise PublicationDamaged(
            f"{path}: not readable as a publication ({what}); publish again, or restore the file"
        ) from None
    return Publication(**texts, **numbers, files=files, history=history)


def _typed(value: Mapping[str, Any], name: str, kind: type) -> Any:
    if not isinstance(value[name], kind):
        raise ValueError(f"field {name!r} is {value[name]!r}, expected {kind.__name__}")
    return value[name]
