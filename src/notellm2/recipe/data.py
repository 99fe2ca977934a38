"""Recipe sections of the data: where it is, what it must satisfy, how pairs are mined from it."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import AwareDatetime, Field, model_validator

from notellm2.recipe.section import Section


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
    feature_cache_gb: float = Field(
        10.0,
        ge=0,
        description="disk the store's cache of vision features may use, GB; 0: no cache",
    )


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
    suites: tuple[Path, ...] | None = Field(
        None,
        min_length=1,
        description="files of Great Expectations' suites, or folders of them; null: the shipped ones, recipes/suites",
    )


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
    related_share: float | None = Field(
        None,
        gt=0,
        le=1,
        description="training notes that score at least this share of a query's weakest kept pair are no negatives of "
        "it, though no pairs either (0.5 is a good one); null: only kept pairs are known to be related",
    )
    assign: Literal["random", "newest"] = Field(
        "random", description="which notes are held out: random ones, or the newest (the cold start)"
    )
    behaviour: Literal["whole", "before-after"] = Field(
        "whole",
        description="whole: note-disjoint only; before-after: training also sees no behaviour after the cut "
        "and validation and test none before it",
    )
    cut_share: float = Field(0.7, gt=0, lt=1, description="before-after: share of the behaviour before the cut")
    cut_at: AwareDatetime | None = Field(
        None, description="before-after: cut at this moment instead (ISO 8601 with zone); null: by cut_share"
    )
    until: AwareDatetime | None = Field(
        None, description="behaviour from this moment on is not read (ISO 8601 with zone); null: all is read"
    )
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
        if self.cut_at is not None and self.behaviour != "before-after":
            raise ValueError("cut_at cuts behaviour: set behaviour to before-after")
        if self.cut_at is not None and self.until is not None and self.cut_at >= self.until:
            raise ValueError(f"cut_at ({self.cut_at}) leaves nothing before until ({self.until})")
        if self.validation_share + self.test_share >= 1:
            raise ValueError("validation_share + test_share leave no notes to train on")
        return self
