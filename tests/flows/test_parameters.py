"""What Prefect's form shows of each flow, and what is refused before any work begins."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from flows import parameters
from flows.parameters import AblateSettings, BacktestSettings, CleanupSettings, RefreshSettings, RetrainSettings
from notellm2.errors import InputError
from tests.flows.running import RECIPE

FLOWS = ["retrain", "refresh_index", "ingest", "backtest", "ablate", "cleanup"]


@pytest.mark.parametrize("name", FLOWS)
def test_the_form_describes_every_field(name: str) -> None:
    from prefect.utilities.callables import parameter_schema

    schema = parameter_schema(getattr(importlib.import_module(f"flows.{name}"), name)).model_dump()
    assert list(schema["properties"]) == ["settings"]
    (model,) = schema["definitions"].values()
    assert {field: text for field, entry in model["properties"].items() if not (text := entry.get("description"))} == {}
    assert model["additionalProperties"] is False
    assert set(model["properties"]) >= {"store", "recipe", "overrides"}


def test_numbers_say_their_unit() -> None:
    kinds = [one for one in vars(parameters).values() if isinstance(one, type) and issubclass(one, BaseModel)]
    silent = {
        f"{kind.__name__}.{name}"
        for kind in kinds
        for name, field in kind.model_fields.items()
        if "float" in str(field.annotation) and "days" not in str(field.description)
    }
    assert silent == set()


def test_a_recipe_that_is_not_there_is_one_clear_error() -> None:
    with pytest.raises(ValidationError, match=r"recipe nowhere\.yaml: no such file"):
        RetrainSettings(recipe="nowhere.yaml")
    with pytest.raises(InputError, match=r"training\.stepps: Extra inputs are not permitted"):
        RetrainSettings.check(recipe=str(RECIPE), overrides=["training.stepps=3"])
    with pytest.raises(ValidationError, match="no such file"):
        RefreshSettings(recipe="nowhere.yaml")
    assert RefreshSettings().recipe is None


@pytest.mark.parametrize(
    ("kind", "given", "told"),
    [
        (BacktestSettings, {"days": 0}, "days: Input should be greater than 0"),
        (BacktestSettings, {"windows": 0}, "windows: Input should be greater than or equal to 1"),
        (AblateSettings, {"variants": ["best"]}, "variant 'best': there is none of that name"),
        (CleanupSettings, {"mlflow_days": 0}, "mlflow_days: Input should be"),
        (RetrainSettings, {"stores": "x"}, "stores: Extra inputs are not permitted"),
    ],
)
def test_what_is_out_of_range_is_named(kind: type[parameters.FlowSettings], given: dict[str, Any], told: str) -> None:
    with pytest.raises(InputError, match=told):
        kind.check(recipe=str(RECIPE), **given)


def test_settings_survive_prefect_s_json() -> None:
    settings = CleanupSettings(recipe=str(RECIPE), mlflow_days=None, overrides=["training.steps=3"])
    assert CleanupSettings.model_validate(settings.model_dump(mode="json")) == settings
    assert Path(settings.recipe) == RECIPE
