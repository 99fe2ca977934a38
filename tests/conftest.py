"""What all tests share: single-threaded numerics for speed on small inputs, and the optional shared data."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

# Before any numeric library starts its threads: tests are small, and two busy thread pools on two cores only wait.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TQDM_DISABLE", "1")

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with real data and models beside the project, or a skip that says it is missing."""
    path = ROOT.parent / "shared"
    if not (path / "data" / "movielens-posters" / "notes.parquet").exists():
        pytest.skip(f"needs the shared data and models in {path}")
    return path
