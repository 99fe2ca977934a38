"""Embeddings at a smaller width: the first numbers of each, made length 1 again. Light to import: no torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from notellm2.errors import InputError


def prefixes(x_ND: NDArray[np.floating[Any]], width: int) -> NDArray[np.float32]:
    """Cut embeddings to prefixes float32[N, width], L2-normalised; a row of zeros stays one."""
    x = np.asarray(x_ND[:, :width], np.float32)
    lengths = np.linalg.norm(x, axis=1, keepdims=True)
    return np.asarray(x / np.maximum(lengths, 1e-12), np.float32)


def check_width(width: int, dim: int, trained: Sequence[int]) -> None:
    """Check that a model serves a width.

    Args:
        width: asked for.
        dim: the model's own width.
        trained: the smaller ones it was trained for, ``model.matryoshka``.

    Raises:
        InputError: it does not; says which it serves.
    """
    if width != dim and width not in trained:
        served = ", ".join(map(str, (*trained, dim)))
        raise InputError(f"width {width}: this model serves {served}; others need model.matryoshka at training")
