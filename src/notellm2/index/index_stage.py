"""Stage "index": build a validated index from vectors. FAISS is imported only when one has to be built."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from notellm2.artifacts import Artifact, Store
from notellm2.errors import InputError
from notellm2.index.layout import IDS, INDEX, META, VALIDATION, FileEntry, IndexInvalid, NoteIds, Titles
from notellm2.recipe import IndexConfig

if TYPE_CHECKING:
    from notellm2.index.build import Plan

logger = logging.getLogger(__name__)

STAGE = "index"
VERSION = 3
VECTORS = "both.npy"
NOTE_IDS = "note_ids.json"
NOTE_TITLES = "titles.json"


def find_index(
    store: Store, vectors: Artifact, config: IndexConfig, *, base: Artifact | None = None
) -> Artifact | None:
    """Look up the index of these vectors; None where it was not built yet."""
    return store.find(STAGE, store.key(STAGE, VERSION, _settings(config), _inputs(vectors, base)))


def build_index(
    store: Store,
    vectors: Artifact,
    config: IndexConfig,
    *,
    base: Artifact | None = None,
    threads: int | None = None,
) -> Artifact:
    """Build and validate the index of an artifact with vectors; nothing is left behind when validation fails.

    Args:
        store: where the artifact goes.
        vectors: with both.npy (float32[N, d], L2-normalised), note_ids.json, and titles.json where it is to be
            published; its summary names the bundle that made them.
        config: the recipe's section; `keep` is of publication and does not count towards the key.
        base: an index of an earlier data version by the same bundle, whose training is kept, or to which new notes are
            appended, as its kind allows (see `build`); None, or where what comes of it is not valid: built anew.
        threads: most threads used, see `build.write_index`.

    Returns:
        Artifact "index"; its files are those of `layout`, its summary the validation's figures and the plan.

    Raises:
        IndexInvalid: the vectors or the built index failed a check; the message has the numbers.
        InputError: the base holds vectors of another bundle.
        RuntimeError: this process has imported torch.
    """
    if "torch" in sys.modules:
        raise RuntimeError(
            "torch is loaded in this process, and its OpenMP runtime and FAISS's must not meet in one: build the index "
            "with notellm2.index.process.build_index_in_subprocess, or by `python -m notellm2.index build`"
        )

    def write(directory: Path) -> Mapping[str, Any]:
        return _write(directory, vectors, config, base, threads)

    return store.build(STAGE, VERSION, _settings(config), _inputs(vectors, base), write)


def vectors_of(store: Store, index: Artifact) -> Artifact | None:
    """Look up the vectors an index was built from; None where they are gone from the store, or damaged."""
    origin = json.loads(index.file(META).read_text())["vectors"]
    return store.find(origin["stage"], origin["key"])


def same_settings(index: Artifact, config: IndexConfig) -> bool:
    """Return whether an index was built by these settings, by this version of the stage."""
    manifest = index.manifest
    return bool((manifest["version"], manifest["config"]) == (VERSION, _settings(config)))


def _settings(config: IndexConfig) -> dict[str, Any]:
    return config.model_dump(mode="json", exclude={"keep"})


def _inputs(vectors: Artifact, base: Artifact | None) -> dict[str, Artifact | str]:
    # The base named as text, not as an artifact: an index works without the one it was built on, which may go.
    return {"vectors": vectors} if base is None else {"vectors": vectors, "base": f"{base.stage}/{base.key}"}


def _write(
    directory: Path, origin: Artifact, config: IndexConfig, base: Artifact | None, threads: int | None
) -> dict[str, Any]:
    from notellm2.index.build import plan_index
    from notellm2.index.validate import check_vectors

    vectors, ids, bundle = _load(origin)
    _check_base(base, bundle)
    check_vectors(vectors, ids)
    NoteIds.of(ids).save(directory)
    plan = plan_index(config.kind, len(vectors), config.nprobe)
    logger.info("building %s over %d notes of %d dimensions", plan.factory, *vectors.shape)
    about = {
        "format": 2,
        **plan.as_json(),
        "metric": "inner_product",
        "dimension": vectors.shape[1],
        "count": len(vectors),
        "bundle": bundle,
        "vectors": {"stage": origin.stage, "key": origin.key, "inputs": origin.manifest["inputs"]},
        "data_md5": origin.manifest["inputs"].get("data", origin.manifest["provenance"].get("data_md5")),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    source = _Source(directory, vectors, ids, config, threads)
    extra = _semantic_ids(directory, vectors, ids, config) | _titles(directory, origin, len(ids), config)
    try:
        made, validation = _build_validated(source, plan, base, about)
    except IndexInvalid as error:
        if base is None:
            raise
        logger.warning("from index/%s: %s; building anew", base.key, error)
        made, validation = _build_validated(source, plan, None, about)
    logger.info("index %s and valid: %s", made, validation)
    size = (directory / INDEX).stat().st_size
    return {"kind": plan.kind, "factory": plan.factory, "made": made, "bytes": size, **validation, **extra}


@dataclass(frozen=True)
class _Source:
    """What an index is built from, and where its files go."""

    directory: Path
    vectors: np.ndarray[Any, np.dtype[np.float32]]
    ids: list[str]
    config: IndexConfig
    threads: int | None


def _build_validated(
    source: _Source, plan: Plan, base: Artifact | None, about: Mapping[str, Any]
) -> tuple[str, dict[str, Any]]:
    """Write index, meta and validation; returns how it was made, and the validation's figures."""
    from notellm2.index.build import write_index
    from notellm2.index.validate import validate

    directory, config = source.directory, source.config
    former = None
    if base is not None and json.loads(base.file(META).read_text())["factory"] == plan.factory:
        former = base.file(INDEX)
    made = write_index(source.vectors, plan, directory / INDEX, former=former, threads=source.threads)
    entries = {name: FileEntry.of(directory / name) for name in (INDEX, *IDS)}
    files = {name: {"sha256": entry.sha256, "bytes": entry.size} for name, entry in entries.items()}
    meta = {**about, "made": made, "base": base and base.key, "files": files}
    (directory / META).write_text(json.dumps(meta, indent=2, sort_keys=True) + "\n")
    validation = validate(
        directory, source.vectors, source.ids, sample=config.sample, min_recall=config.min_recall, nprobe=config.nprobe
    ).as_json()
    (directory / VALIDATION).write_text(json.dumps(validation, indent=2, sort_keys=True) + "\n")
    return made, validation


def _check_base(base: Artifact | None, bundle: str) -> None:
    if base is None:
        return
    made_by = json.loads(base.file(META).read_text()).get("bundle")
    if made_by != bundle:
        raise InputError(
            f"index/{base.key} holds vectors of bundle {made_by}, asked to build on it with vectors of bundle "
            f"{bundle}: vectors of two models never lie in one index; build it from these vectors alone"
        )


def _semantic_ids(
    directory: Path, vectors: np.ndarray[Any, np.dtype[np.float32]], ids: list[str], config: IndexConfig
) -> dict[str, Any]:
    if config.semantic_levels == 0:
        return {}
    from notellm2.index.semantic import write_semantic_ids

    return {
        "semantic_ids": write_semantic_ids(
            directory, vectors, ids, levels=config.semantic_levels, codes=config.semantic_codes
        )
    }


def _titles(directory: Path, origin: Artifact, count: int, config: IndexConfig) -> dict[str, Any]:
    path = origin.path / NOTE_TITLES
    if not config.titles or not path.exists():
        return {}
    titles = json.loads(path.read_text())
    if not isinstance(titles, list) or len(titles) != count or not all(isinstance(title, str) for title in titles):
        raise InputError(f"{path}: expected a JSON list of {count} titles, one a note")
    if any(titles):  # An array of no bytes cannot be memory-mapped.
        Titles.of(titles).save(directory)
    return {"titled": sum(map(bool, titles))}


def _load(origin: Artifact) -> tuple[np.ndarray[Any, np.dtype[np.float32]], list[str], str]:
    """The vectors, their notes, and the digest of the bundle that made them."""
    try:
        vectors = np.load(origin.file(VECTORS), mmap_mode="r", allow_pickle=False)
        ids = json.loads(origin.file(NOTE_IDS).read_text())
    except ValueError as error:
        raise InputError(f"{origin.stage}/{origin.key}: not an artifact with vectors and note ids: {error}") from None
    if not isinstance(ids, list):
        raise InputError(f"{origin.file(NOTE_IDS)}: expected a JSON list of note ids, got {type(ids).__name__}")
    bundle = origin.summary.get("bundle")
    if not isinstance(bundle, str) or not bundle:
        raise InputError(
            f"{origin.stage}/{origin.key}: its summary names no bundle, so nobody can tell which model made these "
            "vectors: embed the notes again"
        )
    return vectors, ids, bundle
