"""One training from its assignment to a bundle: what each of its processes does."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict
from safetensors.torch import load_file
from torch import nn

from notellm2.artifacts import Artifact, Store, write_atomic
from notellm2.errors import InputError
from notellm2.model.backbones.adapters import tune
from notellm2.model.backbones.backbones_stage import Backbones
from notellm2.model.backbones.load import LanguageModel, load_language_head, load_language_model, load_tokenizer
from notellm2.model.bundle.bundle import CANARIES, BundleConfig, save_bundle
from notellm2.model.network.attention import attend_fast
from notellm2.model.network.generation import Exercises
from notellm2.model.network.note_source import NoteSource, Rows
from notellm2.model.network.notellm2 import NoteLLM2, check_length
from notellm2.model.network.prompt import layout
from notellm2.notes.dataset import Dataset
from notellm2.notes.schema import Note
from notellm2.recipe import ImageLimits, ModelConfig, TrainingConfig
from notellm2.training import loop
from notellm2.training.batches import PairOrder
from notellm2.training.checkpoint import load_trained_weights, trained_weights
from notellm2.training.generation_task import Companion
from notellm2.training.hard_negatives import HardNegatives
from notellm2.training.initialise import fit_start
from notellm2.training.process_group import Team
from notellm2.training.refit import refit
from notellm2.training.sharding import is_sharded, is_slice, shard
from notellm2.training.texts_stage import token_texts
from notellm2.training.validation import Validation, validate

logger = logging.getLogger(__name__)


class Assignment(BaseModel):
    """All that a training is made from and where its files go, as JSON: what other processes are told.

    Attributes:
        store: the artifact store's folder, and `provenance` of what is added to it.
        dataset: the data set's folder, of version `data_md5`.
        pairs, backbones, features: references of artifacts.
        published: reference of an earlier model's vectors, for hard negatives; None: none are mined.
        model, training, images: sections of the recipe.
        work: checkpoints and metrics while it lasts.
        folder: where the bundle and the metrics go in the end.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    store: Path
    provenance: dict[str, str]
    dataset: Path
    data_md5: str
    pairs: dict[str, str]
    backbones: dict[str, str]
    features: dict[str, str]
    published: dict[str, str] | None
    model: ModelConfig
    training: TrainingConfig
    images: ImageLimits
    work: Path
    folder: Path


def fit(
    given: Assignment, team: Team, on_metrics: Callable[[int, Mapping[str, float]], None] = lambda step, values: None
) -> dict[str, Any]:
    """Train, and leave ``bundle/`` and ``metrics.jsonl``; a killed run continues at its last checkpoint.

    Args:
        given: the same in every process.
        team: all its processes call this.
        on_metrics: called in the leading process with each logged step as it comes.

    Returns:
        Figures of the run; nothing in the processes that do not lead.

    Raises:
        InputError: there are no training pairs, or pairs, features or backbones are not those of this data version.
    """
    model, training = given.model, given.training
    torch.manual_seed(training.seed)
    named = Backbones.of(Artifact.from_reference(given.backbones))
    language = _language(named, model)
    read = _Read.of(given)
    texts = token_texts(Store(given.store, given.provenance), read.dataset, given.data_md5, language.tokenizer, model)
    source = NoteSource(layout(language.tokenizer, model), texts, read.vision)
    network = _network(language, source, model)
    if training.sharding == "full":
        shard(network, training, team)
    else:
        network.to(team.device)
    counts = _counts(network, source)
    start = _start(network, source, read.pairs, given, team)
    figures = loop.train(
        network,
        source,
        read.pairs,
        read.validation,
        training,
        given.work,
        on_metrics,
        team=team,
        mine=_mining(given, read),
        companion=_companion(named, language.tokenizer, network.llm, read, source, given, team),
    )
    best = given.work / loop.BEST if training.select == "best" and read.validation is not None else None
    last = trained_weights(network, keep=team.leads) if best is None and is_sharded(network) else {}
    if not team.leads:
        return {}
    if is_sharded(network):
        # Frozen weights come from the backbone once more, trained ones from all processes.
        language = _language(named, model)
        network = _network(language, source, model)
    weights = last if best is None else load_file(best)
    if weights:
        load_trained_weights(network, weights)
    refitted = _refitted(network, source, read, training)
    _leave(network.to("cpu"), language, named, read.dataset, given)
    return {**figures, **counts, **refitted, "start": start, "pairs": len(read.pairs)}


@dataclass(frozen=True)
class _Read:
    """What a training reads of the data.

    Attributes:
        dataset: the notes with their images.
        notes: all of them, without.
        row_of: row of each note id.
        pairs: int64[M, 2], training pairs by row.
        validation: held-out pairs and their pool, if there are any.
        vision: float16[N, P, V] frozen features, memory-mapped; None for a variant that reads no image.
    """

    dataset: Dataset
    notes: Sequence[Note]
    row_of: Mapping[str, int]
    pairs: Rows
    validation: Validation | None
    vision: NDArray[np.float16] | None

    @classmethod
    def of(cls, given: Assignment) -> _Read:
        dataset = Dataset.open(given.dataset)
        notes = dataset.texts()
        row_of = {note.note_id: row for row, note in enumerate(notes)}
        pairs = Artifact.from_reference(given.pairs)
        training = pair_rows(pairs, "train.parquet", row_of)
        if not len(training):
            raise InputError(f"{pairs.file('train.parquet')}: no pairs to train on; loosen the recipe's section pairs")
        held_out = pair_rows(pairs, "validation.parquet", row_of)
        validation = None
        if len(held_out):
            pool = pq.read_table(pairs.file("validation_pool.parquet"))["note_id"].to_pylist()
            validation = Validation(held_out, np.array([row_of[n] for n in pool], np.int64))
        features = Artifact.from_reference(given.features)
        vision = np.load(features.file("features.npy"), mmap_mode="r") if given.model.reads_images else None
        if vision is not None and len(vision) != len(notes):
            raise InputError(f"{features.path}: features of {len(vision)} notes, the data set has {len(notes)}")
        return cls(dataset, notes, row_of, training, validation, vision)


def _language(named: Backbones, model: ModelConfig) -> LanguageModel:
    """The LLM, or its tokenizer alone for a variant that reads no text."""
    if model.reads_text:
        language = load_language_model(named.llm, named.revision, weights=model.base_weights)
    else:
        language = load_tokenizer(named.llm, named.llm_digest, named.revision)
    if Path(named.llm).is_dir() and language.digest != named.llm_digest:
        raise InputError(f"backbone {named.llm}: changed since this run began; start the run again")
    return language


def _network(language: LanguageModel, source: NoteSource, model: ModelConfig) -> NoteLLM2:
    """The network on the CPU, as it is before any fitting or training."""
    llm = None if language.model is None else tune(attend_fast(language.model), model)
    return NoteLLM2(llm, source.layout, model, 0 if source.vision is None else int(source.vision.shape[2]))


def _counts(network: NoteLLM2, source: NoteSource) -> dict[str, Any]:
    return {
        "trained_weights": sum(p.numel() for p in network.parameters() if p.requires_grad),
        "weights": sum(p.numel() for p in network.parameters()),
        "texts_truncated": source.texts.truncated,
        "mean_text_tokens": round(float(source.texts.lengths.mean()), 1),
    }


def _refitted(network: NoteLLM2, source: NoteSource, read: _Read, training: TrainingConfig) -> dict[str, float]:
    """Refit head and shortcuts, if the recipe asks for it; returns its figures, on held-out pairs too."""
    if not training.refit.epochs:
        return {}
    figures = refit(network, source, read.pairs, training.refit, seed=training.seed, size=2 * training.chunk_notes)
    if read.validation is not None:
        measured = validate(network, source, read.validation, training)
        figures |= {f"refit_{name}": value for name, value in measured.items()}
    return figures


def _mining(given: Assignment, read: _Read) -> Callable[[PairOrder], HardNegatives] | None:
    """How hard negatives are found, where an earlier model's vectors are given."""
    if given.published is None:
        return None
    vectors, pairs = Artifact.from_reference(given.published), Artifact.from_reference(given.pairs)
    return lambda order: HardNegatives.mined(vectors, pairs, read.row_of, order)


def _leave(network: NoteLLM2, language: LanguageModel, named: Backbones, dataset: Dataset, given: Assignment) -> None:
    """Write the bundle and the metrics."""
    config = BundleConfig(
        model=given.model,
        images=given.images,
        llm=named.llm,
        llm_digest=named.llm_digest,
        vision=named.vision,
        vision_digest=named.vision_digest,
        revision=named.revision,
        registers=named.registers,
    )
    save_bundle(given.folder / "bundle", network, language, config, _canaries(dataset))
    shutil.copyfile(given.work / loop.METRICS, given.folder / "metrics.jsonl")


def _start(network: NoteLLM2, source: NoteSource, pairs: Rows, given: Assignment, team: Team) -> dict[str, float]:
    """Fit the start, if this is one; and let every process begin with equal weights and dropout of its own."""
    model, training, told = given.model, given.training, given.work / "start.json"
    start: dict[str, float] = {}
    # A resumed run has its weights in the checkpoint; fitting the start again would only cost time.
    if model.start == "fitted" and not any(given.work.glob("step-*")):
        start = fit_start(network, source, pairs, model, seed=training.seed, size=2 * training.chunk_notes)
        if team.leads:
            write_atomic(told, json.dumps(start))
            logger.info("fitted start: %s", ", ".join(f"{name} {value:.3f}" for name, value in start.items()))
    elif told.exists():
        start = json.loads(told.read_text())
    # Slices hold the leader's values already (`laid_out`).
    team.lend_([p for p in network.parameters() if p.requires_grad and not is_slice(p)])
    if not team.leads:
        torch.manual_seed(training.seed + 1_000_003 * team.rank)
    return start


def _companion(
    named: Backbones,
    tokenizer: Any,
    llm: nn.Module | None,
    read: _Read,
    source: NoteSource,
    given: Assignment,
    team: Team,
) -> Companion | None:
    """The generative task, if the recipe weighs it and there are steps and an LLM to train by it."""
    if not given.training.generation.weight or given.training.steps == 0 or not given.model.reads_text:
        return None
    categories = read.dataset.notes(["category"])["category"].to_pylist()
    exercises = Exercises.of(tokenizer, read.notes, categories, source.texts, given.model)
    check_length(llm, exercises.longest, "training.generation: a note with its answer")
    return Companion(exercises, load_language_head(named.llm, named.revision).to(team.device))


def pair_rows(pairs: Artifact, name: str, row_of: Mapping[str, int]) -> Rows:
    """int64[M, 2]: the pairs of one file of a pairs artifact, as rows of the data set.

    Raises:
        InputError: a note is not in the data set.
    """
    table = pq.read_table(pairs.file(name), columns=["query_id", "target_id"])
    try:
        columns = [[row_of[note_id] for note_id in column.to_pylist()] for column in table.columns]
    except KeyError as error:
        raise InputError(f"{pairs.file(name)}: note {error} is not in the data set; mine the pairs again") from None
    return np.array(columns, np.int64).T.reshape(-1, 2)


def _canaries(dataset: Dataset) -> Sequence[Note]:
    """The first notes of each kind: with text and image, and the first without either."""
    for notes in dataset.batches():
        full = [note for note in notes if note.image is not None and note.content][: CANARIES - 2]
        bare = [note for note in notes if note.image is None][:1] + [note for note in notes if not note.content][:1]
        return (full + bare) or list(notes[:1])
    raise InputError(f"{dataset.path}: the data set has no notes")
