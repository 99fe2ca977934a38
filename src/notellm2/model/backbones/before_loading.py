"""What can be known of backbones before they are loaded. Imports nothing heavy: a retraining begins with it."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from notellm2.errors import InputError

_LFS = b"version https://git-lfs.github.com/spec/"
_LFS_CHARS = len(_LFS)


def lfs_pointers(source: str) -> str:
    """Say what to do where files of a folder are Git LFS pointers, as a clone without git-lfs leaves them; else ""."""
    folder = Path(source)
    pointers = sorted(path.name for path in folder.iterdir() if _is_lfs_pointer(path)) if folder.is_dir() else []
    verb = "is a Git LFS pointer" if len(pointers) == 1 else "are Git LFS pointers"
    return f"{', '.join(pointers)} {verb}; run `git lfs pull` in the folder" if pointers else ""


def _is_lfs_pointer(path: Path) -> bool:
    try:
        with path.open("rb") as handle:
            return handle.read(_LFS_CHARS) == _LFS
    except OSError:
        return False


def require_bitsandbytes() -> None:
    """Check that weights of 4 bits can be held.

    Raises:
        InputError: bitsandbytes is not installed.
    """
    if importlib.util.find_spec("bitsandbytes") is None:
        raise InputError("model.base_weights: nf4 needs bitsandbytes; install notellm2[quantized], or use bf16")
