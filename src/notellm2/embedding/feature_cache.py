"""The cache of frozen vision features: an image is encoded once, whatever run, sweep or data version shows it.

    <root>/<encoder>/<segment>.features.npy   float16[n, P, V]
    <root>/<encoder>/<segment>.keys.npy       uint8[n, 32], sha256 of each image's bytes

A segment is written once, under a name of its own: the features first, then, by a rename, the keys that make it exist.
So two writers never meet (at worst an image is kept twice), and a kill leaves a file without keys, which the next
writer removes once it is old. Readers hold a shared lock on the encoder's folder: what was there when they came stays
until they leave, and one open file is enough for any number of segments. Features are mapped when one is asked for.
When the cache outgrows its budget, the segments used longest ago go, also while it is being filled.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from notellm2.artifacts import fsync_path

SEGMENT_IMAGES = 1024
"""Images a segment: what is removed, or lost by a kill, at once."""
logger = logging.getLogger(__name__)

_ORPHANED_S = 24 * 3600.0
_KEYS, _FEATURES = ".keys.npy", ".features.npy"
_MAPPED = 32
"""Segments mapped at once: each costs an open file, of which a process commonly has 1,024."""


class FeatureCache:
    """Features of one encoder, for the length of a ``with`` block; what was there at its start stays until its end.

    Args:
        root: the cache's folder; made on the first write.
        encoder: digest of all that decides an image's features besides its bytes.
        budget: bytes that the cache may keep, all encoders together.
    """

    def __init__(self, root: Path, encoder: str, budget: float) -> None:
        self._root, self._folder, self._budget = root, root / encoder, budget
        self._lock: int | None = None
        self._segments: list[Path] = []
        self._place: dict[bytes, tuple[int, int]] = {}
        self._mapped: dict[int, NDArray[np.float16]] = {}
        self._used: set[int] = set()
        self._fresh: dict[bytes, NDArray[np.float16]] = {}
        self._written: set[Path] = set()

    def __enter__(self) -> FeatureCache:
        try:
            self._lock = os.open(self._folder, os.O_RDONLY)
        except FileNotFoundError:  # nothing of this encoder yet
            return self
        fcntl.flock(self._lock, fcntl.LOCK_SH)
        for path in sorted(self._folder.glob(f"*{_KEYS}")):
            try:
                keys = np.load(path)
            except FileNotFoundError:  # its own writer removed it
                continue
            except (ValueError, EOFError) as error:
                _warn_damaged(path, error)
                continue
            for row, key in enumerate(keys):
                self._place.setdefault(key.tobytes(), (len(self._segments), row))
            self._segments.append(path)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if self._fresh:  # also after an error: what was encoded is good
                self._write()
            now = time.time()
            for number in self._used:
                with contextlib.suppress(FileNotFoundError):
                    os.utime(self._segments[number], (now, now))
        finally:
            self._mapped.clear()
            if self._lock is not None:
                os.close(self._lock)
                self._lock = None
        self._shrink(self._budget)

    def get(self, key: bytes) -> NDArray[np.float16] | None:
        """Return an image's features float16[P, V], memory-mapped unless new, or None.

        Args:
            key: sha256 of the image's bytes, 32 bytes.
        """
        place = self._place.get(key)
        if place is None:
            return self._fresh.get(key)
        segment, row = place
        try:
            features: NDArray[np.float16] = self._features(segment)[row]
        except (OSError, ValueError, EOFError, IndexError) as error:
            _warn_damaged(self._segments[segment], error)
            self._place = {known: at for known, at in self._place.items() if at[0] != segment}
            return self._fresh.get(key)
        self._used.add(segment)
        return features

    def put(self, key: bytes, features: NDArray[np.float16]) -> None:
        """Keep an image's features float16[P, V]; on disk once a segment is full, or at the end."""
        self._fresh[key] = features.copy()
        if len(self._fresh) == SEGMENT_IMAGES:
            self._write()

    def _features(self, segment: int) -> NDArray[np.float16]:
        """A segment's features, mapped; the one asked for longest ago is unmapped for it."""
        features = self._mapped.pop(segment, None)
        if features is None:
            features = np.load(_beside(self._segments[segment]), mmap_mode="r")
            if len(self._mapped) == _MAPPED:
                del self._mapped[next(iter(self._mapped))]
        self._mapped[segment] = features
        return features

    def _write(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        keys = self._folder / f"{time.time_ns():020d}-{uuid.uuid4().hex[:8]}{_KEYS}"
        temporary = keys.with_name(f".{keys.name}")
        with _beside(keys).open("wb") as handle:
            np.save(handle, np.stack(list(self._fresh.values())))
        with temporary.open("wb") as handle:
            np.save(handle, np.frombuffer(b"".join(self._fresh), np.uint8).reshape(-1, 32))
        fsync_path(_beside(keys))
        fsync_path(temporary)
        temporary.rename(keys)
        fsync_path(self._folder)
        self._fresh.clear()
        self._written.add(keys)
        # What was of no use so far is held until the end, and goes before what was just written.
        unused = [_beside(path) for number, path in enumerate(self._segments) if number not in self._used]
        self._shrink(self._budget + sum(path.stat().st_size for path in unused if path.exists()))

    def _shrink(self, budget: float) -> None:
        """Remove what killed writers left, and the segments used longest ago until the rest fits `budget` bytes."""
        held = []
        horizon = time.time() - _ORPHANED_S
        for path in [*self._root.glob(f"*/*{_FEATURES}"), *self._root.glob(f"*/.*{_KEYS}")]:
            with contextlib.suppress(FileNotFoundError):
                facts = path.stat()
                keys = path.with_name(path.name.removesuffix(_FEATURES) + _KEYS)
                if path.name.startswith(".") or not keys.exists():
                    if facts.st_mtime < horizon:
                        path.unlink()
                    continue
                held.append((keys.stat().st_mtime_ns, facts.st_size, keys))
        total = sum(size for _, size, _ in held)
        for _, size, keys in sorted(held):
            if total <= budget:
                return
            # What this run wrote it does not read again, so its own lock does not keep it.
            with contextlib.suppress(FileNotFoundError), _exclusive(keys.parent) as free:
                if free or keys in self._written:
                    keys.unlink()
                    _beside(keys).unlink()
                    total -= size


@contextlib.contextmanager
def _exclusive(folder: Path) -> Iterator[bool]:
    """Whether nobody reads from an encoder's folder; nobody begins to until the block ends."""
    lock = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield True
    except BlockingIOError:
        yield False
    finally:
        os.close(lock)


def _warn_damaged(path: Path, error: Exception) -> None:
    logger.warning("%s: damaged (%s); its images are encoded again", path, error)


def _beside(keys: Path) -> Path:
    """The features of a segment, by its keys' path."""
    return keys.with_name(keys.name.removesuffix(_KEYS) + _FEATURES)
