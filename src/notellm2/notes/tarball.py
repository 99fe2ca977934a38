"""Images in a tar, plain or gzip: one pass over the headers, then reads by offset.

Built for hostile input: headers are bounded (tarfile would read an extended header of any size into memory), offsets
must grow, devices and sparse members are refused, links lead to members of the archive alone, and a gzipped tar may
grow only so far.
"""

from __future__ import annotations

import gzip
import io
import posixpath
import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, BinaryIO, cast

from notellm2.errors import InputError
from notellm2.notes.images import ImageProblem
from notellm2.notes.members import MemberIndex, too_large
from notellm2.recipe import ImageLimits

_CHUNK = 1024 * 1024
_MOST_HEADER = 1024 * 1024
"""Largest single read of a header, bytes; real ones are a few kilobytes."""
_MOST_GROWTH = 50
_FREE_GROWTH = 1024**3
"""A gzipped tar may unpack to 1 GiB and 50 times its size: encoded images hardly shrink, bombs grow a thousandfold."""
_DAMAGE = (tarfile.TarError, zlib.error, EOFError, OSError, ValueError, OverflowError, RecursionError)


@dataclass(frozen=True)
class _Place:
    offset: int
    size: int


class TarImages:
    """The images of a tar.

    Attributes:
        name: its file name.
    """

    def __init__(self, path: Path, handle: BinaryIO, limits: ImageLimits, spool: IO[bytes]):
        """Index the members.

        Args:
            path: the file, for messages.
            handle: it, opened for reading.
            limits: most bytes of one image.
            spool: an empty temporary file; takes the members of a gzipped tar, which has no random access.

        Raises:
            InputError: no tar, or a gzipped one that unpacks to far more than images can.
        """
        self.name = path.name
        self._limits = limits
        self._index: MemberIndex[_Place] = MemberIndex(path.name)
        packed = handle.read(2) == b"\x1f\x8b"
        handle.seek(0)
        if packed:
            self._data: IO[bytes] = spool
            bound = _FREE_GROWTH + _MOST_GROWTH * path.stat().st_size
            source: _Headers = _Unpacking(cast(BinaryIO, gzip.GzipFile(fileobj=handle)), bound, path)
        else:
            self._data = handle
            source = _Headers(handle)
        try:
            archive: Any = tarfile.TarFile(fileobj=cast(BinaryIO, source), mode="r", errorlevel=2)
        except _DAMAGE as error:
            raise InputError(f"{path}: not a tar of images: {error}; export it again") from error
        self._read_headers(archive, source, spool if packed else None)

    def read(self, path: str) -> bytes:
        """See `archive.Images.read`."""
        place = self._index.find(path)
        self._data.seek(place.offset)
        data = self._data.read(place.size)
        if len(data) < place.size:
            raise ImageProblem("truncated", f"{self.name} ends within {path!r}: {len(data)} of {place.size} bytes")
        return data

    def remaining(self) -> Iterator[tuple[str, str, str]]:
        """See `archive.Images.remaining`."""
        return self._index.remaining()

    def _read_headers(self, archive: Any, source: _Headers, spool: IO[bytes] | None) -> None:
        count, last = 0, -1
        member: tarfile.TarInfo | None = None
        try:
            while (member := archive.next()) is not None:
                if member.offset <= last or member.size < 0:
                    raise tarfile.ReadError(f"member {count + 1} points backwards")
                last = member.offset
                count += 1
                self._enter(member, source, spool)
                # tarfile remembers every member in this untyped list; a million of them would be a gigabyte.
                archive.members.clear()
            if not source.ends_at(archive.offset):
                raise tarfile.ReadError("a damaged header")
        except InputError:
            raise
        except _DAMAGE as error:
            self._index.mark_damaged(f"unreadable after {count} members: {error}; images that come later are missing")

    def _enter(self, member: tarfile.TarInfo, source: _Headers, spool: IO[bytes] | None) -> None:
        if member.isdir():
            return
        if member.islnk():
            self._index.link(member.name, member.linkname)  # named from the top of the archive
        elif member.issym():
            self._index.link(member.name, posixpath.join(posixpath.dirname(member.name), member.linkname))
        elif not member.isreg() or member.issparse():
            self._index.refuse(member.name, ImageProblem("not-a-file", "a device, pipe or sparse member"))
        elif member.size > self._limits.max_bytes:
            self._index.refuse(member.name, too_large(member.size, self._limits))
        elif spool is None:
            self._index.add(member.name, _Place(member.offset_data, member.size))
        else:
            source.seek(member.offset_data)
            place = _Place(spool.seek(0, io.SEEK_END), member.size)
            spool.write(source.data(member.size))
            self._index.add(member.name, place)


class _Headers:
    """What tarfile sees of a seekable file: no read is larger than a header may be."""

    def __init__(self, raw: BinaryIO):
        self._raw = raw

    def tell(self) -> int:
        return self._raw.tell()

    def seek(self, position: int) -> int:
        return self._raw.seek(position)

    def read(self, size: int) -> bytes:
        if not 0 <= size <= _MOST_HEADER:
            raise tarfile.ReadError(f"a header of {size} bytes")
        return self._raw.read(size)

    def data(self, size: int) -> bytes:
        """Bytes of a member, whose size has been checked."""
        return self._raw.read(size)

    def ends_at(self, offset: int) -> bool:
        """Whether an archive may end there, at a block of zeros or the end of the file.

        tarfile stops without a word at a damaged header too.
        """
        self.seek(offset)
        return not self.read(tarfile.BLOCKSIZE).strip(b"\0")


class _Unpacking(_Headers):
    """A gzip stream read forwards only; going back would unpack from the start each time."""

    def __init__(self, raw: BinaryIO, bound: int, path: Path):
        super().__init__(raw)
        self._position = 0
        self._last = b""
        self._pushed = b""
        self._bound = bound
        self._path = path

    def tell(self) -> int:
        return self._position - len(self._pushed)

    def seek(self, position: int) -> int:
        back = self.tell() - position
        if back > 0:
            # tarfile steps back a byte to see whether the file goes on; the end check, one block.
            if back > len(self._last) - len(self._pushed):
                raise tarfile.ReadError(f"points backwards, to byte {position}")
            self._pushed = self._last[len(self._last) - len(self._pushed) - back :]
        while self.tell() < position:
            if not self.data(min(position - self.tell(), _CHUNK)):
                raise tarfile.ReadError("unexpected end of data")
        return position

    def read(self, size: int) -> bytes:
        if not 0 <= size <= _MOST_HEADER:
            raise tarfile.ReadError(f"a header of {size} bytes")
        return self.data(size)

    def data(self, size: int) -> bytes:
        ready, self._pushed = self._pushed[:size], self._pushed[size:]
        if len(ready) < size:
            fresh = self._raw.read(size - len(ready))
            self._position += len(fresh)
            if self._position > self._bound:
                raise InputError(
                    f"{self._path}: {self._path.stat().st_size} bytes unpack to more than {self._bound}; "
                    "that is no archive of images"
                )
            self._last = (self._last + fresh)[-tarfile.BLOCKSIZE :]
            ready += fresh
        return ready
