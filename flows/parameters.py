"""What each flow takes: pydantic models, of which Prefect makes a form and the command line its flags.

Each flow takes one of them as its only parameter, `settings`. They are checked before any work begins: a recipe that is
not there or has a wrong field is one clear error. Paths are those of the machine that runs the flow; relative ones
begin at the project's folder there.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, ValidationError, field_validator, model_validator
from pydantic_core import ErrorDetails

from notellm2.errors import InputError
from notellm2.model.variants import TRAINED, find_variant
from notellm2.recipe import Recipe, change_recipe, load_recipe


@dataclass(frozen=True)
class Flag:
    """How the command line shows a setting, where its name does not say it.

    Attributes:
        name: flag, such as ``--set``; None: made from the setting's name.
        metavar: what stands for its value in the help; None: its type.
        repeated: whether a list is given by repeating the flag; else its members are separated by commas.
    """

    name: str | None = None
    metavar: str | None = None
    repeated: bool = False


RecipePath = Annotated[
    str, Field(min_length=1, description="path of a YAML recipe, such as recipes/team.yaml"), Flag(metavar="FILE")
]
DataPath = Annotated[
    str | None,
    Field(description="folder of a data set, or of a plain export to import first; empty: what the recipe says"),
    Flag(metavar="FOLDER"),
]
_DAYS = Flag(metavar="DAYS")


class FlowSettings(BaseModel):
    """What every flow shares."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @classmethod
    def check(cls, **values: Any) -> Self:
        """Make the settings of these values, as a command line has them.

        Raises:
            InputError: a value is out of range, or the recipe is wrong; names each.
        """
        try:
            return cls(**values)
        except ValidationError as error:
            raise InputError("; ".join(map(_problem, error.errors()))) from None

    store: Annotated[str, Flag(metavar="FOLDER")] = Field(
        "store", min_length=1, description="folder for everything the flows make, one for all of them"
    )
    overrides: Annotated[list[str], Flag("--set", "SECTION.FIELD=VALUE", repeated=True)] = Field(
        [], description="values on top of the recipe, each as section.field=value, such as training.steps=2000"
    )

    @property
    def store_path(self) -> Path:
        """The folder of the store."""
        return Path(self.store)


def _problem(details: ErrorDetails) -> str:
    """One line: the field, what was expected, and what was there instead."""
    cause, value = details.get("ctx", {}).get("error"), details["input"]
    if isinstance(cause, InputError):
        return str(cause)
    where = ".".join(map(str, details["loc"])) or "settings"
    return f"{where}: {details['msg']}" + (f", not {value!r}" if isinstance(value, str | int | float) else "")


class RecipeSettings(FlowSettings):
    """A flow that follows a recipe."""

    recipe: RecipePath

    _recipe: Recipe | None = PrivateAttr(None)

    @model_validator(mode="after")
    def _recipe_is_right(self) -> Self:
        _ = self.loaded_recipe
        return self

    @property
    def loaded_recipe(self) -> Recipe:
        """The recipe, read once: Prefect checks settings again before it calls the flow."""
        if self._recipe is None:
            self._recipe = load_recipe(Path(self.recipe), tuple(self.overrides))
        return self._recipe


class RetrainSettings(RecipeSettings):
    """From notes and behaviour to a registered model and a published index."""

    data: DataPath = None


class BacktestSettings(RetrainSettings):
    """How good the recipe would have been, window by window of time."""

    days: Annotated[float, _DAYS] = Field(7.0, gt=0, description="length of a window, days")
    windows: int = Field(4, ge=1, description="how many windows are tested, the latest ones")


class AblateSettings(RetrainSettings):
    """Variants of the model with several seeds, side by side."""

    variants: Annotated[list[str], Flag(metavar="NAME,...")] = Field(
        [variant.name for variant in TRAINED],
        min_length=1,
        description="names of variants, in the order of the table; each also as NAME-zero-shot",
    )
    seeds: Annotated[list[int], Flag(metavar="N,...")] = Field([0, 1, 2], min_length=1, description="seeds of training")

    @field_validator("variants")
    @classmethod
    def _known(cls, names: list[str]) -> list[str]:
        for name in names:
            find_variant(name)
        return names

    @field_validator("variants", "seeds")
    @classmethod
    def _each_once(cls, values: list[Any]) -> list[Any]:
        if len(set(values)) < len(values):
            raise ValueError("each once")
        return values

    @model_validator(mode="after")
    def _variants_fit_the_recipe(self) -> Self:
        self.cells()  # A wrong one should not cost a server's start, let alone an hour of training.
        return self

    def cells(self) -> list[tuple[str, int, Recipe]]:
        """List variant, seed and recipe of every cell of the table, in order.

        Raises:
            InputError: the recipe does not allow a variant's changes.
        """
        return [(name, seed, self._cell(name, seed)) for name in self.variants for seed in self.seeds]

    def _cell(self, variant: str, seed: int) -> Recipe:
        changed = change_recipe(self.loaded_recipe, (*find_variant(variant).overrides, f"training.seed={seed}"))
        return changed.model_copy(update={"name": f"{changed.name}-{variant}-{seed}"})


class IngestSettings(RetrainSettings):
    """From a new export, which `data` names, to a data version that passed its checks."""

    pin: bool = Field(True, description="record the version with DVC: <data.dir>.dvc, and a copy in DVC's cache")
    push: bool = Field(False, description="store the version at a DVC remote too")
    remote: Annotated[str | None, Flag(metavar="NAME")] = Field(
        None, description="name of that remote; empty: DVC's default one"
    )


class RefreshSettings(FlowSettings):
    """The published index brought up to date with the notes; nothing is trained."""

    recipe: Annotated[RecipePath | None, Flag(metavar="FILE")] = Field(
        None, description="path of a YAML recipe; empty: the champion's own"
    )
    data: DataPath = None

    _recipe: Recipe | None = PrivateAttr(None)

    @model_validator(mode="after")
    def _recipe_is_right(self) -> Self:
        _ = self.loaded_recipe
        return self

    @property
    def loaded_recipe(self) -> Recipe | None:
        """The recipe, read once; None: the champion's own is to be taken."""
        if self._recipe is None and self.recipe is not None:
            self._recipe = load_recipe(Path(self.recipe), tuple(self.overrides))
        return self._recipe


class CleanupSettings(RecipeSettings):
    """What is removed once it is old; what a version in use, or one a rollback can reach, was made from stays."""

    artifacts_keep: int = Field(2, ge=1, description="newest artifacts kept of each stage, with all they need")
    artifacts_days: Annotated[float, _DAYS] = Field(7.0, ge=1, description="artifacts stay for, days")
    data_days: Annotated[float, _DAYS] = Field(
        30.0, ge=1, description="data versions that no run began with any more stay for, days"
    )
    flow_runs_days: Annotated[float, _DAYS] = Field(
        30.0, ge=1, description="finished flow runs stay in Prefect for, days"
    )
    mlflow_days: Annotated[float | None, _DAYS] = Field(
        90.0, ge=1, description="MLflow runs, and versions never in use, stay for, days; empty: all stay"
    )
    mlflow_deleted_days: Annotated[float, _DAYS] = Field(
        30.0, ge=1, description="what was deleted in MLflow can be restored for, days"
    )
    dry_run: bool = Field(False, description="only say what would go")
