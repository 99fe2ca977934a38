"""Where the files of a set-up lie: a local folder, or a prefix of a bucket. A backup reads them, a restore writes them.

Every file there is written by one rename or one PutObject: what is opened is whole, and what changes is another file
under the same name.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import IO, Any, NamedTuple

from notellm2.artifacts import digest_file, fsync_path
from notellm2.errors import InputError
from notellm2.notes.versions import file_md5
from notellm2.publication.s3 import s3_client

_ABSENT = {"404", "NoSuchKey", "NotFound", "NoSuchBucket"}
_TYPE = "content-type"
"""Kept among an object's own metadata, whose names are in lower case too."""


class Entry(NamedTuple):
    """A file that is there.

    Attributes:
        name: its path in the storage, with ``/``.
        size: bytes.
        mark: changes when the file does.
    """

    name: str
    size: int
    mark: str


class Folder:
    """A local folder. Names that begin with a dot are temporary files, locks and work in progress: not in a backup.

    Args:
        root: the folder; may be missing.
        tops: patterns of the files and folders at its top that belong into a backup.
    """

    def __init__(self, root: Path, *tops: str) -> None:
        self._root = root.absolute()
        self._tops = tops or ("[!.]*",)

    def __str__(self) -> str:
        return str(self._root)

    def entries(self) -> Iterator[Entry]:
        """List the files that belong into a backup."""
        for top in (path for pattern in self._tops for path in sorted(self._root.glob(pattern))):
            if top.is_file():
                yield from self._entry(top)
            for folder, below, names in os.walk(top):
                below[:] = sorted(name for name in below if not name.startswith("."))
                for name in sorted(name for name in names if not name.startswith(".")):
                    yield from self._entry(Path(folder, name))

    @contextlib.contextmanager
    def open(self, name: str) -> Iterator[tuple[IO[bytes], dict[str, str]]]:
        """Open a file to be read, with its metadata: none.

        Raises:
            FileNotFoundError: it is gone.
        """
        with self._path(name).open("rb") as stream:
            yield stream, {}

    def put(self, name: str, content: Path, sha256: str, about: Mapping[str, str]) -> bool:
        """Write a file in one step.

        Returns:
            Whether it was written: one that is there with these bytes is left alone.
        """
        del about
        path = self._path(name)
        if path.is_file() and path.stat().st_size == content.stat().st_size and digest_file(path) == sha256:
            return False
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{uuid.uuid4().hex}.restoring")
        try:
            shutil.copyfile(content, temporary)
            fsync_path(temporary)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        fsync_path(path.parent)
        return True

    def _entry(self, path: Path) -> Iterator[Entry]:
        # It may be removed while it is listed.
        with contextlib.suppress(FileNotFoundError):
            status = path.stat()
            name = path.relative_to(self._root).as_posix()
            yield Entry(name, status.st_size, f"{status.st_mtime_ns}-{status.st_ino}")

    def _path(self, name: str) -> Path:
        parts = PurePosixPath(name).parts
        if not parts or parts[0] == "/" or ".." in parts:
            raise ValueError(f"{name!r} leads out of {self._root}")
        return self._root.joinpath(*parts)


class Bucket:
    """The present version of every object below a prefix of a bucket, on S3 or anything that speaks its API.

    Args:
        name: of the bucket.
        prefix: what the keys begin with; empty, or with a ``/`` at its end.
    """

    def __init__(self, name: str, prefix: str = "") -> None:
        self._bucket, self._prefix = name, prefix
        self._client = s3_client()

    def __str__(self) -> str:
        return f"s3://{self._bucket}/{self._prefix}".rstrip("/")

    def entries(self) -> Iterator[Entry]:
        """See `Folder.entries`.

        Raises:
            InputError: there is no such bucket.
        """
        pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=self._prefix)
        with _absent_as(InputError(f"{self}: no such bucket; make it first, or correct S3_BUCKET")):
            for page in pages:
                for entry in page.get("Contents", ()):
                    yield Entry(str(entry["Key"]).removeprefix(self._prefix), int(entry["Size"]), _tag(entry))

    @contextlib.contextmanager
    def open(self, name: str) -> Iterator[tuple[IO[bytes], dict[str, str]]]:
        """See `Folder.open`; metadata are the object's."""
        with _absent_as(FileNotFoundError(f"{self}/{name}")):
            answer = self._client.get_object(Bucket=self._bucket, Key=self._prefix + name)
        with contextlib.closing(answer["Body"]) as stream:
            yield stream, _metadata(answer)

    def put(self, name: str, content: Path, sha256: str, about: Mapping[str, str]) -> bool:
        """See `Folder.put`; an object that was uploaded in parts counts as the same only by its own digest."""
        key = self._prefix + name
        if self._holds(key, content, sha256, about):
            return False
        extra: dict[str, Any] = {"Metadata": {field: value for field, value in about.items() if field != _TYPE}}
        if _TYPE in about:
            extra["ContentType"] = about[_TYPE]
        self._client.upload_file(str(content), self._bucket, key, ExtraArgs=extra)
        return True

    def _holds(self, key: str, content: Path, sha256: str, about: Mapping[str, str]) -> bool:
        try:
            with _absent_as(FileNotFoundError(key)):
                head = self._client.head_object(Bucket=self._bucket, Key=key)
        except FileNotFoundError:
            return False
        if head["ContentLength"] != content.stat().st_size or _metadata(head) != dict(about):
            return False
        tag = _tag(head)
        return head["Metadata"].get("sha256") == sha256 or ("-" not in tag and tag == file_md5(content))


Storage = Folder | Bucket


@contextlib.contextmanager
def _absent_as(absent: Exception) -> Iterator[None]:
    from botocore.exceptions import ClientError

    try:
        yield
    except ClientError as error:
        if error.response["Error"]["Code"] not in _ABSENT:
            raise
        raise absent from None


def _metadata(answer: Any) -> dict[str, str]:
    return {_TYPE: answer["ContentType"], **answer["Metadata"]}


def _tag(answer: Any) -> str:
    return str(answer["ETag"]).strip('"')
