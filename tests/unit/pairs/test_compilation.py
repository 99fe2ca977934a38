"""Loops are compiled wherever they can or cannot be kept on disk."""

from __future__ import annotations

from collections.abc import Callable

from notellm2.pairs.compilation import compiled


def test_code_that_cannot_be_cached_is_compiled_all_the_same() -> None:
    # A function without a source file is to numba what a read-only install without a home is: nowhere to cache.
    space: dict[str, Callable[[int], int]] = {}
    exec("def double(n):\n    return 2 * n\n", space)
    assert compiled(space["double"])(21) == 42
