"""Recipe sections of what follows training: evaluation, gate, index, registry."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from notellm2.recipe.model import TextLimits
from notellm2.recipe.section import Section


class EvaluationConfig(Section):
    """Exact recall on the whole pool (NoteLLM-2, experimental set-up), and what is shown beside it."""

    ks: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        (10, 20, 50, 100, 1000, 10000), min_length=1, description="recall cut-offs, notes; those beyond the pool drop"
    )
    short_text_chars: int = Field(80, ge=0, description="a note with less text than this is short, characters")
    new_hours: float = Field(24.0, gt=0, description="a note younger than this at the data's end is new, hours")
    categories: int = Field(12, ge=0, description="most frequent categories that get figures of their own")
    resamples: int = Field(1000, ge=400, description="bootstrap resamples behind intervals and comparisons")
    saliency_pairs: int = Field(32, ge=0, description="test pairs behind the saliency by layer; 0: not measured")
    variants: tuple[Literal["text", "basic"], ...] = Field(
        (), description="variants trained and measured beside the model: text (no image), basic (early fusion)"
    )
    tfidf_limits: TextLimits | None = Field(None, description="text the TF-IDF baseline reads; null: the model's")


class GateConfig(Section):
    """When a challenger may become champion, and who decides; see docs/reference/gate.md."""

    mode: Literal["automatic", "approval", "manual"] = Field(
        "automatic", description="who promotes what passed: the flow, a person in Prefect, or `notellm2 promote`"
    )
    approval_timeout_s: int = Field(86_400, ge=1, description="wait for approval, then refuse, seconds")
    min_recall_at_10: float = Field(0.0, ge=0, le=1, description="least R@10 with both inputs")
    beat_baselines: bool = Field(True, description="R@10 must exceed both baselines'")
    min_visual_reliance: float | None = Field(
        0.0, ge=-1, le=1, description="R@10 must fall by more when images are shuffled; null: not judged (text only)"
    )
    max_drop: float = Field(0.02, ge=0, le=1, description="largest loss of R@10 against the champion, all queries")
    max_drop_by_slice: dict[str, Annotated[float, Field(ge=0, le=1)]] = Field(
        {}, description="the same for single slices, such as {short_query: 0.05}"
    )
    drop_judged_by: Literal["difference", "low"] = Field(
        "difference", description="what a drop is held against: the paired difference, or its 95 % interval's low end"
    )
    max_unreachable: float = Field(0.5, ge=0, le=1, description="largest share of notes that no list of 100 holds")
    max_duplicates: float = Field(0.2, ge=0, le=1, description="largest share of notes with an equal embedding")
    min_effective_rank: float = Field(2.0, ge=0, description="least effective rank of the embeddings, dimensions")


class IndexConfig(Section):
    """The published FAISS index."""

    kind: Literal["auto", "flat", "ivf-fp16", "ivf-sq8", "hnsw"] = Field(
        "auto", description="auto: by the number of notes, see docs/explanation/published-index.md"
    )
    nprobe: int = Field(128, ge=1, description="IVF lists searched a query")
    min_recall: float = Field(0.95, ge=0, le=1, description="least recall@100 against exact search at validation")
    sample: int = Field(500, ge=1, description="queries of the validation")
    keep: int = Field(5, ge=1, description="published versions kept for rollback")
    titles: bool = Field(True, description="publish the notes' titles beside their ids, for people who read answers")
    semantic_levels: int = Field(0, ge=0, le=8, description="codes of a note's semantic id; 0: none are made")
    semantic_codes: int = Field(256, ge=2, le=4096, description="size of each level's codebook, a power of two")


class RegistryConfig(Section):
    """Where runs and versions are recorded, and how promotions take turns."""

    experiment: str = Field("notellm2", min_length=1, description="MLflow experiment")
    model_name: str = Field("notellm2", min_length=1, description="MLflow registered model")
    lease_s: float = Field(60.0, ge=1, description="a promotion that says nothing is given up after, seconds")
    lease_wait_s: float = Field(90.0, ge=0, description="wait for another promotion, then refuse, seconds")


class AlertsConfig(Section):
    """Who hears what goes wrong, and when a model counts as old (docs/reference/events.md). No flow's result."""

    notify: tuple[Annotated[str, Field(pattern=r"^[a-z0-9-]+/[a-z0-9-]+$")], ...] = Field(
        (), description="Prefect blocks that get every alert, such as webhook/notellm2, slack-webhook/notellm2"
    )
    stale_days: float = Field(14.0, gt=0, description="a champion older than this is an alert, days")
