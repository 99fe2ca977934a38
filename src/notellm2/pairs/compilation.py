"""Loops as machine code: numba, where its code can be kept on disk and where it cannot."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba

_Function = TypeVar("_Function", bound=Callable[..., Any])


def compiled(function: _Function) -> _Function:
    """Compile a function to machine code at its first call, and keep the code on disk where that is possible.

    Numba keeps it in ``__pycache__`` or the user's cache folder; where neither can be written (a read-only install
    without a home) it refuses to cache, and each process compiles anew (a few seconds).
    """
    try:
        return cast(_Function, numba.njit(cache=True, nogil=True)(function))
    except RuntimeError as error:
        if "cannot cache" not in str(error):
            raise
        return cast(_Function, numba.njit(nogil=True)(function))
