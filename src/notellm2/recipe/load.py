"""Read a whole recipe from its YAML file."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field, ValidationError, model_validator

from notellm2.errors import InputError
from notellm2.recipe.data import DataConfig, PairsConfig, QualityConfig
from notellm2.recipe.model import BackbonesConfig, ModelConfig
from notellm2.recipe.release import AlertsConfig, EvaluationConfig, GateConfig, IndexConfig, RegistryConfig
from notellm2.recipe.section import Section
from notellm2.recipe.training import ChoiceConfig, TrainingConfig
from notellm2.recipe.yaml12 import line_of, load_yaml


class Recipe(Section):
    """All settings of one retraining."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9.-]*$", description="name of the recipe")
    data: DataConfig = DataConfig()
    quality: QualityConfig = QualityConfig()
    pairs: PairsConfig = PairsConfig()
    backbones: BackbonesConfig = BackbonesConfig()
    model: ModelConfig = ModelConfig()
    choice: ChoiceConfig = ChoiceConfig()
    training: TrainingConfig = TrainingConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    gate: GateConfig = GateConfig()
    index: IndexConfig = IndexConfig()
    registry: RegistryConfig = RegistryConfig()
    alerts: AlertsConfig = AlertsConfig()

    @model_validator(mode="after")
    def _can_be_sharded(self) -> Recipe:
        if self.training.sharding == "full" and self.model.base_weights == "nf4":
            raise ValueError("training.sharding 'full' cannot slice weights of 4 bits: set model.base_weights to bf16")
        return self

    @model_validator(mode="after")
    def _something_is_trained(self) -> Recipe:
        if self.training.steps != 0 and not self.model.trains:
            raise ValueError("nothing of this model is trained: set training.steps to 0, or model.tuning or model.head")
        return self

    @model_validator(mode="after")
    def _choice_can_be_measured(self) -> Recipe:
        if self.choice.variants and not self.pairs.validation_share:
            raise ValueError("choice.variants are compared on validation pairs: set pairs.validation_share above 0")
        return self

    @model_validator(mode="after")
    def _linear_is_measured(self) -> Recipe:
        if not self.evaluation.linear and "linear" in self.gate.baselines:
            raise ValueError(
                "gate.baselines names linear, which evaluation.linear: false leaves out: take it out, or set "
                "evaluation.linear to true"
            )
        return self


def load_recipe(path: Path, overrides: tuple[str, ...] = ()) -> Recipe:
    """Read and validate a recipe.

    Args:
        path: a YAML file.
        overrides: ``section.field=value`` assignments, value in YAML, applied on top of the file.

    Raises:
        InputError: the file is missing, is not YAML, or a field is unknown or out of range; names every field.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
        tree = load_yaml(text)
    except FileNotFoundError:
        raise InputError(f"recipe {path}: no such file; recipes are YAML files such as recipes/sample.yaml") from None
    except IsADirectoryError:
        raise InputError(f"recipe {path}: a folder; name a YAML file such as recipes/sample.yaml") from None
    except OSError as error:
        raise InputError(f"recipe {path}: cannot be read: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"recipe {path}: not valid YAML: {error}") from None
    if not isinstance(tree, dict):
        raise InputError(f"recipe {path}: expected a mapping of sections, found {type(tree).__name__}")
    return parse_recipe(tree, overrides, source=f"recipe {path}", text=text)


def parse_recipe(tree: dict[str, Any], overrides: tuple[str, ...] = (), *, source: str, text: str = "") -> Recipe:
    """Validate a recipe that is read already.

    Args:
        tree: sections, as in a YAML file; not changed.
        overrides: as for `load_recipe`.
        source: where it is from, for messages: "recipe recipes/team.yaml".
        text: its YAML, where messages are to name lines.

    Raises:
        InputError: a field is unknown or out of range; names every field.
    """
    tree = copy.deepcopy(tree)
    for assignment in overrides:
        _assign(tree, assignment)
    try:
        return Recipe.model_validate(tree)
    except ValidationError as error:
        overridden = {tuple(assignment.partition("=")[0].split(".")) for assignment in overrides}
        lines = [_field_to_mend(text, entry["loc"], entry["msg"], overridden) for entry in error.errors()]
        raise InputError(f"{source}: {len(lines)} field(s) to mend\n" + "\n".join(lines)) from None


def change_recipe(recipe: Recipe, overrides: tuple[str, ...]) -> Recipe:
    """Return a recipe with assignments on top, as `load_recipe` takes them.

    Raises:
        InputError: a field is unknown or out of range; names every field.
    """
    return parse_recipe(recipe.model_dump(mode="json"), overrides, source=f"recipe {recipe.name}")


def _assign(tree: dict[str, Any], assignment: str) -> None:
    name, equals, text = assignment.partition("=")
    *parents, leaf = name.split(".")
    if not equals or not leaf:
        raise InputError(f"override {assignment!r}: expected section.field=value, for example training.steps=200")
    for parent in parents:
        child = tree.setdefault(parent, {})
        if not isinstance(child, dict):
            raise InputError(f"override {assignment!r}: {parent!r} is a value here, not a section")
        tree = child
    try:
        tree[leaf] = load_yaml(text)
    except yaml.YAMLError as error:
        problem = getattr(error, "problem", None) or "it cannot be read"
        raise InputError(
            f"override {assignment!r}: not valid YAML: {problem}; put quotes around a value that is a text"
        ) from None


def _field_to_mend(text: str, loc: tuple[int | str, ...], message: str, overridden: set[tuple[str, ...]]) -> str:
    """One line of the error: field, what is wrong, and the line of the file it stands in."""
    names = tuple(map(str, loc))
    line = None if not text or any(names[: len(name)] == name for name in overridden) else line_of(text, loc)
    return f"  {'.'.join(names) or '(recipe)'}: {message}" + (f" (line {line})" if line else "")
