"""Stages "vision-features" (every image once through the frozen encoder) and "vectors" (every note embedded)."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from notellm2.artifacts import KEY_LENGTH, Artifact, Store, digest_tree
from notellm2.errors import InputError
from notellm2.notes.dataset import Dataset
from notellm2.recipe import ImageLimits

FEATURES_STAGE, FEATURES_VERSION = "vision-features", 1
VECTORS_STAGE, VECTORS_VERSION = "vectors", 3
_BATCH = 64


def vision_features(
    store: Store, dataset: Dataset, data_md5: str, backbones: Artifact, images: ImageLimits
) -> Artifact:
    """Run every image once through the frozen vision encoder.

    Files: ``features.npy`` float16[N, P, V] in data set order (index 0 the summary, zeros without image) and
    ``has_image.npy`` bool[N]. The summary counts the images that do not decode.

    Raises:
        InputError: the encoder's folder changed since it was named.
    """
    from notellm2.model.stage import Backbones

    named = Backbones.of(backbones)

    def write(folder: Path) -> dict[str, Any]:
        from rich.console import Console
        from rich.progress import Progress

        from notellm2.model.backbones import load_vision_encoder
        from notellm2.model.bundle import encode_images

        vision = load_vision_encoder(named.vision, named.revision)
        if Path(named.vision).is_dir() and vision.digest != named.vision_digest:
            raise InputError(f"backbone {named.vision}: changed since this run began; start the run again")
        shape = (dataset.info.notes, vision.tokens, vision.width)
        features = np.lib.format.open_memmap(folder / "features.npy", "w+", np.float16, shape)
        has_image = np.zeros(shape[0], np.bool_)
        failed: dict[str, int] = {}
        row = 0
        console = Console(stderr=True)
        with Progress(console=console, disable=not console.is_terminal) as bar:
            task = bar.add_task("vision features", total=shape[0])
            for notes in dataset.batches(_BATCH):
                encoded, problems = encode_images(vision, notes, images)
                features[row : row + len(notes)] = encoded
                has_image[row : row + len(notes)] = encoded[:, 0].any(1)
                for _, reason in problems:
                    failed[reason] = failed.get(reason, 0) + 1
                row += len(notes)
                bar.update(task, advance=len(notes))
        features.flush()
        np.save(folder / "has_image.npy", has_image)
        return {"notes": row, "images": int(has_image.sum()), "tokens": shape[1], "width": shape[2], "failed": failed}

    inputs = {"data": data_md5, "vision": named.vision_digest}
    return store.build(FEATURES_STAGE, FEATURES_VERSION, images, inputs, write)


def embed(store: Store, dataset: Dataset, data_md5: str, training: Artifact, features: Artifact) -> Artifact:
    """Embed every note of the data set with the trained model.

    Files: ``both.npy``, ``text.npy``, ``image.npy``, ``shuffled.npy`` float32[N, D] (both inputs, image withheld, text
    withheld, both inputs but another note's image; rows of length 1, in data set order), ``vision.npy`` float32[N, V]
    (the frozen encoder's summary, length 1; zeros without image) and ``note_ids.json``. The summary names the bundle
    that made them by the digest the registry knows it by.
    """

    def write(folder: Path) -> dict[str, Any]:
        from notellm2.model.attention import attend_fast
        from notellm2.model.bundle import Bundle
        from notellm2.model.source import Modality, NoteSource, embed_rows, shuffled_images
        from notellm2.training.texts import token_texts

        bundle = Bundle.load(training.file("bundle"))
        notes = dataset.texts()
        vision = np.load(features.file("features.npy"), mmap_mode="r")
        texts = token_texts(store, dataset, data_md5, bundle.tokenizer, bundle.config.model)
        if bundle.network.llm is not None:
            attend_fast(bundle.network.llm)
        source = NoteSource(bundle.network.layout, texts, vision if bundle.config.model.reads_images else None)
        rows = np.arange(len(notes))
        shuffled = replace(source, images=shuffled_images(np.load(features.file("has_image.npy"))))
        passes: tuple[tuple[str, NoteSource, Modality], ...] = (
            ("both", source, "both"),
            ("text", source, "text"),
            ("image", source, "image"),
            ("shuffled", shuffled, "both"),
        )
        for name, given, modality in passes:
            np.save(folder / f"{name}.npy", embed_rows(bundle.network, given, rows, size=_BATCH, modality=modality))
        summary = vision[:, 0].astype(np.float32)
        summary /= np.maximum(np.linalg.norm(summary, axis=1, keepdims=True), 1e-12)
        np.save(folder / "vision.npy", summary)
        (folder / "note_ids.json").write_text(json.dumps([note.note_id for note in notes]))
        made_by = digest_tree(training.file("bundle"))[:KEY_LENGTH]
        return {"notes": len(notes), "dim": bundle.dim, "texts_truncated": texts.truncated, "bundle": made_by}

    inputs: dict[str, Artifact | str] = {"data": data_md5, "training": training, "features": features}
    return store.build(VECTORS_STAGE, VECTORS_VERSION, {}, inputs, write)
