"""Promotion is tested on the registry's store and world."""

from __future__ import annotations

from tests.unit.registry.conftest import indexes, server, store_root, tracking, world

__all__ = ["indexes", "server", "store_root", "tracking", "world"]
