"""Published files that are damaged are refused by name, and a reader that has an index open keeps its answers."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from notellm2.artifacts import Artifact, Store
from notellm2.index.layout import FILES
from notellm2.publication import Published
from notellm2.publication.pointer import NothingPublished, Publication, PublicationDamaged, read_pointer
from notellm2.publication.publish import PublishFailed
from tests.unit.index.examples import clustered, index_artifact, publish


@pytest.fixture(scope="module")
def indexes(tmp_path_factory: pytest.TempPathFactory) -> tuple[Artifact, Artifact]:
    store = Store(tmp_path_factory.mktemp("store"))
    return index_artifact(store, clustered(60, seed=1)), index_artifact(store, clustered(60, seed=2))


def put(folder: Path, index: Artifact, version: str) -> Publication:
    return publish(folder, index, model_version=version)


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


PUBLISHER = """
import json, resource, sys
from notellm2.artifacts import Artifact
from notellm2.publication.publish import PublishFailed, prepare
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]), resource.RLIM_INFINITY))
try:
    prepare(sys.argv[1], Artifact.from_reference(json.loads(sys.argv[2])), model_name="notes", model_version="2",
            data_md5="0123456789abcdef0123456789abcdef.dir")
except PublishFailed as error:
    print(error)
"""


def test_no_room_for_one_more_byte_is_a_refusal_and_the_old_index_serves(
    tmp_path: Path, indexes: tuple[Artifact, Artifact]
) -> None:
    """No file may grow beyond a limit: first each file in turn hits it, at last none does."""
    put(tmp_path, indexes[0], "1")
    pointer, reader = read_pointer(tmp_path), Published(tmp_path)
    before = reader.similar("n00007", 5)
    sizes = sorted({path.stat().st_size for path in indexes[1].path.iterdir()})
    for limit in (0, *(size - 1 for size in sizes)):
        command = [sys.executable, "-c", PUBLISHER, str(tmp_path), json.dumps(indexes[1].reference()), str(limit)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
        assert "File too large" in done.stdout
        assert "readers keep the version they have" in done.stdout
        assert [path.name for path in (tmp_path / "versions").iterdir()] == [pointer.version], "nothing half-written"
        assert reader.refresh() is False
    assert Published(tmp_path).similar("n00007", 5) == reader.similar("n00007", 5) == before


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 128 KiB, where this process may mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", str(folder)]
    try:
        done = subprocess.run(mount, capture_output=True, text=True, check=False, timeout=30)
    except FileNotFoundError:
        pytest.skip("needs a small file system of its own: there is no command `mount`")
    if done.returncode:
        pytest.skip(f"needs a small file system of its own, and may not mount one: {done.stderr.strip()}")
    yield folder
    # Lazily: a reader of the test may still hold its mapping.
    subprocess.run(["umount", "--lazy", str(folder)], check=True, timeout=30)


def test_a_full_disk_is_a_refusal_and_the_old_index_serves(
    small_disk: Path, indexes: tuple[Artifact, Artifact]
) -> None:
    published = small_disk / "published"
    put(published, indexes[0], "1")
    reader = Published(published)
    before = reader.similar("n00007", 5)
    with pytest.raises(OSError, match="No space left"):
        (small_disk / "ballast").write_bytes(bytes(128 << 10))
    with pytest.raises(PublishFailed, match=r"No space left on device; readers keep the version they have"):
        put(published, indexes[1], "2")
    assert reader.refresh() is False
    assert Published(published).similar("n00007", 5) == reader.similar("n00007", 5) == before
    (small_disk / "ballast").unlink()
    put(published, indexes[1], "2")
    assert reader.refresh()
    assert reader.model_version == "2"


def test_a_reader_says_what_is_wrong_with_the_pointer_serves_on_and_recovers(
    tmp_path: Path, indexes: tuple[Artifact, Artifact]
) -> None:
    put(tmp_path, indexes[0], "1")
    good = (tmp_path / "current.json").read_bytes()
    reader = Published(tmp_path)
    before = reader.similar("n00007", 5)
    for content, message in ((b"{", "not readable"), (b"", "not readable")):
        replaced(tmp_path / "current.json", content)
        with pytest.raises(PublicationDamaged, match=message):
            reader.refresh()
        assert isinstance(reader.problem, PublicationDamaged)
        assert reader.similar("n00007", 5) == before
    (tmp_path / "current.json").unlink()
    with pytest.raises(NothingPublished):
        reader.refresh()
    (tmp_path / "current.json").write_bytes(good)
    assert reader.refresh() is False
    assert reader.problem is None
