"""Recipe sections of the model: its backbones, its text, its parts and their widths."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from notellm2.recipe.section import Section


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
    """The two pretrained backbones: any Hugging Face causal LLM, any vision encoder."""

    llm: str | TinyLLMConfig = Field(
        TinyLLMConfig(), description="hub name (name@revision pins it), local folder, or a tiny one to build"
    )
    vision: str | TinyVisionConfig = Field(
        TinyVisionConfig(), description="hub name (name@revision pins it), local folder, or a tiny one to build"
    )
    mllm: str | None = Field(
        None,
        description="hub name or local folder of a pretrained multimodal LLM that is both backbones at once; goes with "
        "model.connector.kind none and as many queries as it has visual tokens for 224 x 224 pixels",
    )
    revision: str | None = Field(None, description="hub revision of names that pin none; null: the newest")
    seed: int = Field(0, ge=0, description="seed of the tiny ones' training")

    @model_validator(mode="before")
    @classmethod
    def _both_backbones(cls, section: Any) -> Any:
        if not isinstance(section, dict) or section.get("mllm") is None:
            return section
        name = section["mllm"]
        if any(section.get(backbone, name) != name for backbone in ("llm", "vision")):
            raise ValueError("mllm is both backbones: name either it, or llm and vision")
        return {**section, "llm": name, "vision": name}


class TextLimits(Section):
    """How much of a note's text the model reads (NoteLLM-2, experimental set-up)."""

    title_chars: int = Field(20, ge=0, description="title, characters")
    topics: int = Field(10, ge=0, description="number of topics")
    topic_chars: int = Field(16, ge=0, description="each topic, characters")
    content_chars: int = Field(80, ge=0, description="content, characters")
    max_tokens: int = Field(140, ge=8, description="all text of a note, tokens")


class ConnectorConfig(Section):
    """Vision features to visual tokens (NoteLLM-2, the connector)."""

    kind: Literal["qformer", "qformer-prenorm", "perceiver", "mlp", "none"] = Field(
        "qformer-prenorm",
        description="qformer: BLIP-2's, as the authors released it (post-norm, features read in every second layer); "
        "qformer-prenorm: features read in every layer, pre-norm, the only one before 0.2; perceiver: queries attend "
        "to themselves and the features at once (a resampler); mlp: on each patch, then averaged over a grid of "
        "`queries` cells; none: the encoder's tokens are the LLM's already (a multimodal LLM)",
    )
    queries: int = Field(16, ge=1, description="visual tokens")
    layers: int = Field(6, ge=1, description="layers of the Q-Former or resampler, hidden layers of the mlp")
    width: int = Field(768, ge=8, description="hidden width")
    heads: int = Field(12, ge=1, description="attention heads (not of the mlp)")
    dropout: float = Field(0.1, ge=0, lt=1, description="dropout inside the qformer; the other kinds have none")
    query_std: float | None = Field(
        None,
        ge=0,
        description="standard deviation of the queries at the start, of the mlp: of what is added to each cell; null: "
        "0.02 (qformer, which norms them at once, and qformer-prenorm), 1 (perceiver), 0.1 (mlp)",
    )

    @model_validator(mode="after")
    def _heads_fit(self) -> ConnectorConfig:
        if self.kind in ("qformer", "qformer-prenorm", "perceiver") and self.width % self.heads:
            raise ValueError(f"width ({self.width}) is not a multiple of its heads ({self.heads})")
        return self

    def keyed(self, *, used: bool) -> dict[str, Any]:
        """Return this section as the key of a training covers it: connectors of the first release keep theirs.

        Args:
            used: whether the model has a connector at all.
        """
        section = self.model_dump(mode="json")
        unchanged = {"qformer-prenorm": (None, 0.02), **{kind: (std,) for kind, std in _FIRST_STD.items()}}
        if not used or self.kind == "none" or self.query_std in unchanged.get(self.kind, ()):
            del section["dropout"], section["query_std"]
            section["kind"] = "qformer" if self.kind == "qformer-prenorm" else self.kind
        return section


_FIRST_STD = {"perceiver": 0.02, "mlp": 0.0}
"""Start of the queries by kind, before it could be chosen."""


class LoraSettings(Section):
    """Low-rank adapters on the LLM."""

    rank: int = Field(16, ge=1, description="rank")
    alpha: int = Field(32, ge=1, description="scaling numerator; the adapter's output is scaled by alpha / rank")
    dropout: float = Field(0.0, ge=0, lt=1, description="dropout on the adapter's input")
    targets: tuple[str, ...] | Literal["all-linear"] = Field("all-linear", description="names of adapted modules")
    dora: bool = Field(False, description="weight-decomposed adapters (DoRA): direction and length apart; slower")
    rslora: bool = Field(False, description="scale by alpha / sqrt(rank) instead, which keeps high ranks learning")
    embeddings: bool = Field(False, description="also train the token embeddings, whole (for small vocabularies)")


class ShortcutsConfig(Section):
    """Frozen features that reach the embedding past the LLM (docs/decisions/0007). Off by default."""

    image_grid: int | None = Field(
        None,
        ge=1,
        le=4,
        description="the encoder's patches, averaged over the image and over each cell of a grid of this many rows and "
        "columns; null: no image shortcut",
    )
    runs: int = Field(
        0, ge=0, le=5, description="runs of one to so many tokens of the note's text, weighed by rarity; 0: none"
    )
    runs_kept: int = Field(16384, ge=16, description="runs of the vocabulary, the most frequent of the training notes")

    @property
    def on(self) -> bool:
        """Whether there are any."""
        return self.image_grid is not None or self.runs > 0


def as_recorded(tree: Any) -> Any:
    """Complete a recorded recipe or bundle configuration with what could not be said when it was written.

    Heads could not be centred at first: a section `model` without that field describes one that is not. A connector
    without the field `dropout` is of the time when `qformer` named the pre-norm one, and queries started small.

    Args:
        tree: plain data with a section `model`; anything else comes back as it is, for validation to refuse.
    """
    if not (isinstance(tree, dict) and isinstance(tree.get("model"), dict)):
        return tree
    model = {"centre": False, **tree["model"]}
    connector = model.get("connector", {})
    if isinstance(connector, dict) and "dropout" not in connector:
        connector = dict(connector)
        if connector.get("kind", "qformer") == "qformer":
            connector["kind"] = "qformer-prenorm"
        elif connector["kind"] in _FIRST_STD:
            connector.setdefault("query_std", _FIRST_STD[connector["kind"]])
        model["connector"] = connector
    return {**tree, "model": model}


class ModelConfig(Section):
    """The NoteLLM-2 model (paper, section 3)."""

    prompt: Literal["micl", "basic", "text", "vision"] = Field(
        "micl",
        description="micl: image compressed to its own word first; basic: early fusion; text: no image; vision: the "
        "vision encoder alone, no LLM",
    )
    visual_tokens: bool = Field(True, description="put the connector's tokens into the LLM (false: late fusion only)")
    late_fusion: bool = Field(True, description="gate the vision encoder's summary into the embeddings")
    language: Literal["en", "zh"] = Field("en", description="language of the prompt")
    text: TextLimits = TextLimits()
    limit_covers_prompt: bool = Field(
        False, description="text.max_tokens counts the prompt's own tokens too, visual tokens apart (the paper)"
    )
    connector: ConnectorConfig = ConnectorConfig()
    dim: int = Field(64, ge=2, description="width of the embedding, numbers; without head that of the LLM")
    matryoshka: tuple[int, ...] = Field(
        (), description="smaller widths at which a prefix of the embedding shall serve too, numbers, rising; none: ()"
    )
    head: Literal["linear", "none"] = Field(
        "linear", description="linear: a map to `dim`; none: the hidden state itself, for zero-shot baselines"
    )
    tuning: Literal["lora", "full", "frozen"] = Field("lora", description="what of the LLM is trained")
    base_weights: Literal["fp32", "bf16", "nf4"] = Field(
        "fp32", description="what the LLM's weights are held in: 4 bytes, 2 bytes, or 4 bits (needs bitsandbytes)"
    )
    lora: LoraSettings = LoraSettings()
    centre: bool = Field(
        True,
        description="subtract from the head's output its mean, over the batch while training, over training notes "
        "afterwards, so that nearly parallel hidden states cannot become one direction; false: the paper's bare head",
    )
    shortcuts: ShortcutsConfig = ShortcutsConfig()
    start: Literal["fitted", "random"] = Field(
        "fitted", description="start of head and late fusion: fitted to partners of the training pairs, or random"
    )
    start_pairs: int = Field(2048, ge=16, description="training pairs that a fitted start looks at")
    log_scale: float | None = Field(None, description="initial log of the logit scale (3.0 in the paper); null: fitted")

    @property
    def reads_text(self) -> bool:
        """Whether there is an LLM."""
        return self.prompt != "vision"

    @property
    def reads_images(self) -> bool:
        """Whether the vision encoder is needed at all."""
        fused = self.late_fusion or self.prompt == "vision" or (self.visual_tokens and self.prompt != "text")
        return fused or self.image_shortcut

    @property
    def image_shortcut(self) -> bool:
        """Whether frozen image features reach the embedding past the LLM; never in the text variant."""
        return self.shortcuts.image_grid is not None and self.prompt in ("micl", "basic")

    @property
    def has_connector(self) -> bool:
        """Whether the LLM reads visual tokens."""
        return self.visual_tokens and self.prompt in ("micl", "basic")

    @property
    def trains(self) -> bool:
        """Whether any weight that decides the embedding is trained."""
        of_llm = self.reads_text and self.tuning != "frozen"
        of_image = self.prompt == "micl" or self.late_fusion or (self.visual_tokens and self.prompt == "basic")
        return of_llm or of_image or self.head == "linear"

    def keyed(self) -> dict[str, Any]:
        """Return this section as the key of a training covers it: a field that changes nothing is left out.

        So models that were trained before such a field existed keep their key.
        """
        section = self.model_dump(mode="json")
        if not self.shortcuts.on:
            del section["shortcuts"]
        if not self.limit_covers_prompt:
            del section["limit_covers_prompt"]
        if not self.centre or self.head == "none":
            del section["centre"]
        section["connector"] = self.connector.keyed(used=self.has_connector)
        return section

    def variant(self, name: Literal["text", "basic"]) -> ModelConfig:
        """Return the model without image (`text`) or with early fusion alone (`basic`), the paper's baselines."""
        return ModelConfig.model_validate(
            {**self.model_dump(), "prompt": name, "visual_tokens": True, "late_fusion": False}
        )

    @model_validator(mode="after")
    def _consistent(self) -> ModelConfig:
        if self.prompt == "text" and self.late_fusion:
            raise ValueError("prompt 'text' reads no image: set late_fusion to false")
        if self.prompt == "vision" and self.late_fusion:
            raise ValueError("prompt 'vision' has nothing to fuse the image with: set late_fusion to false")
        if self.prompt == "micl" and not self.visual_tokens:
            raise ValueError("prompt 'micl' needs visual_tokens; late fusion alone is prompt 'basic' without them")
        if self.start == "random" and self.log_scale is None:
            raise ValueError("a random start cannot fit log_scale: give a number (3.0 in the paper)")
        if self.head == "none" and self.start == "fitted":
            raise ValueError("without head there is nothing to fit: set start to random")
        if any(not 2 <= width < self.dim for width in self.matryoshka) or list(self.matryoshka) != sorted(
            set(self.matryoshka)
        ):
            raise ValueError(
                f"matryoshka {list(self.matryoshka)}: expected rising widths of 2 to below dim ({self.dim})"
            )
        if self.shortcuts.on and (self.head == "none" or not self.centre or self.matryoshka):
            raise ValueError(
                "shortcuts are added to a head that is centred, of one width: set head, centre, matryoshka"
            )
        if self.head == "none" and self.matryoshka:
            raise ValueError("without head there is nothing to order: set matryoshka to []")
        if self.base_weights != "fp32" and self.tuning == "full":
            raise ValueError(
                f"{self.base_weights} weights cannot be tuned whole, small updates would be rounded away: set "
                "base_weights to fp32 (training.precision: bf16 still computes in 16 bits), or tuning to lora"
            )
        return self
