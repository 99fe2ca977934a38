"""Which hidden states whoever runs an LLM is going to read, told to the attention that could leave the others out.

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
    """Within, the caller promises to read an LLM's last hidden states at these positions alone.

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
    """int64[B, P], what `reading` was promised; None: everything may be read."""
    return _READ.get()
