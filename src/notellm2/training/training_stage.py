"""Stage "training": from backbones, pairs and frozen features to a model bundle."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from notellm2.artifacts import Artifact, Store
from notellm2.notes.dataset import Dataset
from notellm2.recipe import ImageLimits, ModelConfig, TrainingConfig

STAGE, VERSION = "training", 5


@dataclass(frozen=True)
class TrainingInputs:
    """What a training reads.

    Attributes:
        dataset: the notes.
        data_md5: their version.
        pairs: train and validation pairs.
        backbones: the language model and the vision encoder.
        features: frozen vision features of the notes.
        published: vectors of an earlier model, of which `training.hard_negatives` are mined; without them, or where
            none are asked for, only the batch's own notes are negatives.
    """

    dataset: Dataset
    data_md5: str
    pairs: Artifact
    backbones: Artifact
    features: Artifact
    published: Artifact | None = None

    def keyed(self, training: TrainingConfig) -> dict[str, Artifact | str]:
        """Return the inputs that the training's key covers."""
        inputs: dict[str, Artifact | str] = {
            "data": self.data_md5,
            "pairs": self.pairs,
            "backbones": self.backbones,
            "features": self.features,
        }
        if training.hard_negatives and self.published is not None:
            inputs["published"] = self.published
        return inputs


def train(
    store: Store,
    inputs: TrainingInputs,
    model: ModelConfig,
    training: TrainingConfig,
    images: ImageLimits | None = None,
    on_metrics: Callable[[int, Mapping[str, float]], None] = lambda step, values: None,
) -> Artifact:
    """Tune NoteLLM-2 on the mined pairs; a killed run continues at its last checkpoint.

    Files: ``bundle/`` (see `notellm2.model.bundle.bundle`) and ``metrics.jsonl``, one JSON object a logged step: step,
    loss, loss_multimodal, loss_visual, loss_generation (nats), chance (the loss of embeddings that
    tell nothing apart: ln(2B - 1), less what is masked), lr, pairs_per_s, mean_cosine, effective_rank, log_scale,
    gradient norms by part, padding_share, visual_token_rank (effective rank of
    an image's visual tokens), and validation_mrr, validation_recall_at_10, _at_100 (and
    validation_loss where `training.select` is loss) where measured.

    Args:
        store: where the artifact goes; its workspace holds the checkpoints.
        inputs: the notes and what earlier stages made of them.
        model: the variant.
        training: schedule and loss.
        images: bounds of decoding, kept in the bundle.
        on_metrics: called with each logged step as it comes.

    Raises:
        InputError: there are no training pairs, or pairs, features or backbones are not those of this data version.
        RuntimeError: one of several processes failed; carries the end of its log.
    """
    config = {"model": model.keyed(), "training": training.keyed()}
    keyed = inputs.keyed(training)
    work = store.workspace(STAGE, store.key(STAGE, VERSION, config, keyed), create=False)

    def write(folder: Path) -> dict[str, Any]:
        from notellm2.training.fit import Assignment, fit
        from notellm2.training.launch import launch
        from notellm2.training.process_group import Team

        work.mkdir(parents=True, exist_ok=True)
        published = keyed.get("published")
        assignment = Assignment(
            store=store.root.absolute(),
            provenance=dict(store.provenance),
            dataset=inputs.dataset.path.absolute(),
            data_md5=inputs.data_md5,
            pairs=inputs.pairs.reference(),
            backbones=inputs.backbones.reference(),
            features=inputs.features.reference(),
            published=published.reference() if isinstance(published, Artifact) else None,
            model=model,
            training=training,
            images=images or ImageLimits(),
            work=work.absolute(),
            folder=folder.absolute(),
        )
        if training.processes > 1:
            return launch(assignment, on_metrics)
        return fit(assignment, Team.alone(), on_metrics)

    return store.build(STAGE, VERSION, config, keyed, write)
