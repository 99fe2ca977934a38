"""Small vectors with the structure of real ones, and the artifacts made of them."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from notellm2.artifacts import Artifact, Store
from notellm2.index.index_stage import build_index
from notellm2.publication.location import Location
from notellm2.publication.pointer import NothingPublished, Publication, PublicationDamaged, read_pointer
from notellm2.publication.publish import point, prepare, retain, versions
from notellm2.recipe import IndexConfig

DATA_MD5 = "0123456789abcdef0123456789abcdef.dir"
BUNDLE = "b0d1e" * 4


def clustered(count: int, dimension: int = 16, seed: int = 0) -> npt.NDArray[np.float32]:
    """L2-normalised vectors around count / 20 centres."""
    random = np.random.default_rng(seed)
    centres = random.standard_normal((max(1, count // 20), dimension))
    vectors = centres[random.integers(0, len(centres), count)] + 0.5 * random.standard_normal((count, dimension))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def note_ids(count: int) -> list[str]:
    return [f"n{row:05d}" for row in range(count)]


def vectors_artifact(
    store: Store,
    vectors: npt.NDArray[np.float32],
    ids: Sequence[str] | None = None,
    data_md5: str = DATA_MD5,
    bundle: str = BUNDLE,
    titles: object = None,
) -> Artifact:
    """An artifact as the embedding room leaves it, as far as the index reads it."""
    ids = note_ids(len(vectors)) if ids is None else list(ids)

    def write(directory: Path) -> dict[str, int]:
        np.save(directory / "both.npy", vectors)
        (directory / "note_ids.json").write_text(json.dumps(ids))
        if titles is not None:
            (directory / "titles.json").write_text(json.dumps(titles))
        return {"notes": len(ids), "bundle": bundle}

    content: dict[str, object] = {
        "sum": float(np.nansum(vectors[:, 0])),
        "rows": len(vectors),
        "ids": ids[:2],
        "bundle": bundle,
    }
    content |= {} if titles is None else {"titles": titles}
    return store.build("vectors", 1, content, {"data": data_md5, "training": "5eed" * 5}, write)


def index_artifact(
    store: Store,
    vectors: npt.NDArray[np.float32],
    config: IndexConfig | None = None,
    ids: Sequence[str] | None = None,
    data_md5: str = DATA_MD5,
    titles: object = None,
) -> Artifact:
    """The index of these vectors, built in this process even when other tests have brought torch into it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delitem(sys.modules, "torch", raising=False)
        origin = vectors_artifact(store, vectors, ids, data_md5, titles=titles)
        return build_index(store, origin, config or IndexConfig(sample=20), threads=1)


def publish(
    place: Location | Path,
    index: Artifact,
    *,
    model_name: str = "notes",
    model_version: str = "1",
    data_md5: str = DATA_MD5,
    keep: int = 5,
) -> Publication:
    """Store an index, point at it whatever is current, and keep the versions stored last: a lone publisher's way."""
    publication = prepare(place, index, model_name=model_name, model_version=model_version, data_md5=data_md5)
    expected = None
    with contextlib.suppress(NothingPublished, PublicationDamaged):
        expected = read_pointer(place).version
    result = point(place, publication, expected=expected)
    retain(place, list(versions(place))[:keep], older_than_s=0)
    return result
