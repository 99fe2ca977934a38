"""Open the location that a path or a URL names."""

from __future__ import annotations

import os
from pathlib import Path

from notellm2.errors import InputError
from notellm2.publication.location import LocalLocation, Location


def open_location(where: str | os.PathLike[str] | Location, *, cache: Path | None = None) -> Location:
    """Open the location that a path or an ``s3://bucket/prefix`` URL names; a location is returned as it is.

    Args:
        where: a folder, a URL or a location.
        cache: folder for local copies of what lies on S3; see `notellm2.publication.s3`.

    Raises:
        InputError: a URL of another kind, or one without a bucket; boto3 is not installed.
    """
    if isinstance(where, Location):
        return where
    text = os.fspath(where)
    if text.startswith("s3://"):
        from notellm2.publication.s3 import S3Location

        return S3Location(text, cache=cache)
    if "://" in text:
        raise InputError(f"{text}: expected a folder or an s3:// URL")
    return LocalLocation(Path(text).absolute())
