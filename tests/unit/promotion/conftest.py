"""Promotion is tested on the registry's store and world."""

from __future__ import annotations

from tests.unit.registry.conftest import bundle, evaluation, indexes, server, store_root, tracking, training, world

__all__ = ["bundle", "evaluation", "indexes", "server", "store_root", "tracking", "training", "world"]
