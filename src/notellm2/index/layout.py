"""Describe an index on disk: its files, their checksums, and the note ids beside it. Needs only numpy.

An index directory holds

    index.faiss                       the FAISS index; row i of it is note i
    ids.bytes.npy                     uint8[total bytes]: all note ids as UTF-8, one after the other, in row order
    ids.offsets.npy                   int64[N + 1]: id i is bytes[offsets[i]:offsets[i + 1]]
    ids.order.npy                     int64[N]: rows in the order of their ids' bytes
    meta.json                         kind, factory, dimension, metric, count, parameters, bundle, origin, checksums
    validation.json                   what was measured before it was let out
    titles.bytes.npy, titles.offsets.npy              the notes' titles in the same form, where the recipe wants them
    semantic_ids.parquet, semantic_codebooks.npy      where the recipe asks for them, see `semantic`

Ids are strings of any characters, so no separator is safe: offsets are. Three plain arrays instead of one list
because they can be memory-mapped: nothing is parsed at opening, whatever the number of notes, an id is looked up by
bisection over `order`, and the neighbours of an unknown id in that order are the hints for a mistyped one. FAISS knows
int64 rows only.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from notellm2.errors import InputError

INDEX = "index.faiss"
IDS_BYTES = "ids.bytes.npy"
IDS_OFFSETS = "ids.offsets.npy"
IDS_ORDER = "ids.order.npy"
IDS = (IDS_BYTES, IDS_OFFSETS, IDS_ORDER)
META = "meta.json"
VALIDATION = "validation.json"
FILES = (INDEX, *IDS, META, VALIDATION)
SEMANTIC_IDS = "semantic_ids.parquet"
SEMANTIC_CODEBOOKS = "semantic_codebooks.npy"
TITLES_BYTES = "titles.bytes.npy"
TITLES_OFFSETS = "titles.offsets.npy"
TITLES = (TITLES_BYTES, TITLES_OFFSETS)
EXTRA_FILES = (SEMANTIC_IDS, SEMANTIC_CODEBOOKS, *TITLES)
"""Published with an index where the recipe asks for them; an index is whole without them."""


class IndexInvalid(InputError):
    """An index, or its input, failed a check and must not be published; the message has the numbers."""


@dataclass(frozen=True)
class FileEntry:
    """What a file must be.

    Attributes:
        sha256: of its bytes, hex.
        size: bytes.
    """

    sha256: str
    size: int

    @classmethod
    def of(cls, path: Path) -> FileEntry:
        """Describe a file as it is now."""
        with path.open("rb") as handle:
            return cls(hashlib.file_digest(handle, "sha256").hexdigest(), path.stat().st_size)


def damage(directory: Path, files: Mapping[str, FileEntry]) -> list[str]:
    """List what is wrong with the files of a directory, one line a file; empty when nothing is.

    Reads every byte: 0.1 s for 136 MB (530,000 x 64 float32) from the page cache.
    """
    problems = []
    for name, expected in sorted(files.items()):
        path = directory / name
        try:
            size = path.stat().st_size
            if size != expected.size:
                problems.append(f"{path}: {size} bytes, expected {expected.size}")
            elif FileEntry.of(path).sha256 != expected.sha256:
                problems.append(f"{path}: its bytes do not match their sha256 {expected.sha256[:12]}...")
        except FileNotFoundError:
            problems.append(f"{path}: missing")
    return problems


class NoteIds(Sequence[str]):
    """The note ids of an index, by row and by id, over memory-mapped arrays.

    Args:
        encoded: uint8[total bytes].
        offsets: int64[N + 1].
        order: int64[N].
    """

    def __init__(
        self, encoded: npt.NDArray[np.uint8], offsets: npt.NDArray[np.int64], order: npt.NDArray[np.int64]
    ) -> None:
        self._encoded = encoded
        self._offsets = offsets
        self._order = order

    @classmethod
    def of(cls, ids: Sequence[str]) -> NoteIds:
        """Hold ids in memory.

        Raises:
            IndexInvalid: an id is empty, is no text, or occurs twice; names rows.
        """
        parts: list[bytes] = []
        for row, note_id in enumerate(ids):
            if not isinstance(note_id, str) or not note_id:
                raise IndexInvalid(f"note id of row {row}: expected a non-empty string, got {note_id!r}")
            try:
                parts.append(note_id.encode())
            except UnicodeEncodeError as error:
                raise IndexInvalid(f"note id of row {row}: {note_id!r} is not valid Unicode text ({error})") from None
        offsets = np.zeros(len(parts) + 1, np.int64)
        np.cumsum([len(part) for part in parts], out=offsets[1:])
        order = sorted(range(len(parts)), key=parts.__getitem__)
        for before, after in itertools.pairwise(order):
            if parts[before] == parts[after]:
                raise IndexInvalid(f"note id {ids[before]!r} occurs twice (rows {before} and {after}): ids are unique")
        return cls(np.frombuffer(b"".join(parts), np.uint8), offsets, np.asarray(order, np.int64))

    @classmethod
    def open(cls, directory: Path) -> NoteIds:
        """Open the ids of an index directory, memory-mapped.

        Raises:
            OSError, ValueError: a file is missing or is no such array.
        """
        # numpy cannot map an empty file's body; an index never has no ids, so there is nothing to special-case.
        encoded, offsets, order = (np.load(directory / name, mmap_mode="r", allow_pickle=False) for name in IDS)
        if encoded.dtype != np.uint8 or offsets.dtype != np.int64 or order.dtype != np.int64:
            raise ValueError(f"{directory}: ids have types {encoded.dtype}, {offsets.dtype}, {order.dtype}")
        if len(offsets) != len(order) + 1 or offsets[0] != 0 or offsets[-1] != len(encoded):
            raise ValueError(f"{directory}: the three ids files do not belong together")
        return cls(encoded, offsets, order)

    def save(self, directory: Path) -> None:
        """Write the three files."""
        np.save(directory / IDS_BYTES, self._encoded, allow_pickle=False)
        np.save(directory / IDS_OFFSETS, self._offsets, allow_pickle=False)
        np.save(directory / IDS_ORDER, self._order, allow_pickle=False)

    def __len__(self) -> int:
        return len(self._order)

    def __getitem__(self, row: int) -> str:  # type: ignore[override]  # by row only: nobody slices ids
        return self._bytes(row).decode()

    def row(self, note_id: str) -> int | None:
        """Find the row of a note, or None if the index lacks it; about 20 comparisons for a million notes."""
        try:
            wanted = note_id.encode()
        except UnicodeEncodeError:
            return None
        position = self._position(wanted)
        if position < len(self) and self._bytes(int(self._order[position])) == wanted:
            return int(self._order[position])
        return None

    def near(self, note_id: str, count: int = 3) -> list[str]:
        """List the ids around the position of an unknown id: those that share its longest beginning."""
        position = self._position(note_id.encode(errors="replace"))
        first = max(0, min(position - count // 2, len(self) - count))
        return [self[int(row)] for row in self._order[first : first + count]]

    def _bytes(self, row: int) -> bytes:
        if not 0 <= row < len(self):
            raise IndexError(f"row {row} of {len(self)}")
        return self._encoded[self._offsets[row] : self._offsets[row + 1]].tobytes()

    def _position(self, wanted: bytes) -> int:
        low, high = 0, len(self)
        while low < high:
            middle = (low + high) // 2
            if self._bytes(int(self._order[middle])) < wanted:
                low = middle + 1
            else:
                high = middle
        return low


class Titles:
    """The titles of an index's notes, by row, over memory-mapped arrays.

    Args:
        encoded: uint8[total bytes]: all titles as UTF-8, one after the other.
        offsets: int64[N + 1].
    """

    def __init__(self, encoded: npt.NDArray[np.uint8], offsets: npt.NDArray[np.int64]) -> None:
        self._encoded = encoded
        self._offsets = offsets

    @classmethod
    def of(cls, titles: Sequence[str]) -> Titles:
        """Hold titles in memory; not all of them may be empty."""
        parts = [title.encode(errors="replace") for title in titles]
        offsets = np.zeros(len(parts) + 1, np.int64)
        np.cumsum([len(part) for part in parts], out=offsets[1:])
        return cls(np.frombuffer(b"".join(parts), np.uint8), offsets)

    @classmethod
    def open(cls, directory: Path, count: int) -> Titles:
        """Open the titles of an index directory with so many notes, memory-mapped.

        Raises:
            OSError, ValueError: a file is missing or is no such array.
        """
        encoded, offsets = (np.load(directory / name, mmap_mode="r", allow_pickle=False) for name in TITLES)
        if encoded.dtype != np.uint8 or offsets.dtype != np.int64:
            raise ValueError(f"{directory}: titles have types {encoded.dtype}, {offsets.dtype}")
        if len(offsets) != count + 1 or offsets[0] != 0 or offsets[-1] != len(encoded):
            raise ValueError(f"{directory}: the titles are not those of {count} notes")
        return cls(encoded, offsets)

    def save(self, directory: Path) -> None:
        """Write the two files."""
        np.save(directory / TITLES_BYTES, self._encoded, allow_pickle=False)
        np.save(directory / TITLES_OFFSETS, self._offsets, allow_pickle=False)

    def __getitem__(self, row: int) -> str:
        return self._encoded[self._offsets[row] : self._offsets[row + 1]].tobytes().decode()
