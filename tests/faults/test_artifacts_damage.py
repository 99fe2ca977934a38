"""Files that rot, vanish or appear after the fact: found before reuse, moved aside, made again."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from notellm2.artifacts import Artifact, Store


def write(directory: Path) -> dict[str, int]:
    (directory / "vectors.npy").write_bytes(bytes(range(256)) * 64)
    (directory / "note_ids.json").write_text('["a", "b"]')
    return {"notes": 2}


def flip(path: Path) -> None:
    content = bytearray((path / "vectors.npy").read_bytes())
    content[5000] ^= 1
    (path / "vectors.npy").write_bytes(content)


def truncate(path: Path) -> None:
    with (path / "vectors.npy").open("r+b") as handle:
        handle.truncate(100)


def vanish(path: Path) -> None:
    (path / "note_ids.json").unlink()


def appear(path: Path) -> None:
    (path / "stray.txt").write_text("who put this here?")


def manifest_gone(path: Path) -> None:
    (path / "manifest.json").unlink()


def manifest_torn(path: Path) -> None:
    text = (path / "manifest.json").read_text()
    (path / "manifest.json").write_text(text[: len(text) // 2])


def manifest_of_another(path: Path) -> None:
    manifest = json.loads((path / "manifest.json").read_text())
    (path / "manifest.json").write_text(json.dumps({**manifest, "key": "0" * 20}))


def manifest_no_mapping(path: Path) -> None:
    (path / "manifest.json").write_text("[1, 2]")


DAMAGES = [flip, truncate, vanish, appear, manifest_gone, manifest_torn, manifest_of_another, manifest_no_mapping]


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda d: d.__name__)
def test_damage_is_found_moved_aside_and_made_again(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    store = Store(tmp_path / "store")
    made = store.build("vectors", 1, {}, {}, write)
    assert store.problems(made) == []
    damage(made.path)
    assert len(store.problems(made)) == 1

    again = store.build("vectors", 1, {}, {}, write)

    assert again == made
    assert store.problems(again) == []
    aside = list((store.root / "vectors").glob(f".{made.key}.damaged-*"))
    assert len(aside) == 1, "the damaged one is kept for a look, out of sight"
    assert list(store.artifacts()) == [made]


def test_each_damaged_file_is_named_with_what_is_wrong(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    made = store.build("vectors", 1, {}, {}, write)
    truncate(made.path)
    vanish(made.path)
    appear(made.path)
    problems = store.problems(Artifact(made.stage, made.key, made.path))
    assert problems == [
        "stray.txt: not in the manifest",
        "note_ids.json: missing",
        "vectors.npy: 100 bytes, the manifest says 16384",
    ]
