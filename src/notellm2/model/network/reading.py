"""Tell an LLM's attention which hidden states will be read, so that it can leave the others out.

Shape suffixes: B notes, P positions.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar

from torch import Tensor

_READ: ContextVar[Tensor | None] = ContextVar("read_positions", default=None)


@contextlib.contextmanager
def reading(positions_BP: Tensor) -> Iterator[None]:
    """Tell an LLM, for the length of the block, that only these positions' last hidden states will be read.

    An LLM that `notellm2.model.network.attention.attend_fast` has seen then leaves the last layer's other attention
    out: its other hidden states mean nothing. Every other LLM computes them as ever.

    Args:
        positions_BP: int64[B, P], for each note of the batch.
    """
    before = _READ.set(positions_BP)
    try:
        yield
    finally:
        _READ.reset(before)


def read_positions() -> Tensor | None:
    """Return the positions that `reading` was promised, int64[B, P]; None: everything may be read."""
    return _READ.get()
