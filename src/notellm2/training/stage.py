"""Stage "training": from backbones, pairs and frozen features to a model bundle."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from notellm2.artifacts import Artifact, Store
from notellm2.errors import InputError
from notellm2.notes.dataset import Dataset
from notellm2.notes.schema import Note
from notellm2.recipe import ImageLimits, ModelConfig, TrainingConfig

logger = logging.getLogger(__name__)

STAGE, VERSION = "training", 4


def train(
    store: Store,
    dataset: Dataset,
    data_md5: str,
    pairs: Artifact,
    backbones: Artifact,
    features: Artifact,
    model: ModelConfig,
    training: TrainingConfig,
    images: ImageLimits | None = None,
    on_metrics: Callable[[int, Mapping[str, float]], None] = lambda step, values: None,
) -> Artifact:
    """Tune NoteLLM-2 on the mined pairs; a killed run continues at its last checkpoint.

    Files: ``bundle/`` (see `notellm2.model.bundle`) and ``metrics.jsonl``, one JSON object a logged step: step, loss,
    loss_multimodal, loss_visual (nats), chance (the loss of embeddings that
    tell nothing apart: ln(2B - 1), less what is masked), lr, pairs_per_s, mean_cosine, effective_rank, log_scale,
    gradient norms by part, padding_share, and validation_mrr, validation_recall_at_10, _at_100 where measured.

    Args:
        store: where the artifact goes; its workspace holds the checkpoints.
        dataset: the notes.
        data_md5: its version.
        pairs: train and validation pairs.
        backbones: the two pretrained halves.
        features: frozen vision features of `dataset`.
        model: the variant.
        training: schedule and loss.
        images: bounds of decoding, kept in the bundle.
        on_metrics: called with each logged step as it comes.

    Raises:
        InputError: there are no training pairs, or pairs, features or backbones are not those of this data version.
    """
    config = {"model": model.model_dump(mode="json"), "training": training.model_dump(mode="json")}
    inputs: dict[str, Artifact | str] = {
        "data": data_md5,
        "pairs": pairs,
        "backbones": backbones,
        "features": features,
    }
    work = store.workspace(STAGE, store.key(STAGE, VERSION, config, inputs), create=False)

    def write(folder: Path) -> dict[str, Any]:
        work.mkdir(parents=True, exist_ok=True)
        return _train(
            store,
            folder,
            work,
            dataset,
            data_md5,
            pairs,
            backbones,
            features,
            model,
            training,
            images or ImageLimits(),
            on_metrics,
        )

    return store.build(STAGE, VERSION, config, inputs, write)


def _train(
    store: Store,
    folder: Path,
    work: Path,
    dataset: Dataset,
    data_md5: str,
    pairs: Artifact,
    backbones: Artifact,
    features: Artifact,
    model: ModelConfig,
    training: TrainingConfig,
    images: ImageLimits,
    on_metrics: Callable[[int, Mapping[str, float]], None],
) -> dict[str, Any]:
    import torch
    from safetensors.torch import load_file

    from notellm2.model.adapters import tune
    from notellm2.model.attention import attend_fast
    from notellm2.model.backbones import load_language_model, load_tokenizer
    from notellm2.model.bundle import BundleConfig, save_bundle
    from notellm2.model.network import NoteLLM2
    from notellm2.model.prompt import layout
    from notellm2.model.source import NoteSource
    from notellm2.model.stage import Backbones
    from notellm2.training import loop
    from notellm2.training.checkpoint import load_trained_weights
    from notellm2.training.start import fit_start
    from notellm2.training.texts import token_texts

    torch.manual_seed(training.seed)
    named = Backbones.of(backbones)
    if model.reads_text:
        language = load_language_model(named.llm, named.revision, weights=model.base_weights)
    else:
        language = load_tokenizer(named.llm, named.llm_digest, named.revision)
    if Path(named.llm).is_dir() and language.digest != named.llm_digest:
        raise InputError(f"backbone {named.llm}: changed since this run began; start the run again")
    notes = dataset.texts()
    row_of = {note.note_id: row for row, note in enumerate(notes)}
    train_pairs = _rows(pairs, "train.parquet", row_of)
    if not len(train_pairs):
        raise InputError(f"{pairs.file('train.parquet')}: no pairs to train on; loosen the recipe's section pairs")
    validation_pairs = _rows(pairs, "validation.parquet", row_of)
    vision = np.load(features.file("features.npy"), mmap_mode="r") if model.reads_images else None
    if vision is not None and len(vision) != len(notes):
        raise InputError(f"{features.path}: features of {len(vision)} notes, the data set has {len(notes)}")
    texts = token_texts(store, dataset, data_md5, language.tokenizer, model)
    source = NoteSource(layout(language.tokenizer, model), texts, vision)
    llm = None if language.model is None else tune(attend_fast(language.model), model)
    network = NoteLLM2(llm, source.layout, model, 0 if vision is None else int(vision.shape[2]))
    network.to(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    counts = {
        "trained_weights": sum(p.numel() for p in network.parameters() if p.requires_grad),
        "weights": sum(p.numel() for p in network.parameters()),
        "texts_truncated": source.texts.truncated,
        "mean_text_tokens": round(float(source.texts.lengths.mean()), 1),
    }
    start = {}
    # A resumed run has its weights in the checkpoint; fitting the start again would only cost time.
    if model.start == "fitted" and not any(work.glob("step-*")):
        start = fit_start(network, source, train_pairs, model, seed=training.seed, size=2 * training.chunk_notes)
        (work / "start.json").write_text(json.dumps(start))
        logger.info("fitted start: %s", ", ".join(f"{name} {value:.3f}" for name, value in start.items()))
    elif (work / "start.json").exists():
        start = json.loads((work / "start.json").read_text())
    validation = None
    if len(validation_pairs):
        pool = pq.read_table(pairs.file("validation_pool.parquet"))["note_id"].to_pylist()
        validation = loop.Validation(validation_pairs, np.array([row_of[n] for n in pool], np.int64))
    figures = loop.train(network, source, train_pairs, validation, training, work, on_metrics)
    if training.select == "best" and validation is not None:
        load_trained_weights(network, load_file(work / loop.BEST))
    network.to("cpu")
    config = BundleConfig(
        model=model,
        images=images,
        llm=named.llm,
        llm_digest=named.llm_digest,
        vision=named.vision,
        vision_digest=named.vision_digest,
        revision=named.revision,
    )
    save_bundle(folder / "bundle", network, language, config, _canaries(dataset))
    shutil.copyfile(work / loop.METRICS, folder / "metrics.jsonl")
    return {**figures, **counts, "start": start, "pairs": len(train_pairs)}


def _rows(pairs: Artifact, name: str, row_of: Mapping[str, int]) -> NDArray[np.int64]:
    table = pq.read_table(pairs.file(name), columns=["query_id", "target_id"])
    try:
        columns = [[row_of[note_id] for note_id in column.to_pylist()] for column in table.columns]
    except KeyError as error:
        raise InputError(f"{pairs.file(name)}: note {error} is not in the data set; mine the pairs again") from None
    return np.array(columns, np.int64).T.reshape(-1, 2)


def _canaries(dataset: Dataset) -> Sequence[Note]:
    """The first notes of each kind: with text and image, and the first without either."""
    from notellm2.model.bundle import CANARIES

    for notes in dataset.batches():
        full = [note for note in notes if note.image is not None and note.content][: CANARIES - 2]
        bare = [note for note in notes if note.image is None][:1] + [note for note in notes if not note.content][:1]
        return (full + bare) or list(notes[:1])
    raise InputError(f"{dataset.path}: the data set has no notes")
