"""What there is to back up: where the databases, files and pointers of one set-up are."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from notellm2.errors import InputError
from notellm2.promotion.journal import JOURNAL
from notellm2.promotion.ledger import LEDGER
from notellm2.publication.location import Location
from notellm2.publication.pointer import POINTER, VERSIONS, parse_publication
from notellm2.stack.backup.databases import Server
from notellm2.stack.backup.places import Place, Sort
from notellm2.workspace import Workspace

POINTERS = (LEDGER, JOURNAL, POINTER)
"""The small objects of the published place that change, in the order of a restore: what readers follow comes last."""
PUBLISHED = "published"
"""Name, in a backup, of the place that holds `POINTERS` and nothing else."""

PINS = "pins"
"""Name of the place that holds the data versions' pins: DVC's pointer files and settings, which lie in the project."""
DVC = "dvc-"
"""Names of places that begin so hold what DVC keeps, by its content."""


@dataclass(frozen=True)
class Installation:
    """One set-up.

    Attributes:
        server: of the databases.
        databases: their names.
        places: of files, by name; none holds the `POINTERS`.
        workspace: the store; held while it is written to.
        published: where readers look.
        folder: of published versions in one of the places: its name, and what names begin with there.
        left_out: what is known to be there and in no place, with the reason, a line each.
    """

    server: Server
    databases: tuple[str, ...]
    places: Mapping[str, Place]
    workspace: Workspace
    published: Location
    folder: tuple[str, str]
    left_out: tuple[str, ...] = field(default=())


def published_files(prefix: str) -> Sort:
    """Sorts the files of a place that holds published versions: each is a group, the pointers belong elsewhere.

    Args:
        prefix: what names begin with in the published place.
    """

    def sort(name: str) -> str | None:
        below = name.removeprefix(prefix) if name.startswith(prefix) else ""
        if below in POINTERS:
            return None
        top, _, rest = below.partition("/")
        return f"{prefix}{top}/{rest.partition('/')[0]}" if top == VERSIONS and rest else ""

    return sort


def in_use(pointers: Mapping[str, bytes], origin: str) -> tuple[str | None, str | None]:
    """Registered version and published index that a pointer names; none where there is no pointer.

    Raises:
        PublicationDamaged: the pointer is not readable.
    """
    if POINTER not in pointers:
        return None, None
    publication = parse_publication(pointers[POINTER], origin)
    return publication.model_version, publication.version


def without_lease(journal: bytes, origin: str) -> bytes:
    """The promotion's journal as it is while nobody holds the lease; an intent that a killed one left stays.

    Raises:
        InputError: it is no journal.
    """
    try:
        return json.dumps({**json.loads(journal), "lease": None}, indent=2).encode() + b"\n"
    except (ValueError, TypeError) as error:
        raise InputError(f"{origin}: not readable as the promotion's journal ({error})") from None
