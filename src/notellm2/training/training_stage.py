"""Stage "training": from backbones, pairs and frozen features to a model bundle."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from notellm2.artifacts import Artifact, Store
from notellm2.notes.dataset import Dataset
from notellm2.recipe import ImageLimits, ModelConfig, TrainingConfig

STAGE, VERSION = "training", 5


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
    published: Artifact | None = None,
) -> Artifact:
    """Tune NoteLLM-2 on the mined pairs; a killed run continues at its last checkpoint.

    Files: ``bundle/`` (see `notellm2.model.bundle.bundle`) and ``metrics.jsonl``, one JSON object a logged step: step,
    loss, loss_multimodal, loss_visual, loss_generation (nats), chance (the loss of embeddings that
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
        published: vectors of an earlier model, of which `training.hard_negatives` are mined; without them, or where
            none are asked for, only the batch's own notes are negatives.

    Raises:
        InputError: there are no training pairs, or pairs, features or backbones are not those of this data version.
        RuntimeError: one of several processes failed; carries the end of what it said.
    """
    settings, described = training.model_dump(mode="json"), model.model_dump(mode="json")
    # Where these decide nothing, models trained before there was a choice are the same.
    if training.sharding == "none":
        del settings["sharding"]
    if not training.refit.epochs:
        del settings["refit"]
    if not model.shortcuts.on:
        del described["shortcuts"]
    if not model.centre or model.head == "none":
        del described["centre"]
    config = {"model": described, "training": settings}
    inputs: dict[str, Artifact | str] = {
        "data": data_md5,
        "pairs": pairs,
        "backbones": backbones,
        "features": features,
    }
    if training.hard_negatives and published is not None:
        inputs["published"] = published
    work = store.workspace(STAGE, store.key(STAGE, VERSION, config, inputs), create=False)

    def write(folder: Path) -> dict[str, Any]:
        from notellm2.training.fit import Assignment, fit
        from notellm2.training.launch import launch
        from notellm2.training.process_group import Team

        work.mkdir(parents=True, exist_ok=True)
        assignment = Assignment(
            store=store.root.absolute(),
            provenance=dict(store.provenance),
            dataset=dataset.path.absolute(),
            data_md5=data_md5,
            pairs=pairs.reference(),
            backbones=backbones.reference(),
            features=features.reference(),
            published=published.reference() if published is not None and training.hard_negatives else None,
            model=model,
            training=training,
            images=images or ImageLimits(),
            work=work.absolute(),
            folder=folder.absolute(),
        )
        if training.processes > 1:
            return launch(assignment, on_metrics)
        return fit(assignment, Team.alone(), on_metrics)

    return store.build(STAGE, VERSION, config, inputs, write)
