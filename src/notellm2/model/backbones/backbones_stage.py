"""Stage "backbones": the language model and the vision encoder, named or built small."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from notellm2.artifacts import Artifact, Store
from notellm2.errors import InputError
from notellm2.notes.dataset import Dataset
from notellm2.notes.images import ImageProblem, decode_image
from notellm2.notes.schema import Note
from notellm2.recipe import BackbonesConfig, ImageLimits, ModelConfig, TextLimits, TinyLLMConfig, TinyVisionConfig

STAGE, VERSION = "backbones", 1

_FEWEST_PICTURES = 2
"""Images a tiny vision encoder needs: it learns to tell one from another."""


@dataclass(frozen=True)
class Backbones:
    """Where the two backbones are: a folder or hub name each, and what identifies it.

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
        """Read the backbones that an artifact names; built ones lie inside it."""
        named = json.loads(artifact.file("backbones.json").read_text())
        for part in ("llm", "vision"):
            if named[part] is None:
                named[part] = str(artifact.file(part))
        return cls(**named)


Report = Callable[[str, int, float], None]
"""Called with the part that is trained ("llm" or "vision"), its step and its loss."""


@dataclass(frozen=True)
class Corpus:
    """What tiny backbones are built from; read only when something is built.

    Attributes:
        dataset: the notes.
        data_md5: their version.
        pairs: the split; held-out notes are not looked at.
        images: bounds of decoding.
    """

    dataset: Dataset
    data_md5: str
    pairs: Artifact
    images: ImageLimits


def build_backbones(
    store: Store,
    corpus: Corpus,
    config: BackbonesConfig,
    model: ModelConfig,
    report: Report = lambda part, step, loss: None,
) -> Artifact:
    """Name the pretrained backbones, or build tiny ones from the texts and images of the *training* notes.

    Files: ``backbones.json`` and, for built ones, the Hugging Face folders ``llm/`` and ``vision/``.

    Args:
        store: where the artifact goes.
        corpus: what built ones learn from.
        config: names or sizes.
        model: for the prompt's wording, which the tiny LLM learns from.
        report: called after each step of what is built.

    Raises:
        InputError: a named one is missing, or too few training notes have an image to build a vision encoder from.
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
        inputs |= {"data": corpus.data_md5, "pairs": corpus.pairs}

    def write(folder: Path) -> dict[str, object]:
        summary: dict[str, object] = {}
        if built:
            summary = _build_tiny(folder, corpus, config, model, report)
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
        section["images"] = corpus.images.model_dump(mode="json")
    return store.build(STAGE, VERSION, section, inputs, write)


def _pinned(name: str, digest: str) -> str:
    """A folder as it is; a hub name with the commit it means now, so that every later stage loads the same."""
    return name if Path(name).is_dir() else digest


@dataclass(frozen=True)
class _TrainingNotes:
    """Texts and images of the training notes.

    Attributes:
        texts: in the prompt, for the LLM.
        fields: the same without the prompt, for the vision encoder's partners.
        pictures: uint8[S, S, 3] each.
        pictured: for each picture the position of its note.
    """

    texts: list[str]
    fields: list[str]
    pictures: list[NDArray[np.uint8]]
    pictured: list[int]

    @classmethod
    def read(cls, corpus: Corpus, language: Literal["en", "zh"], side: int) -> _TrainingNotes:
        """Read them; images are decoded to `side` pixels, none if that is 0."""
        from notellm2.model.network.prompt import WORDINGS

        split = pq.read_table(corpus.pairs.file("notes.parquet"), columns=["note_id", "split"])
        training = {n for n, s in zip(*(c.to_pylist() for c in split.columns), strict=True) if s == "train"}
        words = WORDINGS[language]
        whole = TextLimits(title_chars=500, topics=50, topic_chars=100, content_chars=10_000)
        read = cls([], [], [], [])
        for note in (note for notes in corpus.dataset.batches() for note in notes):
            if note.note_id not in training:
                continue
            text = words.note_text(note, whole)
            picture = _picture(note, side, corpus.images) if side else None
            if picture is not None:
                read.pictures.append(picture)
                read.pictured.append(len(read.texts))
            read.fields.append(text)
            read.texts.append(words.opening + text + words.compressed)
        return read


def _picture(note: Note, side: int, limits: ImageLimits) -> NDArray[np.uint8] | None:
    from PIL import Image

    if note.image is None:
        return None
    try:
        return np.asarray(decode_image(note.image, limits).resize((side, side), Image.Resampling.BILINEAR), np.uint8)
    except ImageProblem:
        return None  # quarantined by the import and counted by the quality stage


def _build_tiny(
    folder: Path, corpus: Corpus, config: BackbonesConfig, model: ModelConfig, report: Report
) -> dict[str, object]:
    from transformers import AutoTokenizer

    from notellm2.model.backbones.tiny_llm import build_tiny_llm
    from notellm2.model.backbones.tiny_vision import VisionCorpus, build_tiny_vision

    side = config.vision.image_px if isinstance(config.vision, TinyVisionConfig) else 0
    notes = _TrainingNotes.read(corpus, model.language, side)
    if side and len(notes.pictures) < _FEWEST_PICTURES:
        # Known here, and said before the LLM is trained.
        raise InputError(
            f"backbones.vision: {len(notes.pictures)} of the {len(notes.texts)} training notes have an image, and a "
            f"tiny vision encoder learns from {_FEWEST_PICTURES} at least; name a pretrained encoder (a folder or hub "
            "name), for a model of texts alone too, or bring notes with images"
        )
    summary: dict[str, object] = {"notes": len(notes.texts)}
    llm_folder = str(folder / "llm") if isinstance(config.llm, TinyLLMConfig) else str(config.llm)
    if isinstance(config.llm, TinyLLMConfig):
        summary["llm_training"] = build_tiny_llm(
            notes.texts, folder / "llm", config.llm, config.seed, lambda step, loss: report("llm", step, loss)
        )
    if isinstance(config.vision, TinyVisionConfig):
        tokenizer = AutoTokenizer.from_pretrained(llm_folder)
        encoded = tokenizer([notes.fields[i] for i in notes.pictured], add_special_tokens=False)["input_ids"]
        pictures = np.stack(notes.pictures) if notes.pictures else np.zeros((0, side, side, 3), np.uint8)
        summary["vision_training"] = build_tiny_vision(
            VisionCorpus(pictures, [np.array(ids, np.int32) for ids in encoded], len(tokenizer)),
            folder / "vision",
            config.vision,
            config.seed,
            lambda step, loss: report("vision", step, loss),
        )
    return summary
