"""The recipe a run was made by, as the run recorded it."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import yaml

from notellm2.registry.tracking import Tracking

RECIPE_FILE = "recipe.yaml"


def recipe_of(tracking: Tracking, run_id: str) -> dict[str, Any] | None:
    """Every field of a run's recipe, as plain data; None: the run recorded none.

    It may be of an earlier version of this package, with other fields: it is for reading, not for running.
    """
    client = tracking.client
    if RECIPE_FILE not in {item.path for item in client.list_artifacts(run_id)}:
        return None
    with tempfile.TemporaryDirectory() as folder:
        path = Path(client.download_artifacts(run_id, RECIPE_FILE, folder))
        tree: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return tree
