"""Published files that are damaged are refused by name, and a reader that has an index open keeps its answers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from notellm2.artifacts import Artifact, Store
from notellm2.index import Published
from notellm2.index.layout import FILES
from notellm2.index.pointer import Publication, PublicationDamaged
from notellm2.index.publish import publish
from tests.unit.index.examples import DATA_MD5, clustered, index_artifact


@pytest.fixture(scope="module")
def indexes(tmp_path_factory: pytest.TempPathFactory) -> tuple[Artifact, Artifact]:
    store = Store(tmp_path_factory.mktemp("store"))
    return index_artifact(store, clustered(60, seed=1)), index_artifact(store, clustered(60, seed=2))


def put(folder: Path, index: Artifact, version: str) -> Publication:
    return publish(folder, index, model_name="notes", model_version=version, data_md5=DATA_MD5)


def replaced(path: Path, content: bytes) -> None:
    # As a disk or a copy would leave it for the next process: not under the feet of one that has it mapped.
    path.unlink()
    path.write_bytes(content)


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x10
    replaced(path, bytes(content))


def truncate(path: Path) -> None:
    replaced(path, path.read_bytes()[:-7])


def empty(path: Path) -> None:
    replaced(path, b"")


@pytest.mark.parametrize("harm", [flip, truncate, empty, Path.unlink])
@pytest.mark.parametrize("name", FILES)
def test_a_damaged_file_is_refused_by_name_while_the_open_index_serves(
    tmp_path: Path, indexes: tuple[Artifact, Artifact], name: str, harm: Callable[[Path], None]
) -> None:
    put(tmp_path, indexes[0], "1")
    reader = Published(tmp_path)
    before = reader.similar("n00007", 5)
    damaged = tmp_path / put(tmp_path, indexes[1], "2").folder / name
    harm(damaged)
    with pytest.raises(PublicationDamaged, match=name.replace(".", r"\.")) as refusal:
        Published(tmp_path)
    assert "publish it again" in str(refusal.value)
    with pytest.raises(PublicationDamaged):
        reader.refresh()
    assert reader.similar("n00007", 5) == before
    assert reader.model_version == "1"

    put(tmp_path, indexes[1], "2")
    assert reader.refresh()
    assert Published(tmp_path).similar("n00007", 5) == reader.similar("n00007", 5) != before


def test_harm_to_the_files_of_an_open_index_does_not_reach_its_reader(
    tmp_path: Path, indexes: tuple[Artifact, Artifact]
) -> None:
    directory = tmp_path / put(tmp_path, indexes[0], "1").folder
    reader = Published(tmp_path)
    before = reader.similar("n00007", 5)
    for path in directory.iterdir():
        path.unlink()
    directory.rmdir()
    assert reader.similar("n00007", 5) == before
    with pytest.raises(PublicationDamaged, match="missing"):
        Published(tmp_path)


def test_a_pointer_to_nothing_is_refused(tmp_path: Path, indexes: tuple[Artifact, Artifact]) -> None:
    pointer = put(tmp_path, indexes[0], "1").as_json()
    (tmp_path / "current.json").write_text(json.dumps({**pointer, "version": "v9-nowhere"}))
    with pytest.raises(PublicationDamaged, match=r"v9-nowhere is damaged.*index\.faiss: missing"):
        Published(tmp_path)


def test_without_checksums_a_broken_index_is_still_refused_not_served(
    tmp_path: Path, indexes: tuple[Artifact, Artifact]
) -> None:
    index = tmp_path / put(tmp_path, indexes[0], "1").folder / "index.faiss"
    for content in (index.read_bytes()[:-100], b"IxFI", b"", b"no index at all"):
        replaced(index, content)
        with pytest.raises(PublicationDamaged, match="not readable as a published index"):
            Published(tmp_path, verify=False)
