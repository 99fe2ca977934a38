"""The images of a plain export: a folder, a tar (plain or gzip) or a zip, read one by one within bounds.

Names are taken relative to the images' folder, with or without a leading ``images/``. A name that leaves it, a link
out of it, a device: each is refused. Nothing is ever unpacked under a name from the archive, so no archive can write
anywhere.
"""

from __future__ import annotations

import posixpath
import stat
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Protocol

from notellm2.errors import InputError
from notellm2.notes.images import ImageProblem
from notellm2.notes.members import MemberIndex, key_of, too_large
from notellm2.notes.tarball import TarImages
from notellm2.recipe import ImageLimits

NAMES = ("images", "images.tar", "images.tar.gz", "images.tgz", "images.zip")
_ENCRYPTED = 0x1
_MOST_TARGET = 4096
"""Longest target of a link in a zip, bytes."""


class Images(Protocol):
    """Where an export's images lie.

    Attributes:
        name: the folder's or archive's name.
    """

    name: str

    def read(self, path: str) -> bytes:
        """Read the bytes of one image, at most ``limits.max_bytes``.

        Raises:
            ImageProblem: missing, outside-folder, not-a-file, oversized-bytes, truncated, broken or unreadable.
        """
        ...

    def remaining(self) -> Iterator[tuple[str, str, str]]:
        """List refused members that no note asked for, and damage of the archive: (location, reason, detail)."""
        ...


def find_images(export: Path) -> Path | None:
    """Find the folder or archive of an export's images, or None.

    Raises:
        InputError: there are several.
    """
    names = [name for name in NAMES if (export / name).exists()]
    if len(names) > 1:
        raise InputError(f"{export}: expected one of {', '.join(NAMES)}, found {', '.join(names)}; keep one")
    return export / names[0] if names else None


@contextmanager
def open_images(path: Path, limits: ImageLimits, spool: Path) -> Iterator[Images]:
    """Open a folder or an archive of images.

    Args:
        path: the result of `find_images`.
        limits: most bytes of one image.
        spool: a folder on a disk with room for the unpacked form of a gzipped tar.

    Raises:
        InputError: it is no folder, tar or zip, or unpacks to far more than images can.
    """
    with ExitStack() as stack:
        if path.is_dir():
            images: Images = FolderImages(path, limits)
        elif path.suffix == ".zip":
            try:
                archive = stack.enter_context(zipfile.ZipFile(path))
            except (OSError, zipfile.BadZipFile, NotImplementedError, ValueError) as error:
                raise InputError(f"{path}: not a zip of images: {error}; export it again") from error
            images = ZipImages(path, archive, limits)
        elif path.is_file():
            try:
                handle = stack.enter_context(path.open("rb"))
            except OSError as error:
                raise InputError(f"{path}: cannot be read: {error}") from error
            images = TarImages(path, handle, limits, stack.enter_context(tempfile.TemporaryFile(dir=spool)))
        else:
            raise InputError(f"{path}: expected a folder" if path.name == "images" else f"{path}: expected a file")
        yield images


class FolderImages:
    """The images of a folder.

    Attributes:
        name: the folder's name.
    """

    def __init__(self, root: Path, limits: ImageLimits):
        self.name = root.name
        self._root = root.resolve()
        self._limits = limits

    def read(self, path: str) -> bytes:
        """See `Images.read`."""
        key = key_of(path)
        try:
            file = (self._root / key).resolve(strict=True)
            if not file.is_relative_to(self._root):
                raise ImageProblem("outside-folder", f"{path!r} is a link that leaves the images' folder")
            status = file.stat()
            if not stat.S_ISREG(status.st_mode):
                raise ImageProblem("not-a-file", f"{path!r} is a folder, pipe or device")
            if status.st_size > self._limits.max_bytes:
                raise too_large(status.st_size, self._limits)
            with file.open("rb") as handle:
                return handle.read(self._limits.max_bytes + 1)
        except (FileNotFoundError, NotADirectoryError):
            raise ImageProblem("missing", f"no file {path!r} in {self.name}/") from None
        except (OSError, RuntimeError, UnicodeEncodeError) as error:
            raise ImageProblem("unreadable", f"{path!r}: {error}") from error

    def remaining(self) -> Iterator[tuple[str, str, str]]:
        """See `Images.remaining`; files that no note names are not looked at."""
        return iter(())


class ZipImages:
    """The images of a zip.

    Attributes:
        name: its file name.
    """

    def __init__(self, path: Path, archive: zipfile.ZipFile, limits: ImageLimits):
        self.name = path.name
        self._archive = archive
        self._limits = limits
        self._index: MemberIndex[zipfile.ZipInfo] = MemberIndex(path.name)
        for member in archive.infolist():
            mode = member.external_attr >> 16
            if member.is_dir():
                continue
            if stat.S_ISLNK(mode):
                self._enter_link(member)
            elif stat.S_IFMT(mode) not in (0, stat.S_IFREG):
                self._index.refuse(member.filename, ImageProblem("not-a-file", "a device or pipe"))
            elif member.flag_bits & _ENCRYPTED:
                self._index.refuse(member.filename, ImageProblem("unreadable", "encrypted"))
            elif member.file_size > limits.max_bytes:
                self._index.refuse(member.filename, too_large(member.file_size, limits))
            else:
                self._index.add(member.filename, member)

    def _enter_link(self, member: zipfile.ZipInfo) -> None:
        try:
            with self._archive.open(member) as handle:
                target = handle.read(_MOST_TARGET + 1).decode()
        except Exception as error:  # as in `read`
            self._index.refuse(member.filename, ImageProblem("broken", f"a link without target: {error}"))
            return
        if len(target) > _MOST_TARGET:
            self._index.refuse(member.filename, ImageProblem("broken", "a link with an endless target"))
        else:
            self._index.link(member.filename, posixpath.join(posixpath.dirname(member.filename), target))

    def read(self, path: str) -> bytes:
        """See `Images.read`."""
        member = self._index.find(path)
        try:
            with self._archive.open(member) as handle:
                # The size in the directory may lie: what is unpacked is bounded here as well.
                data = handle.read(self._limits.max_bytes + 1)
        except EOFError as error:
            raise ImageProblem("truncated", f"{self.name} ends within {path!r}: {error}") from error
        except Exception as error:
            # zlib, bz2, lzma and zipfile each raise their own on damaged or unknown compression.
            raise ImageProblem("broken", f"{self.name}: {path!r}: {type(error).__name__}: {error}") from error
        if len(data) < member.file_size:
            raise ImageProblem("truncated", f"{self.name}: {path!r}: {len(data)} of {member.file_size} bytes")
        return data

    def remaining(self) -> Iterator[tuple[str, str, str]]:
        """See `Images.remaining`."""
        return self._index.remaining()
