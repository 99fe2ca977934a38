"""The reader: right answers, clear refusals, and a swap that disturbs nobody."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from notellm2.artifacts import Artifact, Store
from notellm2.errors import InputError
from notellm2.publication import Neighbour, Published
from notellm2.publication.location import Location
from notellm2.publication.opening import open_location
from notellm2.publication.pointer import NothingPublished, PublicationDamaged, read_pointer
from notellm2.publication.reader import OpenVersion, UnknownNote
from notellm2.recipe import IndexConfig
from tests.unit.index.examples import DATA_MD5, clustered, index_artifact, note_ids, publish
from tests.unit.publication.test_publish import put


def exact(seed: int, row: int, k: int, count: int = 120) -> list[str]:
    vectors = clustered(count, seed=seed)
    scores = vectors @ vectors[row]
    scores[row] = -2
    return [note_ids(count)[i] for i in np.argsort(-scores)[:k]]


def test_similar_notes_are_the_exact_ones_without_the_note_itself(tmp_path: Path, built: list[Artifact]) -> None:
    put(tmp_path, built[0], "4")
    published = Published(tmp_path)
    for row in (0, 55, 119):
        found = published.similar(f"n{row:05d}", 10)
        assert [n.note_id for n in found] == exact(0, row, 10)
        assert [n.score for n in found] == sorted((n.score for n in found), reverse=True)
        assert all(isinstance(n, Neighbour) and type(n.score) is float and -1.001 < n.score < 1.001 for n in found)
    assert (published.model_version, published.data_md5, len(published)) == ("4", DATA_MD5, 120)
    assert "n00003" in published
    assert "x" not in published


def test_asking_for_more_than_there_is_gives_all_others(tmp_path: Path, built: list[Artifact]) -> None:
    put(tmp_path, built[0])
    published = Published(str(tmp_path))
    assert sorted(n.note_id for n in published.similar("n00005", 10_000)) == sorted(set(note_ids(120)) - {"n00005"})
    assert len(published.search(clustered(1), 10_000)[0]) == 120


@pytest.mark.parametrize("kind", ["ivf-sq8", "hnsw"])
def test_approximate_kinds_answer_from_their_file(tmp_path: Path, kind: str) -> None:
    config = IndexConfig.model_validate({"kind": kind, "sample": 30})
    put(tmp_path / "published", index_artifact(Store(tmp_path / "store"), clustered(1500), config))
    published = Published(tmp_path / "published")
    assert published.publication.kind == kind
    found = [n.note_id for n in published.similar("n00700", 20)]
    assert "n00700" not in found
    assert len(set(found) & set(exact(0, 700, 20, 1500))) >= 19


def test_an_index_of_one_note_has_nothing_similar(tmp_path: Path) -> None:
    put(tmp_path / "published", index_artifact(Store(tmp_path / "store"), clustered(1)))
    assert Published(tmp_path / "published").similar("n00000", 5) == []


def test_searching_by_vector(tmp_path: Path, built: list[Artifact]) -> None:
    put(tmp_path, built[0])
    published = Published(tmp_path)
    vectors = clustered(120)
    rows = published.search(vectors[:3].astype(np.float64), 5)
    assert [row[0].note_id for row in rows] == ["n00000", "n00001", "n00002"]
    assert rows[0][0].score == pytest.approx(1, abs=1e-5)
    assert published.search(vectors[1], 5) == [rows[1]]


def test_wrong_questions_are_refused(tmp_path: Path, built: list[Artifact]) -> None:
    put(tmp_path, built[0])
    published = Published(tmp_path)
    with pytest.raises(
        UnknownNote, match=r"'n0004' is not in the published index .*near it: 'n00039', 'n00040', 'n00041'"
    ):
        published.similar("n0004")
    for k in (0, -1):
        with pytest.raises(InputError, match=f"k {k}"):
            published.similar("n00001", k)
        with pytest.raises(InputError, match=f"k {k}"):
            published.search(clustered(1), k)
    with pytest.raises(InputError, match=r"\[1, 3\]: expected \[n, 16\]"):
        published.search([1.0, 2.0, 3.0])
    with pytest.raises(InputError, match="not finite"):
        published.search(np.full((1, 16), np.nan))


def test_titles_are_read_where_the_publication_has_them(place: Location, built: list[Artifact], store: Store) -> None:
    titles = ["Sourdough", "", *(f"Walk {row}" for row in range(118))]
    publish(place, index_artifact(store, clustered(120, seed=9), titles=titles), model_version="1")
    published = Published(place)
    told = [published.current.title(note_id) for note_id in ("n00000", "n00001", "n00119", "nobody")]
    assert told == ["Sourdough", None, "Walk 117", None]
    publish(place, built[0], model_version="2")
    assert published.refresh()
    assert published.current.title("n00000") is None


def test_nothing_published_says_how_to_publish(tmp_path: Path) -> None:
    with pytest.raises(NothingPublished, match=r"nothing is published in .*notellm2 retrain"):
        Published(tmp_path / "nowhere")


def test_refresh_follows_the_pointer_and_only_then(tmp_path: Path, built: list[Artifact]) -> None:
    put(tmp_path, built[0], "1")
    published = Published(tmp_path)
    held = published.current
    assert published.refresh() is False
    assert published.current is held
    put(tmp_path, built[1], "2", keep=1)
    assert [n.note_id for n in published.similar("n00007", 5)] == exact(0, 7, 5)
    assert published.refresh() is True
    assert published.model_version == "2"
    assert [n.note_id for n in published.similar("n00007", 5)] == exact(1, 7, 5)
    assert [n.note_id for n in held.similar("n00007", 5)] == exact(0, 7, 5), "its files are removed, its mapping is not"


def test_a_version_removed_while_it_is_opened_means_the_pointer_moved(
    tmp_path: Path, built: list[Artifact], monkeypatch: pytest.MonkeyPatch
) -> None:
    old = put(tmp_path, built[0], "1")
    put(tmp_path, built[1], "2", keep=1)
    pointers = [old]
    monkeypatch.setattr(
        "notellm2.publication.reader.read_pointer", lambda path: pointers.pop() if pointers else read_pointer(path)
    )
    assert Published(tmp_path).model_version == "2"


def test_queries_through_many_refreshes_never_fail_and_never_mix(tmp_path: Path, built: list[Artifact]) -> None:
    expected = {str(seed): exact(seed, 7, 5) for seed in range(3)}
    put(tmp_path, built[0], "0")
    published = Published(tmp_path)
    stop, wrong, asked = threading.Event(), [], [0]

    def ask() -> None:
        while not stop.is_set():
            version = published.current
            found = [n.note_id for n in version.similar("n00007", 5)]
            asked[0] += 1
            if found != expected[version.publication.model_version]:
                wrong.append(found)

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        for step in range(1, 25):
            put(tmp_path, built[step % 3], str(step % 3), keep=1)
            assert published.refresh()
    finally:
        stop.set()
        thread.join()
    assert wrong == []
    assert asked[0] > 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 1}, "format 1, this release reads 2"),
        ({"version": "../../etc"}, "no plain name"),
        ({"count": "many"}, "field 'count' is 'many', expected int"),
        ({"files": {}}, r"lists no ids\.bytes\.npy"),
        ({"model_version": None}, "field 'model_version' is None"),
    ],
)
def test_a_pointer_that_makes_no_sense_is_refused(
    tmp_path: Path, built: list[Artifact], change: dict[str, object], message: str
) -> None:
    pointer = put(tmp_path, built[0]).as_json()
    (tmp_path / "current.json").write_text(json.dumps({**pointer, **change}))
    with pytest.raises(PublicationDamaged, match=message):
        Published(tmp_path)
    for text in ("", "[]", "null", "\xff"):
        (tmp_path / "current.json").write_bytes(text.encode("latin-1"))
        with pytest.raises(PublicationDamaged, match=r"current\.json: not readable"):
            Published(tmp_path)
    del pointer["index_key"]
    (tmp_path / "current.json").write_text(json.dumps(pointer))
    with pytest.raises(PublicationDamaged, match="field 'index_key' is missing"):
        Published(tmp_path)


def test_counts_that_disagree_with_the_pointer_are_refused_even_unverified(
    tmp_path: Path, built: list[Artifact]
) -> None:
    pointer = put(tmp_path, built[0]).as_json()
    (tmp_path / "current.json").write_text(json.dumps({**pointer, "count": 119}))
    with pytest.raises(PublicationDamaged, match=r"\(120, 120, 16\), the pointer says \(119, 119, 16\)"):
        OpenVersion(open_location(tmp_path), read_pointer(tmp_path), verify=False)


def test_an_embedded_reader_imports_numpy_and_faiss_and_nothing_else_that_is_heavy(
    tmp_path: Path, built: list[Artifact]
) -> None:
    put(tmp_path, built[0])
    probe = f"""
import sys
before = set(sys.modules)
from notellm2.publication import Published
with Published({str(tmp_path)!r}, follow_s=60) as published:
    published.similar("n00001")
    published.refresh()
print(*sorted({{name.split(".")[0] for name in set(sys.modules) - before}} - set(sys.stdlib_module_names)))
"""
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True, timeout=60)
    found = {name for name in done.stdout.split() if not name.startswith("swig_runtime")}
    assert found <= {"notellm2", "numpy", "faiss", "packaging"}  # faiss asks packaging which numpy it has


def test_a_follower_needs_a_pace(tmp_path: Path, built: list[Artifact]) -> None:
    put(tmp_path, built[0])
    with pytest.raises(InputError, match="follow_s 0: expected seconds above 0"):
        Published(tmp_path, follow_s=0)


def test_a_follower_swaps_by_itself_and_ends_with_its_block(tmp_path: Path, built: list[Artifact]) -> None:
    put(tmp_path, built[0], "1")
    before = threading.active_count()
    with Published(tmp_path, follow_s=0.001) as published:
        swapped = threading.Event()
        opened = OpenVersion.__init__

        def noticed(self: OpenVersion, *arguments: Any, **options: Any) -> None:
            opened(self, *arguments, **options)
            swapped.set()

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(OpenVersion, "__init__", noticed)
            put(tmp_path, built[1], "2")
            assert swapped.wait(timeout=60)
    assert published.model_version == "2", "a swap in progress is finished before closing returns"
    assert threading.active_count() == before
    assert [n.note_id for n in published.similar("n00007", 5)] == exact(1, 7, 5), "what is open goes on answering"
