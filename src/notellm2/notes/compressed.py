"""Text files of an export as they are, or compressed by gzip or zstd."""

from __future__ import annotations

import gzip
import io
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO, cast

import pyarrow as pa

SUFFIXES = ("", ".gz", ".zst")
"""Endings of a text file's name: plain, gzip, zstd."""


@contextmanager
def open_unpacked(path: Path) -> Iterator[tuple[BinaryIO, Callable[[], float]]]:
    """Open a file for reading, unpacked by its name's ending; with a function that says how much of it was read."""
    size = path.stat().st_size or 1
    with ExitStack() as stack:
        raw = stack.enter_context(path.open("rb"))
        handle: BinaryIO = raw
        if path.suffix == ".gz":
            handle = cast(BinaryIO, stack.enter_context(gzip.GzipFile(fileobj=raw)))
        elif path.suffix == ".zst":
            stream = stack.enter_context(pa.CompressedInputStream(pa.PythonFile(raw, mode="r"), "zstd"))
            handle = cast(BinaryIO, io.BufferedReader(cast(io.RawIOBase, stream), 1 << 20))
        yield handle, lambda: raw.tell() / size
