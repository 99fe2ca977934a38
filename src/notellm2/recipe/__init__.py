"""Recipes: every setting of a run, as one validated YAML file.

A recipe is a tree of pydantic models, one section a stage; a stage's artifact key covers its own section only, so
a change of the index settings does not retrain the model. Unknown fields are errors. Every field states its unit.
"""

from __future__ import annotations

from notellm2.recipe.data import DataConfig, ImageLimits, PairsConfig, QualityConfig, SampleConfig
from notellm2.recipe.load import Recipe, change_recipe, load_recipe, parse_recipe
from notellm2.recipe.model import (
    BackbonesConfig,
    ConnectorConfig,
    LoraSettings,
    ModelConfig,
    ShortcutsConfig,
    TextLimits,
    TinyLLMConfig,
    TinyVisionConfig,
    as_recorded,
)
from notellm2.recipe.release import AlertsConfig, EvaluationConfig, GateConfig, IndexConfig, RegistryConfig
from notellm2.recipe.section import Section
from notellm2.recipe.training import ChoiceConfig, GenerationConfig, RefitConfig, TrainingConfig

__all__ = [
    "AlertsConfig",
    "BackbonesConfig",
    "ChoiceConfig",
    "ConnectorConfig",
    "DataConfig",
    "EvaluationConfig",
    "GateConfig",
    "GenerationConfig",
    "ImageLimits",
    "IndexConfig",
    "LoraSettings",
    "ModelConfig",
    "PairsConfig",
    "QualityConfig",
    "Recipe",
    "RefitConfig",
    "RegistryConfig",
    "SampleConfig",
    "Section",
    "ShortcutsConfig",
    "TextLimits",
    "TinyLLMConfig",
    "TinyVisionConfig",
    "TrainingConfig",
    "as_recorded",
    "change_recipe",
    "load_recipe",
    "parse_recipe",
]
