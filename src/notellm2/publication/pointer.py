"""The published pointer: one small JSON file that says which index and which model version are served.

    <published>/current.json              the pointer, replaced in one step
    <published>/versions/<version>/       immutable; the index artifact's files and publication.json

Readers follow the pointer alone. It names model and index together, so they can never be seen half changed.
`<published>` is a `Location`: a local folder or a prefix on S3.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from notellm2.errors import InputError
from notellm2.index.layout import FILES, FileEntry
from notellm2.publication.location import Location
from notellm2.publication.opening import open_location

POINTER = "current.json"
VERSIONS = "versions"
FORMAT = 2
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
        bundle: digest of that version's bundle, as the vectors carry it.
        data_md5: data version the notes are from.
        index_key: key of the index artifact.
        kind: of the index: "flat", "ivf-fp16", "ivf-sq8", "hnsw".
        dimension: width of a vector.
        count: notes.
        published: when the pointer moved to it (in a version's own record: when it was stored), ISO 8601, UTC.
        files: what each of its files must be.
    """

    version: str
    model_name: str
    model_version: str
    bundle: str
    data_md5: str
    index_key: str
    kind: str
    dimension: int
    count: int
    published: str
    files: Mapping[str, FileEntry]

    def as_json(self) -> dict[str, Any]:
        """Return all of it as plain JSON."""
        plain = {name: getattr(self, name) for name in (*_TEXTS, *_NUMBERS)}
        files = {name: {"sha256": entry.sha256, "bytes": entry.size} for name, entry in self.files.items()}
        return {"format": FORMAT, **plain, "files": files}

    def as_bytes(self) -> bytes:
        """Return all of it as the file that says it."""
        return (json.dumps(self.as_json(), indent=2, sort_keys=True) + "\n").encode()

    @property
    def published_at(self) -> datetime:
        """`published` as a time."""
        return datetime.fromisoformat(self.published)

    @property
    def folder(self) -> str:
        """Where its files are, in its location."""
        return f"{VERSIONS}/{self.version}"


_TEXTS = ("version", "model_name", "model_version", "bundle", "data_md5", "index_key", "kind", "published")
_NUMBERS = ("dimension", "count")


def read_pointer(where: Location | str | os.PathLike[str]) -> Publication:
    """Read which version is published now.

    Raises:
        NothingPublished: there is no pointer.
        PublicationDamaged: the pointer is not readable as one.
        OSError: the location does not answer.
    """
    location = open_location(where)
    stored = location.read(POINTER)
    if stored is None:
        raise NothingPublished(
            f"nothing is published in {location}: a retraining whose gate passes publishes its index "
            "(notellm2 retrain --recipe recipes/sample.yaml)"
        )
    return parse_publication(stored.data, f"{location}/{POINTER}")


def parse_publication(data: bytes, origin: str) -> Publication:
    """Parse a pointer, or a version's own record of the same form.

    Args:
        data: JSON.
        origin: where it was read, for the message.

    Raises:
        PublicationDamaged: it is not readable; names the field.
    """
    try:
        value = json.loads(data)
        if value["format"] != FORMAT:
            raise ValueError(f"format {value['format']!r}, this release reads {FORMAT}")
        texts = {name: _typed(value, name, str) for name in _TEXTS}
        numbers = {name: _typed(value, name, int) for name in _NUMBERS}
        files = {
            str(name): FileEntry(_typed(entry, "sha256", str), _typed(entry, "bytes", int))
            for name, entry in value["files"].items()
        }
        for name in (texts["version"], *files):
            if not _VERSION.match(name):
                raise ValueError(f"{name!r} is no plain name")
        lacking = sorted(set(FILES) - files.keys())
        if lacking:
            raise ValueError(f"it lists no {', '.join(lacking)}")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        what = f"field {error} is missing" if isinstance(error, KeyError) else str(error)
        raise PublicationDamaged(f"{origin}: not readable as a publication ({what}); publish again") from None
    return Publication(**texts, **numbers, files=files)


def _typed(value: Mapping[str, Any], name: str, kind: type) -> Any:
    if not isinstance(value[name], kind):
        raise ValueError(f"field {name!r} is {value[name]!r}, expected {kind.__name__}")
    return value[name]
