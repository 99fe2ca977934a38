"""A run's recipe, read back."""

from __future__ import annotations

from notellm2.recipe import Recipe
from notellm2.registry.recipes import recipe_of
from notellm2.registry.runs import Run
from notellm2.registry.tracking import Tracking


def test_the_recipe_of_a_run_is_what_it_recorded(tracking: Tracking) -> None:
    recipe = Recipe(name="small")
    with Run.open(tracking, "key", name="small") as run:
        assert recipe_of(tracking, run.run_id) is None
        run.log_recipe(recipe)
    assert recipe_of(tracking, run.run_id) == recipe.model_dump(mode="json")
