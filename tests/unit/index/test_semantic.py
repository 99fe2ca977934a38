"""Semantic ids: codes that name notes, coarse to fine, and the codebooks they refer to."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from notellm2.errors import InputError
from notellm2.index.layout import SEMANTIC_CODEBOOKS, SEMANTIC_IDS
from notellm2.index.semantic import write_semantic_ids
from tests.unit.index.examples import clustered, note_ids


def test_codes_and_suffix_name_each_note_and_codebooks_rebuild_its_vector(tmp_path: Path) -> None:
    vectors = clustered(400)
    told = write_semantic_ids(tmp_path, vectors, note_ids(400), levels=3, codes=16)
    table = pq.read_table(tmp_path / SEMANTIC_IDS)
    assert table["note_id"].to_pylist() == note_ids(400)
    codes = np.array(table["codes"].to_pylist())
    assert codes.shape == (400, 3)
    assert (codes.min(), codes.max() < 16) == (0, True)
    named = [(*code, suffix) for code, suffix in zip(codes.tolist(), table["suffix"].to_pylist(), strict=True)]
    assert len(set(named)) == 400
    groups = Counter(tuple(code) for code in codes.tolist())
    assert (told["different"], told["largest_group"]) == (len(groups), max(groups.values()))
    for code, size in groups.items():
        assert sorted(name[3] for name in named if name[:3] == code) == list(range(size))

    books = np.load(tmp_path / SEMANTIC_CODEBOOKS)
    assert books.shape == (3, 16, 16)
    left = vectors.copy()
    shares = []
    for level in range(3):
        nearest = ((left[:, None] - books[level][None]) ** 2).sum(2).argmin(1)
        assert (nearest == codes[:, level]).mean() > 0.99, "each code is the nearest centre of what was left over"
        left -= books[level][codes[:, level]]
        shares.append((left**2).sum() / (vectors**2).sum())
    assert 1 > shares[0] > shares[1] > shares[2]
    assert told["left_over"] == pytest.approx(shares[2], abs=1e-3)


def test_the_same_vectors_give_the_same_ids(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        write_semantic_ids(tmp_path / name, clustered(300), note_ids(300), levels=2, codes=8)
    for name in (SEMANTIC_IDS, SEMANTIC_CODEBOOKS):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_settings_that_make_no_sense_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"semantic_codes 12: expected a power of two"):
        write_semantic_ids(tmp_path, clustered(100), note_ids(100), levels=2, codes=12)
    with pytest.raises(InputError, match=r"more codes than the 100 notes"):
        write_semantic_ids(tmp_path, clustered(100), note_ids(100), levels=2, codes=128)
    assert list(tmp_path.iterdir()) == []
