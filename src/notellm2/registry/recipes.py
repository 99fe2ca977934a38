"""The recipe a run was made by, as the run recorded it."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from notellm2.artifacts import KEY_LENGTH, digest_json
from notellm2.errors import InputError
from notellm2.recipe import Recipe, as_recorded
from notellm2.registry.tracking import Tracking

RECIPE_FILE = "recipe.yaml"


def recipe_digest(recipe: Recipe) -> str:
    """Digest every field of a recipe, defaults included."""
    return digest_json(recipe.model_dump(mode="json"))[:KEY_LENGTH]


def recipe_of(tracking: Tracking, run_id: str) -> dict[str, Any] | None:
    """Read every field of a run's recipe, as plain data; None: the run recorded none.

    It may be of an earlier version of this package, with other fields: it is for reading, not for running.
    """
    client = tracking.client
    if RECIPE_FILE not in {item.path for item in client.list_artifacts(run_id)}:
        return None
    with tempfile.TemporaryDirectory() as folder:
        path = Path(client.download_artifacts(run_id, RECIPE_FILE, folder))
        tree: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return tree


def read_recipe(tracking: Tracking, run_id: str, what: str) -> Recipe:
    """Read a run's recipe as one that can be run again.

    Args:
        tracking: the store.
        run_id: of the run.
        what: whose recipe it is, for messages: "version 3".

    Raises:
        InputError: the run recorded none, or one that this package does not understand any more.
    """
    tree = recipe_of(tracking, run_id)
    if tree is None:
        raise InputError(f"{what}: its run {run_id} recorded no {RECIPE_FILE}, so how to test it is not known")
    try:
        return Recipe.model_validate(as_recorded(tree))
    except ValidationError as error:
        fields = ", ".join(".".join(map(str, e["loc"])) for e in error.errors())
        raise InputError(
            f"{what}: its recipe is of another version of this package ({fields}); retrain it with a present recipe"
        ) from None
