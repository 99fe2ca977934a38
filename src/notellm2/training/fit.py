"""Carry out one training, from its assignment to a bundle: the work of each of its processes."""

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
from notellm2.threads import describe_threads
from notellm2.training import loop
from notellm2.training.batches import PairOrder
from notellm2.training.checkpoint import load_trained_weights, trained_weights
from notellm2.training.generation_task import GenerationTask
from notellm2.training.hard_negatives import HardNegatives
from notellm2.training.initialise import fit_start
from notellm2.training.process_group import Team
from notellm2.training.refit import refit
from notellm2.training.sharding import is_sharded, is_slice, shard
from notellm2.training.texts_stage import token_texts
from notellm2.training.validation import Validation, validate

logger = logging.getLogger(__name__)

RELATED = "related.parquet"
"""Of a pairs artifact: there where its recipe sets `pairs.related_share`."""


class Assignment(BaseModel):
    """All that a training reads and where it writes, as JSON that every process of it gets.

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
    assignment: Assignment,
    team: Team,
    on_metrics: Callable[[int, Mapping[str, float]], None] = lambda step, values: None,
) -> dict[str, Any]:
    """Train, and write ``bundle/`` and ``metrics.jsonl``; a killed run continues at its last checkpoint.

    Args:
        assignment: the same in every process.
        team: all its processes call this.
        on_metrics: called in the leading process with each logged step as it comes.

    Returns:
        Figures of the run; nothing in the processes that do not lead.

    Raises:
        InputError: there are no training pairs, or pairs, features or backbones are not those of this data version.
    """
    model, training = assignment.model, assignment.training
    torch.manual_seed(training.seed)
    logger.info("training computes with %s", describe_threads(torch.get_num_threads()))
    named = Backbones.of(Artifact.from_reference(assignment.backbones))
    language = _language(named, model)
    data = _TrainingData.of(assignment)
    texts = token_texts(
        Store(assignment.store, assignment.provenance), data.dataset, assignment.data_md5, language.tokenizer, model
    )
    source = NoteSource(layout(language.tokenizer, model), texts, data.vision)
    network = _network(language, source, model)
    _place(network, training, team)
    facts = {**_counts(network, source), "pairs": len(data.pairs)}
    facts["start"] = _start(network, source, data.pairs, assignment, team)
    generation = _generation_task(assignment, named, data, language.tokenizer, source, team.device)
    if generation is not None:
        check_length(network.llm, generation.exercises.longest, "training.generation: a note with its answer")
    run = loop.TrainingRun(
        network=network,
        source=source,
        pairs=data.pairs,
        validation=data.validation,
        config=training,
        folder=assignment.work,
        team=team,
        generation=generation,
        mine=_mining(assignment, data),
        related=data.related,
    )
    figures = loop.train(run, on_metrics)
    weights = _kept_weights(run)
    if not team.leads:
        return {}
    if is_sharded(network):
        # Frozen weights come from the backbone once more, trained ones from all processes.
        language = _language(named, model)
        network = _network(language, source, model)
    if weights:
        load_trained_weights(network, weights)
    facts |= _refitted(network, source, data, training)
    _write_results(network.to("cpu"), language, named, data.dataset, assignment)
    return {**figures, **facts}


@dataclass(frozen=True)
class _TrainingData:
    """What a training reads of the data.

    Attributes:
        dataset: the notes with their images.
        notes: all of them, without.
        row_of: row of each note id.
        pairs: int64[M, 2], training pairs by row.
        related: int64[R, 2], notes that are no negatives of each other, if the pairs' recipe asked for them.
        validation: held-out pairs and their pool, if there are any.
        vision: float16[N, P, V] frozen features, memory-mapped; None for a variant that reads no image.
    """

    dataset: Dataset
    notes: Sequence[Note]
    row_of: Mapping[str, int]
    pairs: Rows
    related: Rows | None
    validation: Validation | None
    vision: NDArray[np.float16] | None

    @classmethod
    def of(cls, assignment: Assignment) -> _TrainingData:
        dataset = Dataset.open(assignment.dataset)
        notes = dataset.texts()
        row_of = {note.note_id: row for row, note in enumerate(notes)}
        pairs = Artifact.from_reference(assignment.pairs)
        training = pair_rows(pairs, "train.parquet", row_of)
        if not len(training):
            raise InputError(f"{pairs.file('train.parquet')}: no pairs to train on; loosen the recipe's section pairs")
        held_out = pair_rows(pairs, "validation.parquet", row_of)
        validation = None
        if len(held_out):
            pool = pq.read_table(pairs.file("validation_pool.parquet"))["note_id"].to_pylist()
            validation = Validation(held_out, np.array([row_of[n] for n in pool], np.int64))
        features = Artifact.from_reference(assignment.features)
        vision = np.load(features.file("features.npy"), mmap_mode="r") if assignment.model.reads_images else None
        if vision is not None and len(vision) != len(notes):
            raise InputError(f"{features.path}: features of {len(vision)} notes, the data set has {len(notes)}")
        related = pair_rows(pairs, RELATED, row_of) if (pairs.path / RELATED).exists() else None
        return cls(dataset, notes, row_of, training, related, validation, vision)


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


def _place(network: NoteLLM2, training: TrainingConfig, team: Team) -> None:
    """Move the network to this process's device, sharded if the recipe says so."""
    if training.sharding == "full":
        shard(network, training, team)
    else:
        network.to(team.device)


def _counts(network: NoteLLM2, source: NoteSource) -> dict[str, Any]:
    return {
        "trained_weights": sum(p.numel() for p in network.parameters() if p.requires_grad),
        "weights": sum(p.numel() for p in network.parameters()),
        "texts_truncated": source.texts.truncated,
        "mean_text_tokens": round(float(source.texts.lengths.mean()), 1),
    }


def _kept_weights(run: loop.TrainingRun) -> dict[str, torch.Tensor]:
    """The trained weights that the bundle gets, in the leading process; empty: those that the network has."""
    leads = run.team.leads
    if run.config.select != "last" and run.validation is not None:
        return load_file(run.folder / loop.BEST) if leads else {}
    return trained_weights(run.network, keep=leads) if is_sharded(run.network) else {}


def _refitted(network: NoteLLM2, source: NoteSource, data: _TrainingData, training: TrainingConfig) -> dict[str, float]:
    """Refit head and shortcuts, if the recipe asks for it; returns its figures, on held-out pairs too."""
    if not training.refit.epochs:
        return {}
    figures = refit(network, source, data.pairs, training.refit, seed=training.seed, size=2 * training.chunk_notes)
    if data.validation is not None:
        measured = validate(network, source, data.validation, training)
        figures |= {f"refit_{name}": value for name, value in measured.items()}
    return figures


def _mining(assignment: Assignment, data: _TrainingData) -> Callable[[PairOrder], HardNegatives] | None:
    """Return the function that mines hard negatives, where the assignment names an earlier model's vectors."""
    if assignment.published is None:
        return None
    vectors, pairs = Artifact.from_reference(assignment.published), Artifact.from_reference(assignment.pairs)
    return lambda order: HardNegatives.mined(vectors, pairs, data.row_of, order)


def _write_results(
    network: NoteLLM2, language: LanguageModel, named: Backbones, dataset: Dataset, assignment: Assignment
) -> None:
    """Write the bundle and the metrics."""
    config = BundleConfig(
        model=assignment.model,
        images=assignment.images,
        llm=named.llm,
        llm_digest=named.llm_digest,
        vision=named.vision,
        vision_digest=named.vision_digest,
        revision=named.revision,
        registers=named.registers,
    )
    save_bundle(assignment.folder / "bundle", network, language, config, _canaries(dataset))
    shutil.copyfile(assignment.work / loop.METRICS, assignment.folder / "metrics.jsonl")


def _start(network: NoteLLM2, source: NoteSource, pairs: Rows, assignment: Assignment, team: Team) -> dict[str, float]:
    """Fit the start if the recipe asks for one; then all processes have equal weights, each its own dropout."""
    model, training, record = assignment.model, assignment.training, assignment.work / "start.json"
    start: dict[str, float] = {}
    # A resumed run has its weights in the checkpoint; fitting the start again would only cost time.
    if model.start == "fitted" and not any(assignment.work.glob("step-*")):
        start = fit_start(network, source, pairs, model, seed=training.seed, size=2 * training.chunk_notes)
        if team.leads:
            write_atomic(record, json.dumps(start))
            logger.info("fitted start: %s", ", ".join(f"{name} {value:.3f}" for name, value in start.items()))
    elif record.exists():
        start = json.loads(record.read_text())
    # Slices hold the leader's values already (`lay_out`).
    team.lend_([p for p in network.parameters() if p.requires_grad and not is_slice(p)])
    if not team.leads:
        torch.manual_seed(training.seed + 1_000_003 * team.rank)
    return start


def _generation_task(
    assignment: Assignment,
    named: Backbones,
    data: _TrainingData,
    tokenizer: Any,
    source: NoteSource,
    device: torch.device,
) -> GenerationTask | None:
    """The generative task, if the recipe weighs it and there are steps and an LLM to train by it."""
    training = assignment.training
    if not training.generation.weight or training.steps == 0 or not assignment.model.reads_text:
        return None
    categories = data.dataset.notes(["category"])["category"].to_pylist()
    exercises = Exercises.of(tokenizer, data.notes, categories, source.texts, assignment.model)
    return GenerationTask(exercises, load_language_head(named.llm, named.revision).to(device))


def pair_rows(pairs: Artifact, name: str, row_of: Mapping[str, int]) -> Rows:
    """Read the pairs of one file of a pairs artifact as rows of the data set, int64[M, 2].

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
