"""Stages "vision-features" (every image once through the frozen encoder) and "vectors" (every note embedded)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from notellm2.artifacts import KEY_LENGTH, Artifact, Store, digest_json, digest_tree
from notellm2.errors import InputError
from notellm2.notes.dataset import Dataset
from notellm2.notes.schema import Note
from notellm2.progress import track
from notellm2.recipe import ImageLimits
from notellm2.workspace import Workspace

if TYPE_CHECKING:
    from notellm2.embedding.feature_cache import FeatureCache
    from notellm2.model.backbones.backbones_stage import Backbones
    from notellm2.model.backbones.load import VisionEncoder
    from notellm2.model.bundle.bundle import Bundle
    from notellm2.model.network.note_source import NoteSource

FEATURES_STAGE, FEATURES_VERSION = "vision-features", 1
VECTORS_STAGE, VECTORS_VERSION = "vectors", 5
_BATCH = 64


def vision_features(
    store: Store, dataset: Dataset, data_md5: str, backbones: Artifact, images: ImageLimits, *, cache_gb: float = 10.0
) -> Artifact:
    """Run every image once through the frozen vision encoder, unless the store's cache knows it already.

    Files: ``features.npy`` float16[N, P, V] in data set order (index 0 the summary, zeros without image) and
    ``has_image.npy`` bool[N]. The summary counts the images that do not decode, and those that were encoded.

    Args:
        store: where the artifact and the cache (`notellm2.embedding.feature_cache`) are.
        dataset: the notes.
        data_md5: its version.
        backbones: names the encoder.
        images: bounds of decoding.
        cache_gb: disk space the cache may keep, GB; 0: no cache; infinity: what is there stays.

    Raises:
        InputError: the encoder's folder changed since it was named.
    """
    from notellm2.model.backbones.backbones_stage import Backbones

    named = Backbones.of(backbones)
    encoder = {"vision": named.vision_digest} | ({"registers": str(named.registers)} if named.registers else {})

    def write(folder: Path) -> dict[str, Any]:
        encode = _Encoder(named, images)
        if not cache_gb:
            return _features(folder, dataset, encode, None)
        from notellm2.embedding.feature_cache import FeatureCache

        what = {**encoder, "images": images.model_dump(mode="json"), "version": FEATURES_VERSION}
        with FeatureCache(
            Workspace.at(store.root).vision_cache, digest_json(what)[:KEY_LENGTH], cache_gb * 1e9
        ) as cache:
            return _features(folder, dataset, encode, cache)

    return store.build(FEATURES_STAGE, FEATURES_VERSION, images, {"data": data_md5, **encoder}, write)


class _Encoder:
    """The frozen encoder, loaded when the first image needs it."""

    def __init__(self, named: Backbones, images: ImageLimits) -> None:
        from notellm2.model.backbones.load import backbone_digest

        self._named, self._images = named, images
        if Path(named.vision).is_dir() and backbone_digest(named.vision, named.revision) != named.vision_digest:
            raise InputError(f"backbone {named.vision}: changed since this run began; start the run again")
        self.encoded = 0
        self.failed: dict[str, int] = {}

    @cached_property
    def model(self) -> VisionEncoder:
        from notellm2.model.backbones.load import load_vision_encoder
        from notellm2.training.process_group import Team

        encoder = load_vision_encoder(self._named.vision, self._named.revision)
        encoder.model.to(Team.alone().device)
        return encoder

    def __call__(self, notes: Sequence[Note]) -> NDArray[np.float16]:
        """float16[n, P, V], zeros where an image does not decode; counts both."""
        from notellm2.model.backbones.encode_images import encode_images

        features, problems = encode_images(self.model, notes, self._images)
        self.encoded += len(notes) - len(problems)
        for _, reason in problems:
            self.failed[reason] = self.failed.get(reason, 0) + 1
        return features


def _features(folder: Path, dataset: Dataset, encoder: _Encoder, cache: FeatureCache | None) -> dict[str, Any]:
    """Write ``features.npy`` and ``has_image.npy``, batch by batch."""
    features: np.memmap[Any, Any] | None = None
    has_image = np.zeros(dataset.info.notes, np.bool_)
    row = 0
    with track("vision features", len(has_image), "notes") as advance:
        for notes in dataset.batches(_BATCH):
            read = _batch_features(notes, encoder, cache)
            if read and features is None:
                shape = (len(has_image), *next(iter(read.values())).shape)
                features = np.lib.format.open_memmap(folder / "features.npy", "w+", np.float16, shape)
            for at, one in read.items():
                features[row + at] = one  # type: ignore[index]
                has_image[row + at] = one[0].any()
            row += len(notes)
            advance(len(notes))
    if features is None:
        shape = (len(has_image), encoder.model.tokens, encoder.model.width)
        features = np.lib.format.open_memmap(folder / "features.npy", "w+", np.float16, shape)
    features.flush()
    np.save(folder / "has_image.npy", has_image)
    return {
        "notes": row,
        "images": int(has_image.sum()),
        "encoded": encoder.encoded,
        "tokens": features.shape[1],
        "width": features.shape[2],
        "failed": encoder.failed,
    }


def _batch_features(
    notes: Sequence[Note], encoder: _Encoder, cache: FeatureCache | None
) -> dict[int, NDArray[np.float16]]:
    """Features float16[P, V] of the notes with an image, by position; zeros where it does not decode."""
    keys = {at: sha256(note.image).digest() for at, note in enumerate(notes) if note.image is not None}
    known = {} if cache is None else {at: one for at, key in keys.items() if (one := cache.get(key)) is not None}
    missing = [at for at in keys if at not in known]
    if missing:
        for at, one in zip(missing, encoder([notes[at] for at in missing]), strict=True):
            known[at] = one
            if cache is not None and one[0].any():
                cache.put(keys[at], one)
    return known


def embed(store: Store, dataset: Dataset, data_md5: str, training: Artifact, features: Artifact) -> Artifact:
    """Embed every note of the data set with the trained model.

    Files: ``both.npy``, ``text.npy``, ``image.npy``, ``shuffled.npy`` float32[N, D] (both inputs, image withheld, text
    withheld, both inputs but another note's image; rows of length 1, in data set order), ``vision.npy`` float32[N, V]
    (the frozen encoder's summary, length 1; zeros without image), ``note_ids.json`` and ``titles.json``. The summary
    names the bundle that made them by the digest the registry knows it by.
    """

    def write(folder: Path) -> dict[str, Any]:
        from notellm2.model.network.note_source import Modality, embed_chunks, shuffled_images

        bundle, source = open_model(store, dataset, data_md5, training, features)
        notes = dataset.texts()
        rows = np.arange(len(notes))
        shuffled = replace(source, images=shuffled_images(np.load(features.file("has_image.npy"))))
        passes: tuple[tuple[str, NoteSource, Modality], ...] = (
            ("both", source, "both"),
            ("text", source, "text"),
            ("image", source, "image"),
            ("shuffled", shuffled, "both"),
        )
        with track("vectors", len(passes) * len(rows), "embeddings") as advance:
            for name, shown, modality in passes:
                embedded = np.empty((len(rows), bundle.dim), np.float32)
                for chunk, embeddings in embed_chunks(bundle.network, shown, rows, size=_BATCH, modality=modality):
                    embedded[chunk] = embeddings
                    advance(len(chunk))
                np.save(folder / f"{name}.npy", embedded)
        summary = np.load(features.file("features.npy"), mmap_mode="r")[:, 0].astype(np.float32)
        summary /= np.maximum(np.linalg.norm(summary, axis=1, keepdims=True), 1e-12)
        np.save(folder / "vision.npy", summary)
        (folder / "note_ids.json").write_text(json.dumps([note.note_id for note in notes]))
        (folder / "titles.json").write_text(json.dumps([note.title for note in notes]))
        made_by = digest_tree(training.file("bundle"))[:KEY_LENGTH]
        return {"notes": len(notes), "dim": bundle.dim, "texts_truncated": source.texts.truncated, "bundle": made_by}

    inputs: dict[str, Artifact | str] = {"data": data_md5, "training": training, "features": features}
    return store.build(VECTORS_STAGE, VECTORS_VERSION, {}, inputs, write)


def open_model(
    store: Store, dataset: Dataset, data_md5: str, training: Artifact, features: Artifact
) -> tuple[Bundle, NoteSource]:
    """Load a trained model, and the notes as its network reads them; imports torch."""
    from notellm2.model.bundle.bundle import Bundle
    from notellm2.model.network.attention import attend_fast
    from notellm2.model.network.note_source import NoteSource
    from notellm2.training.texts_stage import token_texts

    bundle = Bundle.load(training.file("bundle"))
    texts = token_texts(store, dataset, data_md5, bundle.tokenizer, bundle.config.model)
    if bundle.network.llm is not None:
        attend_fast(bundle.network.llm)
    vision = np.load(features.file("features.npy"), mmap_mode="r") if bundle.config.model.reads_images else None
    return bundle, NoteSource(bundle.network.layout, texts, vision)
