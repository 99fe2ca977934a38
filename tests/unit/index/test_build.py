"""Which index for how many notes; the same input gives the same bytes; every kind answers and gives vectors back."""

from __future__ import annotations

from pathlib import Path

import faiss
import numpy as np
import pytest

from notellm2.index.build import COMPACT_FROM, FLAT_BELOW, list_count, plan_index, write_index
from notellm2.index.search import open_index, search_rows, similar_rows
from tests.unit.index.examples import clustered

KINDS = ["flat", "ivf-fp16", "ivf-sq8", "hnsw"]


def test_automatic_choice_by_size() -> None:
    assert plan_index("auto", FLAT_BELOW - 1, 64).factory == "Flat"
    assert plan_index("auto", FLAT_BELOW, 64).factory == "IVF128,SQfp16"
    assert plan_index("auto", 530_000, 64).factory == "IVF4096,SQfp16"
    assert plan_index("auto", COMPACT_FROM, 64).factory == "IVF8192,SQ8"
    assert plan_index("hnsw", 10, 64).factory == "HNSW32,Flat"
    with pytest.raises(ValueError, match="'pq'"):
        plan_index("pq", 10, 64)


@pytest.mark.parametrize("count", [1, 2, 255, 256, 20_000, 530_000, 10_000_000])
def test_lists_are_a_power_of_two_within_bounds(count: int) -> None:
    lists = list_count(count)
    assert lists & (lists - 1) == 0
    assert 1 <= lists <= max(1, count / 128, 1)
    assert lists <= max(1, 6 * count**0.5)


def test_no_more_lists_are_probed_than_there_are() -> None:
    assert plan_index("ivf-sq8", 1000, 64).parameters["nprobe"] == 4


@pytest.mark.parametrize("kind", KINDS)
def test_building_twice_gives_the_same_bytes(tmp_path: Path, kind: str) -> None:
    vectors = clustered(1500)
    plan = plan_index(kind, len(vectors), 4)
    for name in ("one", "two"):
        write_index(vectors, plan, tmp_path / name, threads=2)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_gives_vectors_back_and_finds_neighbours(tmp_path: Path, kind: str) -> None:
    vectors = clustered(1500)
    write_index(vectors, plan_index(kind, len(vectors), 64), tmp_path / "index", threads=1)
    index = open_index(tmp_path / "index")
    assert (index.ntotal, index.d, index.metric_type) == (1500, 16, faiss.METRIC_INNER_PRODUCT)
    for row in (0, 777, 1499):
        assert index.reconstruct(row) == pytest.approx(vectors[row], abs=0.02)
        scores, rows = similar_rows(index, row, 20)
        exact = vectors @ vectors[row]
        exact[row] = -2
        expected = np.argsort(-exact)[:20]
        assert row not in rows
        assert len(set(rows) & set(expected)) >= 19
        assert np.all(np.diff(scores) <= 0)
        assert scores == pytest.approx(exact[rows], abs=0.02)


@pytest.mark.parametrize("kind", ["ivf-fp16", "ivf-sq8"])
def test_lists_are_kept_and_filled_anew(tmp_path: Path, kind: str) -> None:
    everything = clustered(1700)
    old, new = everything[:1500], everything[100:]
    plan = plan_index(kind, len(old), 64)
    write_index(old, plan, tmp_path / "old", threads=1)
    assert write_index(new, plan, tmp_path / "new", former=tmp_path / "old", threads=1) == "trained before"
    index, before = open_index(tmp_path / "new"), open_index(tmp_path / "old")
    assert index.ntotal == 1600
    lists = [faiss.downcast_index(i.quantizer).reconstruct_n(0, i.nlist) for i in (index, before)]
    assert np.array_equal(*lists)
    for row in (0, 1599):
        assert index.reconstruct(row) == pytest.approx(new[row], abs=0.05)
        exact = np.argsort(-(new @ new[row]))[1:21]
        assert len(set(similar_rows(index, row, 20)[1]) & set(exact)) >= 18


def test_a_graph_grows_only_where_its_vectors_are_the_first_of_the_new_ones(tmp_path: Path) -> None:
    old = clustered(300)
    grown = np.concatenate([old, clustered(50, seed=1)])
    plan = plan_index("hnsw", len(old), 64)
    write_index(old, plan, tmp_path / "old")
    assert write_index(grown, plan, tmp_path / "new", former=tmp_path / "old") == "appended to"
    index = open_index(tmp_path / "new")
    assert index.ntotal == 350
    assert index.hnsw.efSearch == plan.parameters["search_effort"]
    for row in (0, 349):
        exact = np.argsort(-(grown @ grown[row]))[1:11]
        assert len(set(similar_rows(index, row, 10)[1]) & set(exact)) >= 9
    changed = grown.copy()
    changed[7] = grown[8]
    for other in (changed, old[:200]):
        assert write_index(other, plan, tmp_path / "other", former=tmp_path / "old") == "built"
        write_index(other, plan, tmp_path / "anew")
        assert (tmp_path / "other").read_bytes() == (tmp_path / "anew").read_bytes()


def test_lists_that_hold_too_few_notes_are_made_up_for(tmp_path: Path) -> None:
    vectors = clustered(2000)
    write_index(vectors, plan_index("ivf-sq8", len(vectors), 1), tmp_path / "index", threads=1)
    index = open_index(tmp_path / "index")
    assert (index.nlist, index.nprobe) == (8, 1)
    assert (index.search(vectors[:1], 2000)[1] < 0).any(), "one list alone does not hold all notes"
    _, rows = search_rows(index, vectors[:1], 2000)
    assert sorted(rows[0]) == list(range(2000))


def test_a_note_is_left_out_even_when_another_has_its_vector(tmp_path: Path) -> None:
    vectors = np.repeat(clustered(10), 4, axis=0)
    write_index(vectors, plan_index("flat", len(vectors), 1), tmp_path / "index", threads=1)
    index = open_index(tmp_path / "index")
    for row in range(len(vectors)):
        _, rows = similar_rows(index, row, 3)
        twins = set(range(row // 4 * 4, row // 4 * 4 + 4)) - {row}
        assert set(rows) == twins
