"""Embeddings by a model bundle that lies anywhere: a registered version, a download, a colleague's folder."""

from __future__ import annotations

import json
import math
import os
import shutil
from pathlib import Path
from typing import Any

from notellm2.artifacts import KEY_LENGTH, Artifact, Store, digest_tree
from notellm2.embedding.vectors_stage import VECTORS_STAGE, VECTORS_VERSION, embed, vision_features
from notellm2.errors import InputError
from notellm2.notes.dataset import Dataset
from notellm2.recipe import ImageLimits

STAGE, VERSION = "bundle", 1


def embed_bundle(store: Store, dataset: Dataset, data_md5: str, bundle: Path) -> Artifact:
    """Embed all notes by a bundle; vectors that a run left in the store are used again.

    Args:
        store: where vectors, vision features and a copy of the bundle go.
        dataset: the notes.
        data_md5: their version.
        bundle: the folder (`notellm2.model.bundle.bundle`).

    Raises:
        InputError: the folder is no bundle, or its vision encoder is missing.
        BundleError: the bundle is damaged.
    """
    vectors = _find_vectors(store, data_md5, _digest(bundle))
    if vectors is not None:
        return vectors
    adopted = adopt(store, bundle)
    images = ImageLimits.model_validate(_config(adopted.file("bundle"))["images"])
    # What a recipe allows the cache is not known here: nothing is removed, the next run keeps it to its budget.
    features = vision_features(store, dataset, data_md5, adopted, images, cache_gb=math.inf)
    return embed(store, dataset, data_md5, adopted, features)


def adopt(store: Store, bundle: Path) -> Artifact:
    """Copy a bundle into the store as an artifact: ``bundle/``, and ``backbones.json`` that names its vision encoder.

    Raises:
        InputError: the folder is no bundle.
    """
    config = _config(bundle)

    def write(folder: Path) -> dict[str, Any]:
        shutil.copytree(bundle, folder / "bundle", copy_function=shutil.copyfile)
        encoder = folder / "bundle" / "base" / "vision"
        if not encoder.is_dir() and config["vision_digest"] == config["llm_digest"]:
            encoder = encoder.with_name("llm")  # a multimodal LLM is both backbones, and is kept once
        if encoder.is_dir():
            # The same files under the name that the stage "vision-features" knows; no second copy on disk.
            shutil.copytree(encoder, folder / "vision", copy_function=os.link)
        named = {
            "llm": config["llm"],
            "vision": None if encoder.is_dir() else config["vision"],
            **{key: config[key] for key in ("llm_digest", "vision_digest", "revision")},
            "registers": config.get("registers", 0),
        }
        (folder / "backbones.json").write_text(json.dumps(named, indent=1) + "\n")
        return {"llm": config["llm"], "vision": config["vision"]}

    return store.build(STAGE, VERSION, {}, {"bundle": _digest(bundle)}, write)


def _find_vectors(store: Store, data_md5: str, digest: str) -> Artifact | None:
    for artifact in store.artifacts():
        if artifact.stage == VECTORS_STAGE:
            manifest = artifact.manifest
            made_from = (manifest["version"], manifest["inputs"].get("data"), manifest["summary"].get("bundle"))
            if made_from == (VECTORS_VERSION, data_md5, digest) and not store.problems(artifact):
                return artifact
    return None


def _digest(bundle: Path) -> str:
    return digest_tree(bundle)[:KEY_LENGTH]


def _config(bundle: Path) -> dict[str, Any]:
    try:
        config: dict[str, Any] = json.loads((bundle / "config.json").read_text(encoding="utf-8"))
        missing = {"llm", "vision", "llm_digest", "vision_digest", "revision", "images"} - config.keys()
    except (OSError, ValueError, AttributeError) as error:
        raise InputError(
            f"{bundle}: not a model bundle ({error}); a run's bundle is <store>/training/<key>/bundle"
        ) from None
    if missing:
        raise InputError(f"{bundle / 'config.json'}: not a model bundle's: {', '.join(sorted(missing))} missing")
    return config
