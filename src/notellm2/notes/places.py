"""Remember in a store where a data version was read, so that a later command finds its notes again."""

from __future__ import annotations

from pathlib import Path

from notellm2.artifacts import write_atomic
from notellm2.notes.dataset import INFO, Dataset
from notellm2.notes.versions import data_md5

FOLDER = Path("_data") / "places"
KEPT = Path("_data") / "versions"
"""Where runs of deployments keep a version under its own name (`flows.runtime.snapshots`)."""


def remember_place(root: Path, md5: str, folder: Path) -> None:
    """Write down that a version is in a folder.

    Args:
        root: the store.
        md5: the version.
        folder: absolute.
    """
    (root / FOLDER).mkdir(parents=True, exist_ok=True)
    write_atomic(root / FOLDER / md5, f"{folder}\n")


def find_version(root: Path, md5: str) -> Dataset | None:
    """Open a data version that was read here; None where its folder is gone or holds another version by now."""
    if (root / KEPT / md5 / INFO).is_file():
        return Dataset.open(root / KEPT / md5)
    note = root / FOLDER / md5
    folder = Path(note.read_text().strip()) if note.is_file() else None
    if folder is None or not (folder / INFO).is_file() or data_md5(folder) != md5:
        return None
    return Dataset.open(folder)
