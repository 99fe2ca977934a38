"""A refresh that publishes notes which a challenger's data did not have, and a workshop that embeds them quickly."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from notellm2.artifacts import Artifact, Store
from notellm2.index.index_stage import build_index
from notellm2.notes.dataset import INFO, Dataset, DatasetInfo
from notellm2.notes.places import KEPT
from notellm2.promotion.completion import Preparation, Workshop
from notellm2.publication.pointer import Publication, read_pointer
from notellm2.recipe import IndexConfig
from tests.unit.index.examples import note_ids, vectors_artifact
from tests.unit.pairs.conftest import behaviour, note_table
from tests.unit.registry.world import WHY, World

LATER = "fedcba9876543210fedcba9876543210.dir"
ADDED = ["added-1", "added-2"]


def keep_data(store: Store, md5: str, ids: Sequence[str], last: str | None) -> Dataset:
    """A data version as runs of deployments keep it."""
    root = store.root / KEPT / md5
    for room, table in (("notes", note_table(ids)), ("interactions", behaviour([]))):
        (root / room).mkdir(parents=True)
        pq.write_table(table, root / room / "part-00000.parquet")
    info = DatasetInfo(
        name="test", licence="none", source="test", notes=len(ids), notes_with_image=0, interactions=0,
        first_interaction=None, last_interaction=last,
    )  # fmt: skip
    (root / INFO).write_text(info.model_dump_json())
    return Dataset.open(root)


def embed(
    store: Store, dataset: Dataset, data_md5: str, bundle: Path, digest: str, previous: Artifact | None
) -> Artifact:
    """A vector of each note that its id and the bundle decide."""
    del bundle, previous
    ids = [note.note_id for batch in dataset.batches(64) for note in batch]
    rows = [np.random.default_rng(int(hashlib.sha256(f"{digest} {i}".encode()).hexdigest()[:8], 16)) for i in ids]
    vectors = np.stack([row.standard_normal(16) for row in rows]).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors_artifact(store, vectors, ids, data_md5, digest)


def build(store: Store, vectors: Artifact, config: IndexConfig, base: Artifact) -> Artifact:
    del base
    with pytest.MonkeyPatch.context() as patch:
        patch.delitem(sys.modules, "torch", raising=False)
        return build_index(store, vectors, config, threads=1)


def workshop(store: Store, on_step: Callable[[Any], None] | None = None) -> Workshop:
    def watched(step: Preparation) -> None:
        if on_step is not None:
            on_step(step)

    return Workshop(store, embed, build, bundle=lambda tracking, version, into: into, on_step=watched)


def refresh_with_added_notes(
    world: World, store: Store, version: str, bundle: str, md5: str = LATER, added: Sequence[str] = ADDED
) -> Publication:
    """What a refresh leaves: another index of the champion, with notes that are new, and their data version."""
    before = read_pointer(world.published)
    data = keep_data(store, md5, [*note_ids(40), *added], "2026-11-26T00:00:00+00:00")
    index = build(
        store, embed(store, data, md5, Path(), bundle, None), IndexConfig(sample=20), Artifact("", "", Path())
    )
    world.promoter().promote(version, index, expected=version, data_md5=md5, why=WHY, over=before.version)
    return read_pointer(world.published)
