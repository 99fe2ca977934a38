"""Read small parts of a stored version without opening it for search: no FAISS, no local copy."""

from __future__ import annotations

import hashlib
import io

import numpy as np

from notellm2.index.layout import IDS, NoteIds
from notellm2.publication.location import Location
from notellm2.publication.pointer import Publication, PublicationDamaged


def stored_ids(location: Location, publication: Publication) -> NoteIds:
    """Read the note ids of a stored version into memory: some 10 bytes a note and their texts.

    Raises:
        PublicationDamaged: a file is missing or not what was published; names it.
        OSError: the location does not answer.
    """
    arrays = []
    for name in IDS:
        path = f"{publication.folder}/{name}"
        stored = location.read(path)
        if stored is None or hashlib.sha256(stored.data).hexdigest() != publication.files[name].sha256:
            raise PublicationDamaged(f"{location}/{path}: {'missing' if stored is None else 'not what was published'}")
        arrays.append(np.load(io.BytesIO(stored.data), allow_pickle=False))
    return NoteIds(*arrays)
