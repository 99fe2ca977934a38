"""Folders and disks: whether a retraining may write where it must, and whether there is room for what it makes."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from pathlib import Path

from notellm2.artifacts import Store
from notellm2.doctor.check import Check, ok
from notellm2.errors import InputError
from notellm2.notes.dataset import Dataset
from notellm2.notes.source import Source, find_source
from notellm2.recipe import Recipe, TinyVisionConfig
from notellm2.workspace import Workspace

_HUB_FEATURE_BYTES = 197 * 768 * 2
"""Frozen features of an image by an encoder of common size (197 tokens of 768 float16): what is reckoned with."""
_REST_BYTES = 500_000_000
"""Reckoned for checkpoints and bundle beside weights, reports, databases."""
_CHECKPOINTS = 3
"""Copies of trained weights with their optimizer that lie beside each other, in sizes of the backbones."""


def check_rights(recipe: Recipe, workspace: Workspace, named: Path | None = None) -> list[Check]:
    """Check that the store can be written, and the data read or made.

    Args:
        recipe: the recipe.
        workspace: the store.
        named: a data set or export in place of the recipe's (``--data``).
    """
    checks = [check_writable("store", workspace.root)]
    published = workspace.published
    if isinstance(published, Path) or "://" not in published:
        checks.append(check_writable("published indexes", Path(published)))
    try:
        source = find_source(recipe.data, named)
    except InputError:
        return checks  # told by the check of the data
    if source.kind != "data set":
        into = workspace.root / "_data" if source.named else recipe.data.dir
        checks.append(check_writable("folder of the data", into))
    if source.kind != "sample" and (closed := _unreadable(source.path)):
        advice = f"give this user ({_user()}) the right to read it"
        checks.append(Check("rights to the data", "failed", f"{closed} may not be read", advice))
    return checks


def check_disk(recipe: Recipe, workspace: Workspace, named: Path | None = None) -> Check:
    """Check that the store's disk has room for the stages ahead, by an estimate that says its parts.

    Args:
        recipe: the recipe.
        workspace: the store.
        named: a data set or export in place of the recipe's (``--data``).
    """
    folder = _nearest(workspace.root)
    disk = shutil.disk_usage(folder)
    parts = _needed(recipe, workspace, named)
    need = sum(parts.values())
    shown = ", ".join(f"{what} {size / 1e9:.2f}" for what, size in parts.items() if size)
    found = f"{folder}: {disk.free / 1e9:.2f} GB are free, some {need / 1e9:.2f} GB are needed ({shown})"
    advice = "make room (`notellm2 artifacts gc --dry-run` says what would go), or name another --store"
    if disk.free < need:
        return Check("disk", "failed", found, advice)
    if disk.free < 1.5 * need:
        return Check("disk", "warning", found, advice)
    return ok("disk", found)


def _needed(recipe: Recipe, workspace: Workspace, named: Path | None) -> dict[str, float]:
    """Bytes that the stages ahead may take: what they took before in this store, else an estimate."""
    notes, images, imported = _volumes(recipe, named)
    largest: dict[str, int] = {}
    for artifact in Store(workspace.root).artifacts() if workspace.root.is_dir() else ():
        size = sum(entry["bytes"] for entry in artifact.manifest["files"].values())
        largest[artifact.stage] = max(size, largest.get(artifact.stage, 0))
    if "training" in largest:
        return {"import": imported, "a retraining as before": sum(largest.values())}
    vision = recipe.backbones.vision
    image_bytes = _tiny_bytes(vision) if isinstance(vision, TinyVisionConfig) else _HUB_FEATURE_BYTES
    weights = sum(_weights(name) for name in {recipe.backbones.llm, vision} if isinstance(name, str))
    return {
        "import": imported,
        "features": min(recipe.data.feature_cache_gb * 1e9, images * image_bytes),
        "vectors and index": 2 * 4 * notes * recipe.model.dim,
        "weights": _CHECKPOINTS * weights if recipe.model.tuning == "full" else weights,
        "the rest": _REST_BYTES,
    }


def _tiny_bytes(vision: TinyVisionConfig) -> float:
    return ((vision.image_px // vision.patch_px) ** 2 + 1) * vision.width * 2


def _volumes(recipe: Recipe, named: Path | None) -> tuple[int, int, float]:
    """Notes, notes with an image, and bytes that an import writes first."""
    try:
        source = find_source(recipe.data, named)
        if source.kind == "data set":
            info = Dataset.open(source.path).info
            return info.notes, info.notes_with_image, 0
    except InputError:
        return 0, 0, 0  # told by the check of the data
    return _volumes_to_come(recipe, source)


def _volumes_to_come(recipe: Recipe, source: Source) -> tuple[int, int, float]:
    if source.kind == "sample" and recipe.data.sample is not None:
        notes = recipe.data.sample.notes
        return notes, notes, 10_000 * notes
    size = sum(path.stat().st_size for path in source.path.rglob("*") if path.is_file())
    return 0, 0, size


def _weights(name: str) -> int:
    folder = Path(name)
    return sum(path.stat().st_size for path in folder.glob("*.safetensors")) if folder.is_dir() else 0


def check_writable(name: str, folder: Path) -> Check:
    """Check that a folder can be written, or made; the system is asked, nothing is written."""
    place = _nearest(folder)
    if not place.is_dir():
        return Check(name, "failed", f"{place} is a file, not a folder", "move it away, or name another folder")
    if not os.access(place, os.W_OK | os.X_OK):
        return Check(
            name,
            "failed",
            f"{place} cannot be written by {_user()}",
            "mend its rights (or a disk that is mounted read-only), or name another folder",
        )
    return ok(name, f"{folder} can be {'written' if place == folder else 'made'}")


def _unreadable(path: Path) -> Path | None:
    """Return the first file or folder that may not be read; None: all may."""
    inside: Iterable[Path] = path.rglob("*") if path.is_dir() else ()
    return next((one for one in (path, *inside) if not os.access(one, os.R_OK)), None)


def _nearest(folder: Path) -> Path:
    """Return a folder, or the nearest one above it that is there."""
    folder = folder.absolute()
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return folder


def _user() -> str:
    return f"user {os.geteuid()}"
