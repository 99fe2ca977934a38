"""A run's recipe, read back."""

from __future__ import annotations

import pytest

from notellm2.recipe import Recipe
from notellm2.registry import recipes
from notellm2.registry.recipes import read_recipe, recipe_of
from notellm2.registry.runs import Run
from notellm2.registry.tracking import Tracking


def test_the_recipe_of_a_run_is_what_it_recorded(tracking: Tracking) -> None:
    recipe = Recipe(name="small")
    with Run.open(tracking, "key", name="small") as run:
        assert recipe_of(tracking, run.run_id) is None
        run.log_recipe(recipe)
    assert recipe_of(tracking, run.run_id) == recipe.model_dump(mode="json")


def test_a_recipe_from_before_heads_were_centred_says_so(tracking: Tracking, monkeypatch: pytest.MonkeyPatch) -> None:
    tree = Recipe(name="small").model_dump(mode="json")
    monkeypatch.setattr(recipes, "recipe_of", lambda *_: tree)
    assert read_recipe(tracking, "a run", "version 1").model.centre
    del tree["model"]["centre"]
    assert not read_recipe(tracking, "a run", "version 1").model.centre
