"""Publication is tested with the index room's indexes and places."""

from __future__ import annotations

from tests.unit.index.conftest import built, place, store

__all__ = ["built", "place", "store"]
