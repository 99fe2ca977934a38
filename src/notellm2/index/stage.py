"""The stage "index": vectors to a validated index artifact. FAISS is imported only when one has to be built."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from notellm2.artifacts import Artifact, Store
from notellm2.errors import InputError
from notellm2.index.layout import IDS, INDEX, META, VALIDATION, FileEntry, NoteIds
from notellm2.recipe import IndexConfig

logger = logging.getLogger(__name__)

STAGE = "index"
VERSION = 2
VECTORS = "both.npy"
NOTE_IDS = "note_ids.json"


def find_index(store: Store, vectors: Artifact, config: IndexConfig) -> Artifact | None:
    """The index of these vectors if it was built before."""
    return store.find(STAGE, store.key(STAGE, VERSION, _settings(config), {"vectors": vectors}))


def build_index(store: Store, vectors: Artifact, config: IndexConfig, *, threads: int | None = None) -> Artifact:
    """Build and validate the index of a "vectors" artifact; nothing is left behind when validation fails.

    Args:
        store: where the artifact goes.
        vectors: with both.npy (float32[N, d], L2-normalised) and note_ids.json.
        config: the recipe's section; `keep` is of publication and does not count towards the key.
        threads: most threads used, see `build.write_index`.

    Returns:
        Artifact "index"; its files are those of `layout`, its summary the validation's figures and the plan.

    Raises:
        IndexInvalid: the vectors or the built index failed a check; the message has the numbers.
        RuntimeError: this process has imported torch.
    """
    if "torch" in sys.modules:
        raise RuntimeError(
            "torch is loaded in this process, and its OpenMP runtime and FAISS's must not meet in one: build the index "
            "with notellm2.index.process.build_index_in_subprocess, or by `python -m notellm2.index build`"
        )

    def write(directory: Path) -> Mapping[str, Any]:
        return _write(directory, vectors, config, threads)

    return store.build(STAGE, VERSION, _settings(config), {"vectors": vectors}, write)


def _settings(config: IndexConfig) -> dict[str, Any]:
    return config.model_dump(mode="json", exclude={"keep"})


def _write(directory: Path, origin: Artifact, config: IndexConfig, threads: int | None) -> dict[str, Any]:
    from notellm2.index.build import plan_index, write_index
    from notellm2.index.validate import check_vectors, validate

    vectors, ids, bundle = _load(origin)
    check_vectors(vectors, ids)
    NoteIds.of(ids).save(directory)
    plan = plan_index(config.kind, len(vectors), config.nprobe)
    logger.info("building %s over %d notes of %d dimensions", plan.factory, *vectors.shape)
    write_index(vectors, plan, directory / INDEX, threads=threads)
    manifest = origin.manifest
    entries = {name: FileEntry.of(directory / name) for name in (INDEX, *IDS)}
    meta = {
        "format": 1,
        "kind": plan.kind,
        "factory": plan.factory,
        "metric": "inner_product",
        "dimension": vectors.shape[1],
        "count": len(vectors),
        "parameters": dict(plan.parameters),
        "bundle": bundle,
        "vectors": {"key": origin.key, "inputs": manifest["inputs"]},
        "data_md5": manifest["inputs"].get("data", manifest["provenance"].get("data_md5")),
        "files": {name: {"sha256": entry.sha256, "bytes": entry.size} for name, entry in entries.items()},
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    (directory / META).write_text(json.dumps(meta, indent=2, sort_keys=True) + "\n")
    validation = validate(
        directory, vectors, ids, sample=config.sample, min_recall=config.min_recall, nprobe=config.nprobe
    ).as_json()
    (directory / VALIDATION).write_text(json.dumps(validation, indent=2, sort_keys=True) + "\n")
    logger.info("index valid: %s", validation)
    return {"kind": plan.kind, "factory": plan.factory, "bytes": entries[INDEX].size, **validation}


def _load(origin: Artifact) -> tuple[np.ndarray[Any, np.dtype[np.float32]], list[str], str]:
    """The vectors, their notes, and the digest of the bundle that made them."""
    try:
        vectors = np.load(origin.file(VECTORS), mmap_mode="r", allow_pickle=False)
        ids = json.loads(origin.file(NOTE_IDS).read_text())
    except ValueError as error:
        raise InputError(f"{origin.stage}/{origin.key}: not an artifact with vectors and note ids: {error}") from None
    if not isinstance(ids, list):
        raise InputError(f"{origin.file(NOTE_IDS)}: expected a JSON list of note ids, found {type(ids).__name__}")
    bundle = origin.summary.get("bundle")
    if not isinstance(bundle, str) or not bundle:
        raise InputError(
            f"{origin.stage}/{origin.key}: its summary names no bundle, so nobody can tell which model made these "
            "vectors: embed the notes again"
        )
    return vectors, ids, bundle
