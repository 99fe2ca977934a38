"""A bucket, or a prefix of one, on S3 or anything that speaks its API; settings as in `notellm2.publication.s3`."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from notellm2.errors import InputError
from notellm2.notes.versions import file_md5
from notellm2.publication.s3 import s3_client
from notellm2.stack.backup.places import Listed, Opened, Place, Sort, alone

_ABSENT = {"404", "NoSuchKey", "NotFound"}
_NO_BUCKET = {"404", "NoSuchBucket"}
_TYPE = "content-type"
"""Beside an object's own metadata, whose names a store keeps in lower case with letters, digits and hyphens."""


class Bucket(Place):
    """The present version of every object of a bucket below a prefix.

    Args:
        name: of the bucket.
        prefix: what the keys begin with; empty, or with a ``/`` at its end.
        sort: what the backup does with an object, by its key without the prefix.
    """

    def __init__(self, name: str, prefix: str = "", sort: Sort = alone) -> None:
        self._bucket, self._prefix, self._sort = name, prefix, sort
        self._client = s3_client()

    def __str__(self) -> str:
        return f"s3://{self._bucket}/{self._prefix}".rstrip("/")

    def listed(self) -> Iterator[Listed]:
        """See `Place.listed`.

        Raises:
            InputError: there is no such bucket.
        """
        from botocore.exceptions import ClientError

        pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=self._prefix)
        try:
            for page in pages:
                for entry in page.get("Contents", ()):
                    name = str(entry["Key"]).removeprefix(self._prefix)
                    group = self._sort(name)
                    if group is not None:
                        yield Listed(name, int(entry["Size"]), _tag(entry), group=group)
        except ClientError as error:
            if _code(error) not in _NO_BUCKET:
                raise
            raise InputError(f"{self}: no such bucket; make it first, or correct S3_BUCKET") from None

    @contextlib.contextmanager
    def open(self, name: str) -> Iterator[Opened]:
        """See `Place.open`."""
        from botocore.exceptions import ClientError

        try:
            found = self._client.get_object(Bucket=self._bucket, Key=self._prefix + name)
        except ClientError as error:
            if _code(error) in _ABSENT:
                raise FileNotFoundError(f"{self}/{name}") from None
            raise
        with contextlib.closing(found["Body"]) as stream:
            yield Opened(stream, _tag(found), {_TYPE: found["ContentType"], **found["Metadata"]})

    def put(self, name: str, content: Path, sha256: str, about: Mapping[str, str]) -> bool:
        """See `Place.put`; an object that was uploaded in parts counts as the same only by its own digest."""
        head = self._head(name)
        if head is not None and head["ContentLength"] == content.stat().st_size and _about(head) == dict(about):
            tag = _tag(head)
            if head["Metadata"].get("sha256") == sha256 or ("-" not in tag and tag == file_md5(content)):
                return False
        extra = {"Metadata": {key: value for key, value in about.items() if key != _TYPE}}
        if _TYPE in about:
            extra["ContentType"] = about[_TYPE]  # type: ignore[assignment]  # one value is a text, the other a table
        self._client.upload_file(str(content), self._bucket, self._prefix + name, ExtraArgs=extra)
        return True

    def _head(self, name: str) -> Any:
        from botocore.exceptions import ClientError

        try:
            return self._client.head_object(Bucket=self._bucket, Key=self._prefix + name)
        except ClientError as error:
            if _code(error) in _ABSENT:
                return None
            raise


def _about(found: Any) -> dict[str, str]:
    return {_TYPE: found["ContentType"], **found["Metadata"]}


def _tag(found: Any) -> str:
    return str(found["ETag"]).strip('"')


def _code(error: Any) -> str:
    return str(error.response["Error"]["Code"])
