"""Recipe section of the training."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from notellm2.recipe.section import Section


class GenerationConfig(Section):
    """NoteLLM's generative task (arXiv 2403.01744): the LLM also writes topics or the category. Off by default."""

    weight: float = Field(0.0, ge=0, description="α, weight of its loss beside the contrastive one; 0: off")
    topic_share: float = Field(
        0.5, ge=0, le=1, description="share of the notes with both that write topics; the others write the category"
    )


class RefitConfig(Section):
    """After the training: the head and the model's shortcuts, fitted together to cached features. Off by default."""

    epochs: int = Field(0, ge=0, description="passes over the pairs; 0: no refit")
    pairs_per_batch: int = Field(256, ge=2, description="pairs a step")
    lr: float = Field(2e-3, gt=0, description="peak learning rate, one cycle")
    weight_decay: float = Field(1e-2, ge=0, description="decoupled weight decay")
    dropout: float = Field(0.5, ge=0, lt=1, description="share of the shortcuts' inputs that a step leaves out")
    state_dropout: float = Field(0.5, ge=0, lt=1, description="the same of the LLM's state")
    components: int = Field(256, ge=2, description="singular vectors of the text's runs that are fitted")
    popularity: float = Field(
        1.0,
        ge=0,
        description="how much of the log frequency of a note among the pairs is taken off its logits as a negative "
        "(logQ correction): frequent notes are drawn as negatives more often than others; 0: none",
    )


class ChoiceConfig(Section):
    """Which variant of the model is trained: as the recipe writes it, or the best of several on validation pairs."""

    variants: tuple[Literal["text", "basic", "late", "notellm2"], ...] = Field(
        (),
        description="variants to choose from, by recall of validation pairs (needs pairs.validation_share); empty: "
        "the model as written",
    )
    rounds: tuple[Annotated[float, Field(gt=0, le=1)], ...] = Field(
        (0.25, 1.0),
        min_length=1,
        description="the budget: share of a whole training that each round gives to every variant left; between rounds "
        "the worse half goes (successive halving). What the last round trained whole is not trained again",
    )
    few_queries: int = Field(200, ge=1, description="fewer validation queries than this are warned of: a noisy choice")

    @field_validator("variants")
    @classmethod
    def _several(cls, variants: tuple[str, ...]) -> tuple[str, ...]:
        if len(variants) == 1 or len(set(variants)) != len(variants):
            raise ValueError("expected two variants or more, each once, or none")
        return variants

    @field_validator("rounds")
    @classmethod
    def _rising(cls, rounds: tuple[float, ...]) -> tuple[float, ...]:
        if list(rounds) != sorted(set(rounds)):
            raise ValueError(f"expected rising shares such as [0.25, 1.0], found {list(rounds)}")
        return rounds


class TrainingConfig(Section):
    """Contrastive tuning (NoteLLM-2, the loss)."""

    pairs_per_batch: int = Field(64, ge=2, description="pairs a step (B); the loss compares 2B embeddings")
    steps: int | None = Field(
        None, ge=0, description="optimiser steps; 0: none (zero-shot); null: one pass over the pairs times `epochs`"
    )
    epochs: float = Field(1.0, gt=0, description="passes over the pairs, when `steps` is null")
    lr: float = Field(5e-4, gt=0, description="peak learning rate of the LLM's trained weights")
    head_lr: float = Field(1e-3, gt=0, description="peak learning rate of the head")
    image_lr: float | None = Field(
        None, gt=0, description="peak learning rate of connector, late fusion and <IMG_EMB>; null: head_lr"
    )
    scale_lr: float = Field(1e-2, gt=0, description="peak learning rate of the logit scale")
    weight_decay: float = Field(1e-3, ge=0, description="decoupled weight decay")
    warmup_share: float = Field(0.1, ge=0, le=1, description="share of the steps with a rising learning rate")
    decay: Literal["cosine", "linear"] = Field(
        "cosine",
        description="learning rate after the warm-up: cosine down to 5 % of the peak; linear: from 0 up and down to 0 "
        "again, as transformers' linear schedule has it (the paper)",
    )
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = Field(
        (0.9, 0.98), description="AdamW's betas (0.9 and 0.999 in the paper)"
    )
    clip_norm: float = Field(1.0, gt=0, description="largest norm of the whole gradient")
    weight_multimodal: float = Field(9.0, ge=0, description="w_m, weight of the multimodal loss")
    weight_visual: float = Field(1.0, ge=0, description="w_v, weight of the visual loss (mICL only)")
    generation: GenerationConfig = GenerationConfig()
    mask_positives: bool = Field(True, description="known partners of a note are not used as its negatives")
    hard_negatives: int = Field(
        0,
        ge=0,
        le=32,
        description="for each pair, training notes that the published model thinks near its query, as more negatives; "
        "0: none (docs/guides/train-larger.md)",
    )
    image_dropout: float = Field(
        0.0, ge=0, lt=1, description="share of a step's notes whose image is withheld, so that the text is learnt too"
    )
    refit: RefitConfig = RefitConfig()
    chunk_notes: int = Field(32, ge=1, description="notes a forward pass; a batch is cut into chunks by length")
    grad_cache: bool = Field(
        False,
        description="embed each chunk twice instead of keeping its graph (GradCache): memory does not grow with "
        "pairs_per_batch, the gradient is the same, a step takes about a third longer",
    )
    processes: int = Field(
        1, ge=1, description="processes that share each batch (accelerate launch); on GPUs one a device"
    )
    sharding: Literal["none", "full"] = Field(
        "none",
        description="full: each process keeps a slice of every weight, gradient and moment (FSDP), for a model that no "
        "device holds whole; needs several processes; none: each keeps all of them",
    )
    launch_args: tuple[str, ...] = Field(
        (), description="further arguments of accelerate launch: several machines, ports (docs/guides/train-larger.md)"
    )
    select: Literal["best", "loss", "last"] = Field(
        "best",
        description="weights kept: best validation MRR; least validation loss, of batches as in training (the paper); "
        "or the last",
    )
    checkpoint_every: int = Field(50, ge=1, description="steps between checkpoints")
    validate_every: int = Field(100, ge=1, description="steps between validations")
    log_every: int = Field(10, ge=1, description="steps between logged metrics")
    precision: Literal["auto", "fp32", "bf16"] = Field("auto", description="auto: bf16 where the device has it")
    seed: int = Field(0, ge=0, description="seed of initialisation and order")

    def shortened(self, share: float) -> TrainingConfig:
        """Return the same training for a share of its steps; whole for a share of 1."""
        if share == 1:
            return self
        if self.steps is not None:
            return self.model_copy(update={"steps": max(1, round(share * self.steps))})
        return self.model_copy(update={"epochs": share * self.epochs})

    def keyed(self) -> dict[str, Any]:
        """Return this section as the key of a training covers it: a later version's field counts where it is set."""
        section = self.model_dump(mode="json")
        for name in ("sharding", "decay", "betas"):
            if getattr(self, name) == type(self).model_fields[name].default:
                del section[name]
        if not self.refit.epochs:
            del section["refit"]
        return section

    @model_validator(mode="after")
    def _weighed(self) -> TrainingConfig:
        if not self.weight_multimodal and not self.weight_visual:
            raise ValueError("weight_multimodal and weight_visual are both 0: there is no loss to train by")
        return self

    @model_validator(mode="after")
    def _shared(self) -> TrainingConfig:
        if self.sharding == "full" and self.processes == 1:
            raise ValueError(
                "sharding 'full' shares the weights among processes: set processes to 2 or more, or 'none'"
            )
        return self
