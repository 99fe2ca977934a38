"""Nothing unfit gets through: bad vectors, mixed rows, low recall, damaged files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from notellm2.index.build import plan_index, write_index
from notellm2.index.layout import IDS, INDEX, META, FileEntry, IndexInvalid, NoteIds
from notellm2.index.validate import Validation, check_vectors, validate
from tests.unit.index.examples import clustered, note_ids

Vectors = npt.NDArray[np.float32]


def written(directory: Path, vectors: Vectors, ids: list[str], kind: str = "flat", nprobe: int = 64) -> Path:
    plan = plan_index(kind, len(vectors), nprobe)
    write_index(vectors, plan, directory / INDEX, threads=1)
    NoteIds.of(ids).save(directory)
    seal(directory, plan.factory)
    return directory


def seal(directory: Path, factory: str = "Flat") -> None:
    entries = {name: FileEntry.of(directory / name) for name in (INDEX, *IDS)}
    files = {name: {"sha256": e.sha256, "bytes": e.size} for name, e in entries.items()}
    (directory / META).write_text(json.dumps({"factory": factory, "files": files}))


def check(directory: Path, vectors: Vectors, ids: list[str], min_recall: float = 0.95) -> Validation:
    return validate(directory, vectors, ids, sample=50, min_recall=min_recall, nprobe=1)


def test_an_exact_index_passes_with_its_figures(tmp_path: Path) -> None:
    vectors, ids = clustered(300), note_ids(300)
    result = check(written(tmp_path, vectors, ids), vectors, ids, 1.0)
    assert (result.count, result.dimension, result.queries, result.k) == (300, 16, 50, 100)
    assert result.recall == 1.0
    assert result.self_cosine == pytest.approx(1, abs=1e-5)
    assert 0 < result.p50_ms <= result.p99_ms


@pytest.mark.parametrize("count", [1, 2, 5])
def test_a_handful_of_notes_is_enough(tmp_path: Path, count: int) -> None:
    vectors, ids = clustered(count), note_ids(count)
    result = check(written(tmp_path, vectors, ids), vectors, ids, 1.0)
    assert (result.k, result.recall) == (count - 1, 1.0)


def test_equal_vectors_do_not_count_as_misses(tmp_path: Path) -> None:
    vectors, ids = np.repeat(clustered(3), 150, axis=0), note_ids(450)
    assert check(written(tmp_path, vectors, ids), vectors, ids, 1.0).recall == 1.0


def test_low_recall_is_refused_with_its_number_and_what_to_do(tmp_path: Path) -> None:
    vectors, ids = np.random.default_rng(0).standard_normal((3000, 16)).astype(np.float32), note_ids(3000)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    directory = written(tmp_path, vectors, ids, "ivf-sq8", nprobe=1)
    with pytest.raises(IndexInvalid, match=r"recall@100 .* is 0\.\d+ over 50 notes, .* 0\.95 .*raise index\.nprobe"):
        check(directory, vectors, ids)
    recall = check(directory, vectors, ids, 0.0).recall
    assert 0 < recall < 0.9


def test_rows_that_were_mixed_up_are_seen(tmp_path: Path) -> None:
    vectors, ids = clustered(300), note_ids(300)
    directory = written(tmp_path, vectors[::-1].copy(), ids)
    with pytest.raises(IndexInvalid, match=r"another vector for note 'n\d+' \(row \d+\): cosine"):
        check(directory, vectors, ids)


def test_an_index_of_other_size_or_ids_is_refused(tmp_path: Path) -> None:
    vectors, ids = clustered(300), note_ids(300)
    directory = written(tmp_path, vectors, ids)
    with pytest.raises(IndexInvalid, match="are not the ids"):
        check(directory, vectors, ids[::-1])
    write_index(vectors[:299], plan_index("flat", 299, 1), directory / INDEX, threads=1)
    seal(directory)
    with pytest.raises(IndexInvalid, match="holds 299 x 16, expected 300 x 16"):
        check(directory, vectors, ids)


def test_files_that_changed_after_writing_are_refused(tmp_path: Path) -> None:
    vectors, ids = clustered(300), note_ids(300)
    directory = written(tmp_path, vectors, ids)
    content = bytearray((directory / INDEX).read_bytes())
    content[-1] ^= 1
    (directory / INDEX).write_bytes(content)
    with pytest.raises(IndexInvalid, match=r"index\.faiss: its bytes do not match"):
        check(directory, vectors, ids)


def spoiled(row: int, value: float) -> Vectors:
    vectors = clustered(50)
    vectors[row, 3] = value
    return vectors


@pytest.mark.parametrize(
    ("vectors", "count", "message"),
    [
        (spoiled(7, np.nan), 50, r"note 'n00007' \(row 7\) is not finite"),
        (spoiled(8, np.inf), 50, r"note 'n00008' \(row 8\) is not finite"),
        (spoiled(9, 5.0), 50, r"note 'n00009' \(row 9\) has length 5\."),
        (np.zeros((50, 4), np.float32), 50, r"has length 0, expected 1 \(50 such"),
        (clustered(50).astype(np.float64), 50, r"float64\[50, 16\]: expected float32"),
        (np.zeros((0, 16), np.float32), 0, "not empty"),
        (clustered(50)[0], 50, r"float32\[16\]"),
        (clustered(50), 49, "50 vectors for 49 note ids"),
    ],
)
def test_vectors_no_index_can_be_built_from(vectors: Vectors, count: int, message: str) -> None:
    with pytest.raises(IndexInvalid, match=message):
        check_vectors(vectors, note_ids(count))


def test_good_vectors_pass() -> None:
    check_vectors(clustered(50), note_ids(50))
