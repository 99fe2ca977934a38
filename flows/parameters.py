"""What each flow can be told: pydantic models, so that Prefect shows a form with descriptions and checks it.

Each flow takes one of them as its only parameter, `settings`. A flow checks it before its first task: a recipe that is
not there or has a wrong field is one clear error, without any work begun. Paths are those of the machine that runs the
flow; relative ones begin at the project's folder there.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from notellm2.errors import InputError
from notellm2.recipe import load_recipe

RecipePath = Annotated[str, Field(min_length=1, description="path of a YAML recipe, such as recipes/team.yaml")]
DataPath = Annotated[
    str | None,
    Field(description="folder of a data set, or of a plain export to import first; empty: what the recipe says"),
]


class FlowSettings(BaseModel):
    """What every flow shares."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @classmethod
    def given(cls, **values: Any) -> Self:
        """The settings of these values, as a command line has them.

        Raises:
            InputError: a value is out of range, or the recipe is wrong; names each.
        """
        try:
            return cls(**values)
        except ValidationError as error:
            told = [f"{'.'.join(map(str, e['loc'])) or 'settings'}: {e['msg']}" for e in error.errors()]
            raise InputError("; ".join(told)) from None

    store: str = Field("store", min_length=1, description="folder for everything the flows make, one for all of them")
    overrides: list[str] = Field(
        [], description="values on top of the recipe, each as section.field=value, such as training.steps=2000"
    )


class RecipeSettings(FlowSettings):
    """A flow that follows a recipe."""

    recipe: RecipePath

    @model_validator(mode="after")
    def _recipe_is_right(self) -> Self:
        load_recipe(Path(self.recipe), tuple(self.overrides))
        return self


class RetrainSettings(RecipeSettings):
    """From notes and behaviour to a registered model and a published index."""

    data: DataPath = None


class BacktestSettings(RetrainSettings):
    """How good the recipe would have been, window by window of time."""

    days: float = Field(7.0, gt=0, description="length of a window, days")
    windows: int = Field(4, ge=1, description="how many windows are tested, the latest ones")


class AblateSettings(RetrainSettings):
    """Variants of the model with several seeds, side by side."""

    variants: list[str] = Field(min_length=1, description="names of variants, in the order of the table")
    seeds: list[int] = Field([0, 1, 2], min_length=1, description="seeds of training")

    @field_validator("variants")
    @classmethod
    def _known(cls, names: list[str]) -> list[str]:
        from notellm2.model.variants import find_variant

        for name in names:
            find_variant(name)
        return names


class IngestSettings(RetrainSettings):
    """From a new export, which `data` names, to a data version that passed its checks."""

    pin: bool = Field(True, description="record the version with DVC: <data.dir>.dvc, and a copy in DVC's cache")
    push: bool = Field(False, description="store the version at a DVC remote too")
    remote: str | None = Field(None, description="name of that remote; empty: DVC's default one")


class RefreshSettings(FlowSettings):
    """The published index brought up to date with the notes; nothing is trained."""

    recipe: RecipePath | None = Field(None, description="path of a YAML recipe; empty: the champion's own")
    data: DataPath = None

    @model_validator(mode="after")
    def _recipe_is_right(self) -> Self:
        if self.recipe is not None:
            load_recipe(Path(self.recipe), tuple(self.overrides))
        return self


class CleanupSettings(RecipeSettings):
    """What is removed once it is old; what a version in use, or one a rollback can reach, was made from stays."""

    artifacts_keep: int = Field(2, ge=1, description="newest artifacts kept of each stage, with all they need")
    artifacts_days: float = Field(7.0, ge=1, description="artifacts stay for, days")
    data_days: float = Field(30.0, ge=1, description="data versions that no run began with any more stay for, days")
    flow_runs_days: float = Field(30.0, ge=1, description="finished flow runs stay in Prefect for, days")
    mlflow_days: float | None = Field(
        90.0, ge=1, description="MLflow runs, and versions never in use, stay for, days; empty: all stay"
    )
    mlflow_deleted_days: float = Field(30.0, ge=1, description="what was deleted in MLflow can be restored for, days")
    dry_run: bool = Field(False, description="only say what would go")
