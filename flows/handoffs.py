"""What a task returns and the next one takes: one frozen type a stage, so that a type checker finds swapped arguments.

Small enough to be kept by Prefect: addresses of artifacts and a few facts, never data.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict

from notellm2.artifacts import Artifact
from notellm2.notes.dataset import Dataset
from notellm2.recipe import Recipe
from notellm2.registry.decisions import Verdict

if TYPE_CHECKING:
    from notellm2.evaluation.cases import MinedData


class HandOff(BaseModel):
    """What every stage says.

    Attributes:
        name: of the stage, as shown; set by the stage itself.
        seconds: it took; set by the stage itself.
        reused: whether it found its work done; for an artifact, as the store says.
        artifact: what it made or found; None: it makes none.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = ""
    seconds: float = 0.0
    reused: bool = False
    artifact: Artifact | None = None


class Made(HandOff):
    """A stage that leaves an artifact."""

    artifact: Artifact


class DataFolder(HandOff):
    """A data set that is ready to be read.

    Attributes:
        path: its folder, absolute.
        origin: how it came to be there, in words.
    """

    path: Path
    origin: str


class DataVersion(HandOff):
    """A version of the data set that stays as it is while the run goes on.

    Attributes:
        path: its folder, absolute.
        md5: the version.
    """

    path: Path
    md5: str

    @property
    def dataset(self) -> Dataset:
        """The notes and their behaviour."""
        return Dataset.open(self.path)


class Checked(Made):
    """Data quality: expectations and their outcome."""


class Mined(Made):
    """Split and training pairs.

    Attributes:
        data: what they were mined from.
    """

    data: DataVersion

    @property
    def measured_on(self) -> MinedData:
        """What models are measured on."""
        from notellm2.evaluation.cases import MinedData

        return MinedData(self.data.dataset, self.data.md5, self.artifact)


class Backbones(Made):
    """Language model and vision encoder."""


class Features(Made):
    """Frozen features of every image."""


class Choice(HandOff):
    """Which variant of the model is trained; no artifact where the recipe leaves no choice.

    Attributes:
        recipe: this run's, with the chosen variant written out.
    """

    recipe: Recipe


class Trained(Made):
    """The model bundle and its curves."""


class Vectors(Made):
    """Embeddings of every note."""


class Variants(HandOff):
    """Models trained to be looked at beside this one.

    Attributes:
        vectors: of each, by its name.
    """

    vectors: dict[str, Artifact]


class Evaluated(Made):
    """Exact figures of a model on the test pairs."""


class Saliency(HandOff):
    """What the embeddings listen to, layer by layer; no artifact where the recipe asks for no pairs."""


class Indexed(Made):
    """The FAISS index, validated."""


class Registered(HandOff):
    """A version in the registry.

    Attributes:
        model: registered name.
        version: its number.
        bundle: digest of its model bundle.
        page: address of its page.
    """

    model: str
    version: str
    bundle: str = ""
    page: str = ""


class Candidate(BaseModel):
    """A challenger and all that is known of it.

    Attributes:
        registered: its version.
        checked: quality of the data it was trained on.
        chosen: which variant it is, and what that choice rests on.
        trained: bundle and curves.
        evaluated: its figures.
        indexed: its index.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    registered: Registered
    checked: Checked
    chosen: Choice
    trained: Trained
    evaluated: Evaluated
    indexed: Indexed


class Incumbent(HandOff):
    """The version to beat.

    Attributes:
        version: its number; None: there is none.
        evaluation: its figures on this run's test pairs; None: it could not be measured.
        comparison: the challenger against it, query by query.
    """

    version: str | None
    evaluation: Artifact | None = None
    comparison: Artifact | None = None


class Canary(HandOff):
    """Whether the registered bundle loads and embeds as it did.

    Attributes:
        outcome: "passed", or what went wrong.
    """

    outcome: str


class Judged(HandOff):
    """What the gate says.

    Attributes:
        verdict: rules and sentence.
        champion: version it was compared with; None: there was none.
        rolled_back: whether somebody took this version out of use before.
        in_use: whether it is champion already.
    """

    verdict: Verdict
    champion: str | None
    rolled_back: bool
    in_use: bool


class Report(Made):
    """The page a reviewer reads."""


class Decision(BaseModel):
    """Whether to promote, as it was decided.

    Attributes:
        promote: yes or no.
        by: who decided.
        reason: why.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    promote: bool
    by: str
    reason: str


class Promoted(HandOff):
    """What came of the decision.

    Attributes:
        promoted: whether champion and published index are this run's.
        reason: why not.
    """

    promoted: bool
    reason: str = ""


class Outcome(HandOff):
    """The end of a flow.

    Attributes:
        text: what to print.
    """

    text: str


class PlacedData(HandOff):
    """The data set after an ingest.

    Attributes:
        path: its folder.
        changed: whether another version is there now.
    """

    path: Path
    changed: bool


class Pinned(HandOff):
    """What DVC was asked to do.

    Attributes:
        pinned: whether the version is recorded.
        pushed: whether it is stored at the remote.
        new: whether it was announced as a new one.
    """

    pinned: bool
    pushed: bool
    new: bool


class InUse(HandOff):
    """Champion and published index, which are one pair.

    Attributes:
        version: of the model.
        bundle: digest of its bundle.
        publication: name of the published index.
        index_key: of the index artifact.
        data_md5: version of the data it was built from.
        count: notes in it.
    """

    version: str
    bundle: str
    publication: str
    index_key: str
    data_md5: str
    count: int


class Changes(HandOff):
    """How the notes differ from those that the published index was built from.

    Attributes:
        new: notes.
        changed: notes with another text or image.
        dropped: notes that are gone.
        nothing_to_do: whether the published index has these very notes.
        index: the published one; None: gone from the store.
        vectors: those it was built from; None: gone from the store.
    """

    new: int
    changed: int
    dropped: int
    nothing_to_do: bool
    index: Artifact | None
    vectors: Artifact | None

    def __str__(self) -> str:
        """Counts in words."""
        return f"{self.new} new, {self.changed} changed, {self.dropped} dropped"


class Published(HandOff):
    """A publication that a refresh has made.

    Attributes:
        publication: its name.
        count: notes in it.
    """

    publication: str
    count: int


class CellEvaluated(BaseModel):
    """One cell of an ablation.

    Attributes:
        variant: of the model.
        seed: of its training.
        evaluated: its figures.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    variant: str
    seed: int
    evaluated: Evaluated


class WindowEvaluated(BaseModel):
    """One window of a backtest.

    Attributes:
        window: number, start and end.
        fresh: figures of the model trained up to it.
        aged: figures of the first window's model.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    window: dict[str, str | int]
    fresh: Evaluated
    aged: Evaluated


class Ablated(Made):
    """Table and plot of an ablation."""


class Backtested(Made):
    """Table and plot of a backtest."""


class Cleaned(HandOff):
    """One part of a cleanup.

    Attributes:
        summary: what it removed, in a sentence.
    """

    summary: str
