"""The cache of frozen vision features: an image is encoded once, whatever run, sweep or data version shows it.

    <root>/<encoder>/<segment>.features.npy   float16[n, P, V]
    <root>/<encoder>/<segment>.keys.npy       uint8[n, 32], sha256 of each image's bytes

A segment is written once, under a name of its own: the features first, then, by a rename, the keys that make it exist.
So two writers never meet (at worst an image is kept twice), and a kill leaves a file without keys, which the next
writer removes once it is old. Readers map the features and hold a shared lock on the keys: what is in use is never
removed. When the cache outgrows its budget, the segments used longest ago go, also while it is being filled.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import time
import uuid
from pathlib import Path
from types import TracebackType
from typing import IO

import numpy as np
from numpy.typing import NDArray

from notellm2.artifacts import fsync_path

SEGMENT_IMAGES = 1024
"""Images a segment: what is removed, or lost by a kill, at once."""
logger = logging.getLogger(__name__)

_ORPHANED_S = 24 * 3600.0
_KEYS, _FEATURES = ".keys.npy", ".features.npy"


class FeatureCache:
    """Features of one encoder, for as long as the ``with`` block lasts; everything found stays until its end.

    Args:
        root: the cache's folder; made on the first write.
        encoder: digest of all that decides an image's features besides its bytes.
        budget: bytes that the cache may keep, all encoders together.
    """

    def __init__(self, root: Path, encoder: str, budget: int) -> None:
        self._root, self._folder, self._budget = root, root / encoder, budget
        self._locks: list[IO[bytes]] = []
        self._segments: list[tuple[Path, NDArray[np.float16]]] = []
        self._place: dict[bytes, tuple[int, int]] = {}
        self._used: set[int] = set()
        self._fresh: dict[bytes, NDArray[np.float16]] = {}

    def __enter__(self) -> FeatureCache:
        for keys in sorted(self._folder.glob(f"*{_KEYS}")):
            with contextlib.suppress(FileNotFoundError):  # removed since it was listed
                self._open(keys)
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
                    os.utime(self._segments[number][0], (now, now))
        finally:
            self._segments.clear()
            for lock in self._locks:
                lock.close()
        self._shrink(self._budget)

    def get(self, key: bytes) -> NDArray[np.float16] | None:
        """An image's features float16[P, V], memory-mapped unless new, or None.

        Args:
            key: sha256 of the image's bytes, 32 bytes.
        """
        place = self._place.get(key)
        if place is None:
            return self._fresh.get(key)
        segment, row = place
        self._used.add(segment)
        features: NDArray[np.float16] = self._segments[segment][1][row]
        return features

    def put(self, key: bytes, features: NDArray[np.float16]) -> None:
        """Keep an image's features float16[P, V]; on disk once a segment is full, or at the end."""
        self._fresh[key] = features.copy()
        if len(self._fresh) == SEGMENT_IMAGES:
            self._write()

    def _open(self, path: Path) -> None:
        lock = path.open("rb")
        fcntl.flock(lock, fcntl.LOCK_SH)
        if not os.fstat(lock.fileno()).st_nlink:
            lock.close()  # removed between opening and locking
            return
        self._locks.append(lock)
        try:
            keys, features = np.load(lock), np.load(_beside(path), mmap_mode="r")
        except (ValueError, EOFError) as error:
            logger.warning("%s: damaged (%s); its images are encoded again", path, error)
            return
        for row, key in enumerate(keys):
            self._place.setdefault(key.tobytes(), (len(self._segments), row))
        self._segments.append((path, features))

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
        # What is open here and was of no use is held until the end, and goes before what was just written.
        unused = (path for number, (path, _) in enumerate(self._segments) if number not in self._used)
        self._shrink(self._budget + sum(_beside(path).stat().st_size for path in unused))

    def _shrink(self, budget: int) -> None:
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
            with contextlib.suppress(FileNotFoundError, BlockingIOError), keys.open("rb") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # BlockingIOError: in use
                keys.unlink()
                _beside(keys).unlink()
                total -= size


def _beside(keys: Path) -> Path:
    """The features of a segment, by its keys' path."""
    return keys.with_name(keys.name.removesuffix(_KEYS) + _FEATURES)
