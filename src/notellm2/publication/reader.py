"""Read the published index: notes similar to a note. Needs only numpy and faiss.

    with Published("store/_published", follow_s=5) as published:      # or "s3://bucket/prefix"
        published.similar("n00042", k=10)     # [Neighbour(note_id="n01977", score=0.93), ...]
        version = published.current           # answers of one version, whatever is published meanwhile
        version.publication.model_version, version.similar("n00042")

An opened version never changes: its files are immutable and stay readable even when retention removes them, because
an open mapping keeps them. A refresh opens and checks the new version beside the old and then swaps one reference;
when the new one is damaged the old keeps serving.
"""

from __future__ import annotations

import logging
import threading
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from notellm2.errors import InputError
from notellm2.index.layout import FILES, INDEX, TITLES, NoteIds, Titles, damage
from notellm2.index.search import open_index, search_rows, similar_rows
from notellm2.publication.location import Location
from notellm2.publication.opening import open_location
from notellm2.publication.pointer import Publication, PublicationDamaged, read_pointer

logger = logging.getLogger(__name__)

_ATTEMPTS = 5


class UnknownNote(InputError):
    """The published index has no such note.

    Attributes:
        near: ids that begin alike.
    """

    def __init__(self, message: str, near: tuple[str, ...]) -> None:
        super().__init__(message)
        self.near = near


class Neighbour(NamedTuple):
    """A neighbour of the query.

    Attributes:
        note_id: its id.
        score: cosine to the query, at most 1 but for rounding.
    """

    note_id: str
    score: float


class OpenVersion:
    """One published version, opened: its answers are all from that version. Safe to share between threads.

    Args:
        location: where it is published.
        publication: the version; it must be stored there.
        verify: read all files and compare their checksums; only to be left out where something else does.

    Raises:
        PublicationDamaged: a file is missing or damaged; names it.
        OSError: the location does not answer.
    """

    def __init__(self, location: Location, publication: Publication, *, verify: bool = True) -> None:
        self.publication = publication
        titled = set(TITLES) <= publication.files.keys()
        files = {name: publication.files[name] for name in (*FILES, *(TITLES if titled else ()))}
        directory = location.fetch(publication.folder, files)
        problems = damage(directory, files) if verify else []
        if problems:
            raise PublicationDamaged(
                f"the published index {publication.version} is damaged, publish it again: " + "; ".join(problems)
            )
        try:
            self._ids = NoteIds.open(directory)
            self._titles = Titles.open(directory, len(self._ids)) if titled else None
            self._index: Any = open_index(directory / INDEX)
        except (OSError, ValueError, RuntimeError) as error:
            raise PublicationDamaged(f"{directory}: not readable as a published index ({error})") from None
        sizes = (len(self._ids), self._index.ntotal, self._index.d)
        expected = (publication.count, publication.count, publication.dimension)
        if sizes != expected:
            raise PublicationDamaged(f"{directory}: ids, notes, dimension are {sizes}, the pointer says {expected}")

    def __len__(self) -> int:
        return len(self._ids)

    def __contains__(self, note_id: str) -> bool:
        return self._ids.row(note_id) is not None

    def note_id(self, row: int) -> str:
        """Return the id of the note at a row, 0 to the number of notes."""
        return self._ids[row]

    def title(self, note_id: str) -> str | None:
        """Return a note's title; None where the publication has no titles, the note has none, or is unknown."""
        row = None if self._titles is None else self._ids.row(note_id)
        return None if self._titles is None or row is None else self._titles[row] or None

    def similar(self, note_id: str, k: int = 10) -> list[Neighbour]:
        """Find the `k` notes most similar to a note, best first, the note itself never among them.

        Args:
            note_id: a note of the index.
            k: at least 1; fewer are returned when the index has no more.

        Raises:
            UnknownNote: names ids that begin alike.
            InputError: `k` is below 1.
        """
        _check_k(k)
        row = self._ids.row(note_id)
        if row is None:
            near = tuple(self._ids.near(note_id))
            raise UnknownNote(
                f"note {note_id!r} is not in the published index ({len(self)} notes of data "
                f"{self.publication.data_md5}); ids near it: {', '.join(map(repr, near))}",
                near,
            )
        scores, rows = similar_rows(self._index, row, min(k, len(self) - 1))
        return self._neighbours(scores, rows)

    def search(self, vectors: npt.ArrayLike, k: int = 10) -> list[list[Neighbour]]:
        """Find the `k` notes nearest to each vector, best first.

        Args:
            vectors: float [n, d] from the same model version, L2-normalised; one [d] is taken as one row.
            k: at least 1; fewer are returned when the index has no more.

        Raises:
            InputError: wrong width, a value that is not finite, or `k` below 1.
        """
        _check_k(k)
        queries = np.ascontiguousarray(np.atleast_2d(np.asarray(vectors, np.float32)))
        if queries.ndim != 2 or queries.shape[1] != self.publication.dimension:
            raise InputError(
                f"query vectors {list(queries.shape)}: expected [n, {self.publication.dimension}], the width of model "
                f"{self.publication.model_name} version {self.publication.model_version}"
            )
        if not np.isfinite(queries).all():
            raise InputError("query vectors hold values that are not finite")
        scores, rows = search_rows(self._index, queries, min(k, len(self)))
        return [self._neighbours(s[r >= 0], r[r >= 0]) for s, r in zip(scores, rows, strict=True)]

    def _neighbours(self, scores: npt.NDArray[np.float32], rows: npt.NDArray[np.int64]) -> list[Neighbour]:
        return [Neighbour(self._ids[int(row)], float(score)) for score, row in zip(scores, rows, strict=True)]


class Published:
    """The version that the pointer names, followed by `refresh` or by itself. Safe to share between threads.

    Args:
        location: what holds current.json: a folder, or an ``s3://bucket/prefix`` URL (needs boto3).
        verify: compare checksums at every opening.
        follow_s: seconds between two looks at the pointer by a background thread; None: only `refresh` looks. What
            keeps it from following is logged and kept as `problem`, and the version served so far stays.

    Raises:
        NothingPublished: nothing is published there.
        PublicationDamaged: the pointer or a file it names is missing or damaged; names it.
        OSError: the location does not answer.
    """

    def __init__(self, location: Location | Path | str, *, verify: bool = True, follow_s: float | None = None) -> None:
        if follow_s is not None and not follow_s > 0:
            raise InputError(f"follow_s {follow_s}: expected seconds above 0, or None")
        self.location = open_location(location)
        self._verify = verify
        self._refreshing = threading.Lock()
        self._problem: Exception | None = None
        self._pointer = read_pointer(self.location)
        self._current = self._open(self._pointer)
        self._closed = threading.Event()
        self._follower: threading.Thread | None = None
        if follow_s is not None:
            self._follower = threading.Thread(target=self._follow, args=(follow_s,), name="follow-index", daemon=True)
            self._follower.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End following, after a swap in progress; what is open goes on answering for as long as it is held."""
        self._closed.set()
        if self._follower is not None:
            self._follower.join()

    @property
    def problem(self) -> Exception | None:
        """Why the last look at the pointer, by `refresh` or in the background, failed; None: it succeeded."""
        return self._problem

    @property
    def pointer(self) -> Publication:
        """What the pointer named when it was last read; not what is served where that could not be opened."""
        return self._pointer

    @property
    def current(self) -> OpenVersion:
        """The version now served. Hold on to it where several answers must be of one version."""
        return self._current

    @property
    def publication(self) -> Publication:
        """What the pointer said of it: model, data, index key, time, checksums."""
        return self._current.publication

    @property
    def model_version(self) -> str:
        """Version of the registered model that embedded the notes."""
        return self.publication.model_version

    @property
    def data_md5(self) -> str:
        """Data version the notes are from."""
        return self.publication.data_md5

    def __len__(self) -> int:
        return len(self._current)

    def __contains__(self, note_id: str) -> bool:
        return note_id in self._current

    def similar(self, note_id: str, k: int = 10) -> list[Neighbour]:
        """See `OpenVersion.similar`."""
        return self._current.similar(note_id, k)

    def search(self, vectors: npt.ArrayLike, k: int = 10) -> list[list[Neighbour]]:
        """See `OpenVersion.search`."""
        return self._current.search(vectors, k)

    def refresh(self) -> bool:
        """Follow the pointer if it moved; queries in flight finish on the version they began with.

        Returns:
            Whether another publication is served now.

        Raises:
            NothingPublished, PublicationDamaged, OSError: as at opening; the version served so far stays.
        """
        with self._refreshing:
            try:
                pointer = self._pointer = read_pointer(self.location)
                moved = pointer != self.publication
                if moved:
                    self._current = self._open(pointer)
            except Exception as error:
                self._problem = error
                raise
            self._problem = None
            return moved

    def _follow(self, every_s: float) -> None:
        logged = None
        while not self._closed.wait(every_s):
            try:
                self.refresh()
                logged = None
            except Exception as error:
                # Whatever it is, the thread must live to see it mended. A fault that stays is logged once.
                if str(error) != logged:
                    logger.warning("still serving version %s: %s", self.publication.version, error)
                logged = str(error)

    def _open(self, pointer: Publication) -> OpenVersion:
        for _ in range(_ATTEMPTS - 1):
            try:
                return OpenVersion(self.location, pointer, verify=self._verify)
            except PublicationDamaged:
                # Retention may have removed it between reading the pointer and opening: then the pointer moved.
                latest = read_pointer(self.location)
                if latest == pointer:
                    raise
                pointer = latest
        return OpenVersion(self.location, pointer, verify=self._verify)


def _check_k(k: int) -> None:
    if k < 1:
        raise InputError(f"k {k}: expected at least 1 neighbour")
