"""Stage "backbones": the two pretrained halves, named or built."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from notellm2.artifacts import Artifact, Store
from notellm2.notes.dataset import Dataset
from notellm2.notes.images import ImageProblem, decode_image
from notellm2.recipe import BackbonesConfig, ImageLimits, ModelConfig, TinyLLMConfig, TinyVisionConfig

STAGE, VERSION = "backbones", 1


@dataclass(frozen=True)
class Backbones:
    """Where the two halves are: a folder or hub name each, and what identifies it.

    Attributes:
        registers: tokens of the vision encoder's output that are left out, being neither summary nor patches. (They
            once counted as patches: features of these encoders, and of no others, have another key since.)
    """

    llm: str
    vision: str
    llm_digest: str
    vision_digest: str
    revision: str | None
    registers: int = 0

    @classmethod
    def of(cls, artifact: Artifact) -> Backbones:
        """The backbones that an artifact names; built ones lie inside it."""
        named = json.loads(artifact.file("backbones.json").read_text())
        for part in ("llm", "vision"):
            if named[part] is None:
                named[part] = str(artifact.file(part))
        return cls(**named)


def build_backbones(
    store: Store,
    dataset: Dataset,
    data_md5: str,
    pairs: Artifact,
    config: BackbonesConfig,
    model: ModelConfig,
    images: ImageLimits,
    progress: Callable[[str, int, float], None] = lambda part, step, loss: None,
) -> Artifact:
    """Name the pretrained halves, or build tiny ones from the texts and images of the *training* notes.

    Files: ``backbones.json`` and, for built ones, the Hugging Face folders ``llm/`` and ``vision/``.

    Args:
        store: where the artifact goes.
        dataset: read only when something is built.
        data_md5: version of `dataset`.
        pairs: the split; held-out notes are not looked at.
        config: names or sizes.
        model: for the prompt's wording, which the tiny LLM learns from.
        images: bounds of decoding.
        progress: called with ("llm" or "vision", step, loss).
    """
    from notellm2.model.backbones.load import backbone_digest, left_out_tokens

    built = isinstance(config.llm, TinyLLMConfig) or isinstance(config.vision, TinyVisionConfig)
    digests = {
        part: backbone_digest(value, config.revision)
        for part, value in (("llm", config.llm), ("vision", config.vision))
        if isinstance(value, str)
    }
    inputs: dict[str, Artifact | str] = dict(digests)
    registers = left_out_tokens(config.vision, config.revision) if isinstance(config.vision, str) else 0
    if registers:
        inputs["registers"] = str(registers)
    if built:
        inputs |= {"data": data_md5, "pairs": pairs}

    def write(folder: Path) -> dict[str, object]:
        summary: dict[str, object] = {}
        if built:
            summary = _build_tiny(folder, dataset, pairs, config, model, images, progress)
        named = {
            "llm": _pinned(config.llm, digests["llm"]) if isinstance(config.llm, str) else None,
            "vision": _pinned(config.vision, digests["vision"]) if isinstance(config.vision, str) else None,
            "llm_digest": digests.get("llm") or backbone_digest(str(folder / "llm")),
            "vision_digest": digests.get("vision") or backbone_digest(str(folder / "vision")),
            "revision": config.revision,
            **({"registers": registers} if registers else {}),
        }
        (folder / "backbones.json").write_text(json.dumps(named, indent=2) + "\n")
        return summary | named

    section = {"backbones": config.model_dump(mode="json")}
    if built:
        section["language"] = {"prompt": model.language}
    if isinstance(config.vision, TinyVisionConfig):
        section["images"] = images.model_dump(mode="json")
    return store.build(STAGE, VERSION, section, inputs, write)


def _pinned(name: str, digest: str) -> str:
    """A folder as it is; a hub name with the commit it means now, so that every later stage loads the same."""
    return name if Path(name).is_dir() else digest


def _build_tiny(
    folder: Path,
    dataset: Dataset,
    pairs: Artifact,
    config: BackbonesConfig,
    model: ModelConfig,
    limits: ImageLimits,
    progress: Callable[[str, int, float], None],
) -> dict[str, object]:
    from PIL import Image
    from transformers import AutoTokenizer

    from notellm2.model.backbones.tiny_llm import build_tiny_llm
    from notellm2.model.backbones.tiny_vision import build_tiny_vision
    from notellm2.model.network.prompt import WORDINGS
    from notellm2.recipe import TextLimits

    split = pq.read_table(pairs.file("notes.parquet"), columns=["note_id", "split"])
    training = {n for n, s in zip(*(c.to_pylist() for c in split.columns), strict=True) if s == "train"}
    words = WORDINGS[model.language]
    whole = TextLimits(title_chars=500, topics=50, topic_chars=100, content_chars=10_000)
    side = config.vision.image_px if isinstance(config.vision, TinyVisionConfig) else 0
    texts: list[str] = []
    fields: list[str] = []
    pictures: list[np.ndarray] = []
    pictured: list[int] = []
    for notes in dataset.batches():
        for note in notes:
            if note.note_id not in training:
                continue
            text = words.note_text(note, whole)
            if side and note.image is not None:
                try:
                    picture = decode_image(note.image, limits).resize((side, side), Image.Resampling.BILINEAR)
                except ImageProblem:
                    pass  # an image that does not decode is quarantined by the import and counted by the quality stage
                else:
                    pictures.append(np.asarray(picture, np.uint8))
                    pictured.append(len(texts))
            fields.append(text)
            texts.append(words.opening + text + words.compressed)
    summary: dict[str, object] = {"notes": len(texts)}
    llm_folder = str(folder / "llm") if isinstance(config.llm, TinyLLMConfig) else str(config.llm)
    if isinstance(config.llm, TinyLLMConfig):
        summary["llm_training"] = build_tiny_llm(
            texts, folder / "llm", config.llm, config.seed, lambda step, loss: progress("llm", step, loss)
        )
    if isinstance(config.vision, TinyVisionConfig):
        tokenizer = AutoTokenizer.from_pretrained(llm_folder)
        tokens = [
            np.array(ids, np.int32)
            for ids in tokenizer([fields[i] for i in pictured], add_special_tokens=False)["input_ids"]
        ]
        summary["vision_training"] = build_tiny_vision(
            np.stack(pictures) if pictures else np.zeros((0, side, side, 3), np.uint8),
            tokens,
            len(tokenizer),
            folder / "vision",
            config.vision,
            config.seed,
            lambda step, loss: progress("vision", step, loss),
        )
    return summary
