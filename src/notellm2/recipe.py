"""Recipes: everything a run can be told, as one validated YAML file.

A recipe is a tree of pydantic models, one section a stage; a stage's artifact key covers its own section only, so
a change of the index settings does not retrain the model. Unknown fields are errors. Every field states its unit.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from notellm2.errors import InputError


class Section(BaseModel):
    """A part of a recipe: immutable, and strict about unknown fields."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class SampleConfig(Section):
    """The generated sample data set (`notellm2 sample`)."""

    notes: int = Field(2000, ge=50, description="number of notes")
    users: int = Field(3000, ge=50, description="number of users")
    seed: int = Field(7, ge=0, description="seed of the generator")


class ImageLimits(Section):
    """Bounds on what is decoded, so that one hostile file cannot exhaust a worker."""

    max_bytes: int = Field(8_000_000, ge=1, description="largest encoded image, bytes")
    max_pixels: int = Field(40_000_000, ge=1, description="largest decoded image, pixels")


class DataConfig(Section):
    """Where the notes come from."""

    dir: Path = Field(Path("data"), description="the data set on disk, versioned by DVC as <dir>.dvc")
    export: Path | None = Field(None, description="plain export to import into `dir`; null: `dir` is there already")
    sample: SampleConfig | None = Field(None, description="make `dir` from the generated sample when it is missing")
    images: ImageLimits = ImageLimits()


class QualityConfig(Section):
    """What a data version must satisfy before anything is trained on it."""

    min_notes: int = Field(100, ge=1, description="fewest notes")
    min_interactions: int = Field(1000, ge=1, description="fewest interactions")
    max_title_chars: int = Field(500, ge=1, description="longest title, characters")
    max_content_chars: int = Field(100_000, ge=1, description="longest content, characters")
    min_share_with_text: float = Field(
        0.5, ge=0, le=1, description="least share of notes with title, topics or content"
    )
    min_share_with_image: float = Field(0.5, ge=0, le=1, description="least share of notes with an image")
    max_share_quarantined: float = Field(0.05, ge=0, le=1, description="largest share of imported rows quarantined")
    max_volume_drop: float = Field(0.5, ge=0, le=1, description="largest loss of rows against the previous version")
    earliest: str = Field("1990-01-01", description="no behaviour before this date (UTC, ISO 8601)")
    latest: str | None = Field(None, description="no behaviour after this date (UTC, ISO 8601); null: now")
    min_users: int = Field(10, ge=1, description="fewest users with behaviour")
    decode_sample: int = Field(256, ge=0, description="images decoded, evenly spread; the others: header only")
    max_share_duplicate_texts: float = Field(
        0.05, ge=0, le=1, description="warning above: notes of 40 characters or more that copy a text"
    )
    max_share_duplicate_images: float = Field(
        0.05, ge=0, le=1, description="warning above: images that copy another byte by byte"
    )
    max_share_idle_notes: float = Field(0.5, ge=0, le=1, description="warning above: notes without any behaviour")
    max_share_single_notes: float = Field(0.5, ge=0, le=1, description="warning above: notes with one interaction")
    max_share_top_user: float = Field(0.05, ge=0, le=1, description="warning above: behaviour of the busiest user")
    max_share_repeats: float = Field(0.05, ge=0, le=1, description="warning above: interactions that repeat a row")


class PairsConfig(Section):
    """Splits and mined pairs (NoteLLM, section 4.3)."""

    score: Literal["notellm", "cosine"] = Field(
        "notellm",
        description="notellm: sum over users of 1/N_u, N_u = notes the user clicked; cosine: common users / "
        "sqrt(users who viewed A * users who clicked B), which popular notes do not lead",
    )
    direction: Literal["directed", "symmetric"] = Field(
        "directed",
        description="directed: viewed A, then clicked B; symmetric: clicked both, in any order (source_events unread)",
    )
    source_events: tuple[str, ...] = Field(
        ("view", "click", "like"), min_length=1, description="events that count as viewing A"
    )
    target_events: tuple[str, ...] = Field(
        ("click", "like"), min_length=1, description="events that count as clicking B"
    )
    history_cap: int = Field(200, ge=2, description="most recent notes of a user that form pairs")
    min_support: int = Field(2, ge=1, description="fewest users behind a pair")
    min_popularity: int = Field(1, ge=1, description="fewest users who viewed A, and who clicked B")
    lower: float = Field(0.0, ge=0, description="pairs that score less are dropped as noise")
    upper: float = Field(float("1e9"), gt=0, description="pairs that score more are dropped as noise")
    top_t: int = Field(10, ge=1, description="targets kept for each query note")
    assign: Literal["random", "newest"] = Field(
        "random", description="which notes are held out: random ones, or the newest (the cold start)"
    )
    behaviour: Literal["whole", "before-after"] = Field(
        "whole",
        description="whole: note-disjoint only; before-after: training also sees no behaviour after the cut "
        "and validation and test none before it",
    )
    cut_share: float = Field(0.7, gt=0, lt=1, description="before-after: share of the behaviour before the cut")
    validation_share: float = Field(0.1, ge=0, lt=1, description="share of notes held out for validation")
    test_share: float = Field(0.2, gt=0, lt=1, description="share of notes held out for the test")
    split_seed: int = Field(1, ge=0, description="seed of the random assignment")
    protocol: Literal["paper", "best-partner"] = Field(
        "paper",
        description="paper: test pairs whose notes have not appeared before, pool = the rest; best-partner: each "
        "held-out note's best held-out partner, pool = held-out notes of at least min_popularity",
    )

    @model_validator(mode="after")
    def _bounds(self) -> PairsConfig:
        if self.lower > self.upper:
            raise ValueError(f"lower ({self.lower}) is above upper ({self.upper})")
        if self.validation_share + self.test_share >= 1:
            raise ValueError("validation_share + test_share leave no notes to train on")
        return self


class TinyLLMConfig(Section):
    """A small causal LM with its own tokenizer, trained on the data set's text; for where no hub is at hand."""

    vocabulary: int = Field(4096, ge=300, description="tokens of the byte-level BPE tokenizer")
    width: int = Field(128, ge=16, description="hidden width")
    layers: int = Field(4, ge=1, description="transformer layers")
    heads: int = Field(4, ge=1, description="attention heads")
    steps: int = Field(300, ge=0, description="pretraining steps (next-token loss)")
    batch: int = Field(64, ge=1, description="texts a pretraining step")
    lr: float = Field(2e-3, gt=0, description="peak learning rate of pretraining")


class TinyVisionConfig(Section):
    """A small vision transformer, trained contrastively on the data set's images and texts."""

    image_px: int = Field(64, ge=16, description="input side, pixels")
    patch_px: int = Field(8, ge=2, description="patch side, pixels")
    width: int = Field(128, ge=16, description="hidden width")
    layers: int = Field(4, ge=1, description="transformer layers")
    heads: int = Field(4, ge=1, description="attention heads")
    steps: int = Field(300, ge=0, description="pretraining steps (image-text contrastive loss)")
    batch: int = Field(128, ge=2, description="image-text pairs a pretraining step")
    lr: float = Field(1e-3, gt=0, description="peak learning rate of pretraining")


class BackbonesConfig(Section):
    """The two pretrained halves: any Hugging Face causal LLM, any vision encoder."""

    llm: str | TinyLLMConfig = Field(TinyLLMConfig(), description="hub name, local folder, or a tiny one to build")
    vision: str | TinyVisionConfig = Field(TinyVisionConfig(), description="hub name, local folder, or a tiny one")
    revision: str | None = Field(None, description="hub revision of both names; null: the newest")
    seed: int = Field(0, ge=0, description="seed of the tiny ones' training")


class TextLimits(Section):
    """How much of a note's text the model reads (NoteLLM-2, experimental set-up)."""

    title_chars: int = Field(20, ge=0, description="title, characters")
    topics: int = Field(10, ge=0, description="number of topics")
    topic_chars: int = Field(16, ge=0, description="each topic, characters")
    content_chars: int = Field(80, ge=0, description="content, characters")
    max_tokens: int = Field(140, ge=8, description="all text of a note, tokens")


class ConnectorConfig(Section):
    """Vision features to visual tokens (NoteLLM-2, the connector)."""

    queries: int = Field(16, ge=1, description="visual tokens")
    layers: int = Field(6, ge=1, description="Q-Former layers")
    width: int = Field(768, ge=8, description="Q-Former hidden width")
    heads: int = Field(12, ge=1, description="attention heads")


class LoraSettings(Section):
    """Low-rank adapters on the LLM."""

    rank: int = Field(16, ge=1, description="rank")
    alpha: int = Field(32, ge=1, description="scaling numerator; the adapter's output is scaled by alpha / rank")
    dropout: float = Field(0.0, ge=0, lt=1, description="dropout on the adapter's input")
    targets: tuple[str, ...] | Literal["all-linear"] = Field("all-linear", description="names of adapted modules")
    embeddings: bool = Field(False, description="also train the token embeddings, whole (for small vocabularies)")


class ModelConfig(Section):
    """The NoteLLM-2 model (paper, section 3)."""

    prompt: Literal["micl", "basic", "text"] = Field(
        "micl", description="micl: image compressed to its own word first; basic: early fusion; text: no image"
    )
    visual_tokens: bool = Field(True, description="put the connector's tokens into the LLM (false: late fusion only)")
    late_fusion: bool = Field(True, description="gate the vision encoder's summary into the embeddings")
    language: Literal["en", "zh"] = Field("en", description="language of the prompt")
    text: TextLimits = TextLimits()
    connector: ConnectorConfig = ConnectorConfig()
    dim: int = Field(64, ge=2, description="width of the embedding")
    tuning: Literal["lora", "full", "frozen"] = Field("lora", description="what of the LLM is trained")
    lora: LoraSettings = LoraSettings()
    start: Literal["fitted", "random"] = Field(
        "fitted", description="start of head and late fusion: fitted to partners of the training pairs, or random"
    )
    start_pairs: int = Field(2048, ge=16, description="training pairs that a fitted start looks at")
    log_scale: float | None = Field(None, description="initial log of the logit scale (3.0 in the paper); null: fitted")

    @model_validator(mode="after")
    def _consistent(self) -> ModelConfig:
        if self.prompt == "text" and self.late_fusion:
            raise ValueError("prompt 'text' reads no image: set late_fusion to false")
        if self.prompt == "micl" and not self.visual_tokens:
            raise ValueError("prompt 'micl' needs visual_tokens; late fusion alone is prompt 'basic' without them")
        if self.start == "random" and self.log_scale is None:
            raise ValueError("a random start cannot fit log_scale: give a number (3.0 in the paper)")
        return self


class TrainingConfig(Section):
    """Contrastive tuning (NoteLLM-2, the loss)."""

    pairs_per_batch: int = Field(64, ge=2, description="pairs a step (B); the loss compares 2B embeddings")
    steps: int | None = Field(None, ge=1, description="optimiser steps; null: one pass over the pairs times `epochs`")
    epochs: float = Field(1.0, gt=0, description="passes over the pairs, when `steps` is null")
    lr: float = Field(5e-4, gt=0, description="peak learning rate of the LLM's trained weights")
    head_lr: float = Field(1e-3, gt=0, description="peak learning rate of connector, fusion and head")
    scale_lr: float = Field(1e-2, gt=0, description="peak learning rate of the logit scale")
    weight_decay: float = Field(1e-3, ge=0, description="decoupled weight decay")
    warmup_share: float = Field(0.1, ge=0, le=1, description="share of the steps with a rising learning rate")
    clip_norm: float = Field(1.0, gt=0, description="largest norm of the whole gradient")
    weight_multimodal: float = Field(9.0, ge=0, description="w_m, weight of the multimodal loss")
    weight_visual: float = Field(1.0, ge=0, description="w_v, weight of the visual loss (mICL only)")
    mask_positives: bool = Field(True, description="known partners of a note are not used as its negatives")
    chunk_notes: int = Field(32, ge=1, description="notes a forward pass; a batch is cut into chunks by length")
    select: Literal["best", "last"] = Field("best", description="weights kept: best validation MRR, or the last")
    checkpoint_every: int = Field(50, ge=1, description="steps between checkpoints")
    validate_every: int = Field(100, ge=1, description="steps between validations")
    log_every: int = Field(10, ge=1, description="steps between logged metrics")
    precision: Literal["auto", "fp32", "bf16"] = Field("auto", description="auto: bf16 where the device has it")
    seed: int = Field(0, ge=0, description="seed of initialisation and order")


class EvaluationConfig(Section):
    """Exact recall on the whole pool (NoteLLM-2, experimental set-up)."""

    ks: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        (10, 20, 50, 100, 1000, 10000), min_length=1, description="recall cut-offs, notes; those beyond the pool drop"
    )
    short_text_chars: int = Field(80, ge=0, description="a note with less text than this is short, characters")
    tfidf_limits: TextLimits | None = Field(None, description="text the TF-IDF baseline reads; null: the model's")


class GateConfig(Section):
    """When a challenger may become champion."""

    min_recall_at_10: float = Field(0.0, ge=0, le=1, description="least R@10 with both inputs")
    beat_baselines: bool = Field(True, description="R@10 must exceed both baselines'")
    max_drop: float = Field(0.02, ge=0, le=1, description="largest loss of R@10 against the champion, same test set")


class IndexConfig(Section):
    """The published FAISS index."""

    kind: Literal["auto", "flat", "ivf-sq8", "hnsw"] = Field("auto", description="auto: flat below 20,000 notes")
    nprobe: int = Field(64, ge=1, description="IVF lists searched a query")
    min_recall: float = Field(0.95, ge=0, le=1, description="least recall@100 against exact search at validation")
    sample: int = Field(500, ge=1, description="queries of the validation")
    keep: int = Field(5, ge=1, description="published versions kept for rollback")


class RegistryConfig(Section):
    """Where runs and versions are recorded."""

    experiment: str = Field("notellm2", min_length=1, description="MLflow experiment")
    model_name: str = Field("notellm2", min_length=1, description="MLflow registered model")


class Recipe(Section):
    """One retraining, complete."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9.-]*$", description="name of the recipe")
    data: DataConfig = DataConfig()
    quality: QualityConfig = QualityConfig()
    pairs: PairsConfig = PairsConfig()
    backbones: BackbonesConfig = BackbonesConfig()
    model: ModelConfig = ModelConfig()
    training: TrainingConfig = TrainingConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    gate: GateConfig = GateConfig()
    index: IndexConfig = IndexConfig()
    registry: RegistryConfig = RegistryConfig()


def load_recipe(path: Path, overrides: tuple[str, ...] = ()) -> Recipe:
    """Read and validate a recipe.

    Args:
        path: a YAML file.
        overrides: ``section.field=value`` assignments, value in YAML, applied on top of the file.

    Raises:
        InputError: the file is missing, is not YAML, or a field is unknown or out of range; names every field.
    """
    try:
        tree = yaml.safe_load(path.read_text())
    except FileNotFoundError:
        raise InputError(f"recipe {path}: no such file; recipes are YAML files such as recipes/sample.yaml") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"recipe {path}: not valid YAML: {error}") from None
    if not isinstance(tree, dict):
        raise InputError(f"recipe {path}: expected a mapping of sections, found {type(tree).__name__}")
    for assignment in overrides:
        _assign(tree, assignment)
    try:
        return Recipe.model_validate(tree)
    except ValidationError as error:
        lines = [f"  {'.'.join(map(str, e['loc'])) or '(recipe)'}: {e['msg']}" for e in error.errors()]
        raise InputError(f"recipe {path}: {len(lines)} field(s) to mend\n" + "\n".join(lines)) from None


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
    tree[leaf] = yaml.safe_load(text)
