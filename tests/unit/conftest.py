"""Tiny random backbones, made once for the tests of the model, training and embedding rooms."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.unit.training.small_run import Stages

Backbone = Callable[[str], Path]


@pytest.fixture(scope="session")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    """The folder of a tiny backbone by name, made on first use; read-only by agreement."""
    root = tmp_path_factory.mktemp("backbones")

    def folder(name: str) -> Path:
        from tests.unit.model.tiny import SAVE

        path = root / name
        if not path.exists():
            SAVE[name](path)
        return path

    return folder


@pytest.fixture(scope="session")
def stages(tmp_path_factory: pytest.TempPathFactory) -> Stages:
    """A store with a small data set, pairs, tiny backbones and vision features."""
    from tests.unit.training.small_run import Stages

    return Stages.build(tmp_path_factory.mktemp("stages"))
