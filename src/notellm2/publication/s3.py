"""Publish to S3, or to anything that speaks its API with conditional writes.

Credentials, region and endpoint come from the environment alone, as boto3 reads them (``AWS_ACCESS_KEY_ID``,
``AWS_SECRET_ACCESS_KEY``, ``AWS_PROFILE``, ``AWS_REGION``, instance roles, ...). The endpoint is
``AWS_ENDPOINT_URL_S3``, else ``AWS_ENDPOINT_URL``, else ``MLFLOW_S3_ENDPOINT_URL``, which a deployment with MLflow has
set already; with one, buckets are addressed by path.

- A swap is one PutObject with ``If-Match: <ETag>`` or ``If-None-Match: *``: the store compares and writes in one step.
- A folder is complete once it has its record, which is uploaded last and deleted first.
- Every file is uploaded with its SHA-256 as metadata. `problems` compares that and the size, which shows files that
  are missing, cut or written again by others; the bytes are verified by every reader that fetches them.
- `fetch` downloads to a cache that the processes of one user and machine share: ``NOTELLM2_CACHE``, by default
  ``~/.cache/notellm2``. Each version is downloaded once and memory-mapped; all but the last few are deleted (a mapping
  outlives its file).
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from notellm2.errors import InputError
from notellm2.index.layout import FileEntry, damage
from notellm2.publication.location import RECORD, Folder, Location, Moved, Stored, checked_name, rename_new

ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "MLFLOW_S3_ENDPOINT_URL")
CACHE = "NOTELLM2_CACHE"
CACHED_VERSIONS = 3
_SHA256 = "sha256"
_ABSENT = {"404", "NoSuchKey", "NotFound"}
_CONFLICTS = {"409", "ConditionalRequestConflict"}
_CONFLICT_TRIES = 5


def s3_client() -> Any:
    """Make a client of boto3 with settings from the environment; see the module. May be used by several threads."""
    import boto3
    from botocore.config import Config

    endpoint = _endpoint()
    config = Config(
        connect_timeout=10,
        read_timeout=60,
        retries={"mode": "standard"},
        s3={"addressing_style": "path" if endpoint else "auto"},
    )
    return boto3.session.Session().client("s3", endpoint_url=endpoint, config=config)


class StoreRefused(OSError):
    """The object store did not answer, or refused; the message has what it said."""


class S3Location(Location):
    """A prefix of an S3 bucket, as a location.

    Args:
        url: ``s3://bucket`` or ``s3://bucket/prefix``.
        cache: folder for local copies; None: see the module.

    Raises:
        InputError: the URL names no bucket, or boto3 is not installed.
    """

    def __init__(self, url: str, *, cache: Path | None = None) -> None:
        bucket, _, prefix = url.removeprefix("s3://").partition("/")
        if not bucket:
            raise InputError(f"{url}: names no bucket, expected s3://bucket/prefix")
        try:
            import boto3  # noqa: F401
        except ImportError:
            raise InputError(f"{url}: S3 needs boto3; install notellm2[s3]") from None
        self._bucket = bucket
        self._prefix = prefix.strip("/") + "/" if prefix.strip("/") else ""
        home = Path(os.environ.get(CACHE) or Path.home() / ".cache" / "notellm2")
        # Two locations never share a folder, nor do two endpoints.
        identity = hashlib.sha256(f"{_endpoint()} {self}".encode()).hexdigest()[:16]
        self._cache = (home if cache is None else cache) / "published" / identity

    def __str__(self) -> str:
        return f"s3://{self._bucket}/{self._prefix}".rstrip("/")

    @functools.cached_property
    def _client(self) -> Any:
        return s3_client()

    def read(self, name: str) -> Stored | None:
        """See `Location.read`."""
        with self._translated():
            try:
                answer = self._client.get_object(Bucket=self._bucket, Key=self._key(name))
                return Stored(answer["Body"].read(), answer["ETag"])
            except _client_error() as error:
                if _code(error) in _ABSENT:
                    return None
                raise

    def swap(self, name: str, data: bytes, expected: str | None) -> str:
        """See `Location.swap`."""
        condition = {"IfNoneMatch": "*"} if expected is None else {"IfMatch": expected}
        with self._translated():
            for attempt in range(_CONFLICT_TRIES):
                try:
                    answer = self._client.put_object(Bucket=self._bucket, Key=self._key(name), Body=data, **condition)
                    return str(answer["ETag"])
                except _client_error() as error:
                    conflict = _code(error) in _CONFLICTS
                    if not conflict and _code(error) not in {"412", "PreconditionFailed", *_ABSENT}:
                        raise
                    retried = error.response["ResponseMetadata"].get("RetryAttempts", 0) > 0
                stored = self.read(name)
                if stored is not None and stored.data == data and retried:
                    # The answer to our first attempt was lost, and its write was what the second one met.
                    return stored.tag
                # A conflict says that another write was under way: it may have been refused as well.
                if not conflict or attempt == _CONFLICT_TRIES - 1 or (stored and stored.tag) != expected:
                    break
            raise Moved(
                f"{self}/{name}: {(stored and stored.tag) or 'nothing there'}, expected {expected or 'nothing'}"
            )

    def folders(self, under: str) -> dict[str, Folder]:
        """See `Location.folders`; one request, and one for each folder."""
        complete = {}
        start = self._key(under) + "/"
        for entry in self._list(start):
            name, _, file = str(entry["Key"]).removeprefix(start).partition("/")
            if file == RECORD:
                record = self.read(f"{under}/{name}/{RECORD}")
                if record is not None:
                    complete[name] = Folder(record.data, entry["LastModified"].astimezone(UTC))
        return complete

    def put_folder(self, folder: str, files: Mapping[str, tuple[Path, FileEntry]], record: bytes) -> None:
        """See `Location.put_folder`; uploads in parts what is large, the record last and only if there is none."""
        for source, entry in files.values():
            if FileEntry.of(source) != entry:
                raise InputError(f"{source} is damaged (its sha256 is not the manifest's): build the index again")
        with self._translated():
            for name, (source, entry) in files.items():
                key = self._key(f"{folder}/{name}")
                self._client.upload_file(
                    str(source), self._bucket, key, ExtraArgs={"Metadata": {_SHA256: entry.sha256}}
                )
        try:
            self.swap(f"{folder}/{RECORD}", record, None)
        except Moved:
            raise FileExistsError(f"{self}/{folder}: a folder is there already") from None

    def touch(self, folder: str) -> None:
        """See `Location.touch`: its record is written again."""
        name = f"{folder}/{RECORD}"
        record = self.read(name)
        if record is not None:
            with contextlib.suppress(Moved):
                self.swap(name, record.data, record.tag)

    def problems(self, folder: str, files: Mapping[str, FileEntry]) -> list[str]:
        """See `Location.problems`; by size and metadata, see the module."""
        problems = []
        with self._translated():
            for name, expected in sorted(files.items()):
                path = f"{self}/{folder}/{name}"
                try:
                    head = self._client.head_object(Bucket=self._bucket, Key=self._key(f"{folder}/{name}"))
                except _client_error() as error:
                    if _code(error) not in _ABSENT:
                        raise
                    problems.append(f"{path}: missing")
                    continue
                if head["ContentLength"] != expected.size:
                    problems.append(f"{path}: {head['ContentLength']} bytes, expected {expected.size}")
                elif head["Metadata"].get(_SHA256) != expected.sha256:
                    problems.append(f"{path}: not the file that was published (its sha256 is another)")
        return problems

    def fetch(self, folder: str, files: Mapping[str, FileEntry]) -> Path:
        """See `Location.fetch`: the cached copy, downloaded unless a sound one is there."""
        final = self._cache / checked_name(folder)
        if final.is_dir():
            if not damage(final, files):
                with contextlib.suppress(FileNotFoundError):
                    os.utime(final)
                return final
            _discard(final)
        final.parent.mkdir(parents=True, exist_ok=True)
        temporary = final.with_name(f".{final.name}.{uuid.uuid4().hex[:8]}")
        temporary.mkdir()
        try:
            with self._translated():
                for name in files:
                    try:
                        self._client.download_file(self._bucket, self._key(f"{folder}/{name}"), str(temporary / name))
                    except _client_error() as error:
                        # A file that is missing is damage, which the caller finds and names; not a store that fails.
                        if _code(error) not in _ABSENT:
                            raise
            # Another process may have put its copy there meanwhile: it is the same.
            with contextlib.suppress(FileExistsError):
                rename_new(temporary, final)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        self._trim(final.parent)
        return final

    def remove_folder(self, folder: str) -> None:
        """See `Location.remove_folder`: the record first."""
        with self._translated():
            self._client.delete_object(Bucket=self._bucket, Key=self._key(f"{folder}/{RECORD}"))
            for entry in list(self._list(self._key(folder) + "/")):
                self._client.delete_object(Bucket=self._bucket, Key=entry["Key"])

    def remove_leftovers(self, under: str, before: datetime) -> None:
        """See `Location.remove_leftovers`: files of folders without a record."""
        start = self._key(under) + "/"
        complete = self.folders(under)
        with self._translated():
            for entry in list(self._list(start)):
                name = str(entry["Key"]).removeprefix(start).partition("/")[0]
                if name not in complete and entry["LastModified"] < before:
                    self._client.delete_object(Bucket=self._bucket, Key=entry["Key"])

    def _key(self, name: str) -> str:
        return self._prefix + checked_name(name)

    def _list(self, start: str) -> Iterator[Any]:
        with self._translated():
            for page in self._client.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=start):
                yield from page.get("Contents", ())

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        """Errors of boto3 as OSError, so that nobody else needs to know it."""
        from boto3.exceptions import Boto3Error
        from botocore.exceptions import BotoCoreError

        try:
            yield
        except (_client_error(), BotoCoreError, Boto3Error) as error:
            raise StoreRefused(f"{self}: {error}") from error

    def _trim(self, versions: Path) -> None:
        """Delete cached versions but the last few used, and what killed downloads left a day ago."""
        aged = []
        for path in versions.iterdir():
            with contextlib.suppress(FileNotFoundError):
                aged.append((path.stat().st_mtime, path))
        complete = sorted(pair for pair in aged if not pair[1].name.startswith("."))
        yesterday = datetime.now(UTC).timestamp() - 86_400
        for _, path in complete[:-CACHED_VERSIONS]:
            _discard(path)
        for age, path in aged:
            if path.name.startswith(".") and age < yesterday:
                shutil.rmtree(path, ignore_errors=True)


def _endpoint() -> str | None:
    return next((os.environ[name] for name in ENDPOINTS if os.environ.get(name)), None)


def _discard(path: Path) -> None:
    gone = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    with contextlib.suppress(FileNotFoundError):
        path.rename(gone)
        shutil.rmtree(gone, ignore_errors=True)


def _client_error() -> type[Any]:
    from botocore.exceptions import ClientError

    return ClientError  # type: ignore[no-any-return]  # boto3 ships no types


def _code(error: Any) -> str:
    return str(error.response["Error"]["Code"])
