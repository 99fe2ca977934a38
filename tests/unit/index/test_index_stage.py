"""The stage: what the artifact holds, what its key covers, and that torch keeps it from running."""

from __future__ import annotations

import json
import sys
from types import ModuleType

import numpy as np
import pytest

from notellm2.artifacts import Store
from notellm2.errors import InputError
from notellm2.index.index_stage import build_index, find_index, same_settings, vectors_of
from notellm2.index.layout import (
    EXTRA_FILES,
    FILES,
    INDEX,
    SEMANTIC_CODEBOOKS,
    SEMANTIC_IDS,
    TITLES,
    IndexInvalid,
    Titles,
)
from notellm2.recipe import IndexConfig
from tests.unit.index.examples import BUNDLE, DATA_MD5, clustered, index_artifact, vectors_artifact


def test_the_artifact_holds_the_index_and_says_what_it_is(store: Store) -> None:
    index = index_artifact(store, clustered(300))
    assert index.stage == "index"
    assert set(index.manifest["files"]) == set(FILES)
    assert store.problems(index) == []
    meta = json.loads(index.file("meta.json").read_text())
    assert (meta["kind"], meta["factory"], meta["metric"]) == ("flat", "Flat", "inner_product")
    assert (meta["count"], meta["dimension"], meta["data_md5"]) == (300, 16, DATA_MD5)
    vectors = vectors_artifact(store, clustered(300))
    assert meta["vectors"] == {
        "stage": "vectors", "key": vectors.key, "inputs": {"data": DATA_MD5, "training": "5eed" * 5}
    }  # fmt: skip
    assert (meta["bundle"], meta["made"], meta["base"]) == (BUNDLE, "built", None)
    assert vectors_of(store, index) == vectors
    assert same_settings(index, IndexConfig(sample=20, keep=9))
    assert not same_settings(index, IndexConfig(sample=21))
    assert {name: entry["sha256"] for name, entry in meta["files"].items()}.items() <= {
        name: entry["sha256"] for name, entry in index.manifest["files"].items()
    }.items()
    assert index.summary["recall"] == 1.0
    assert index.summary["count"] == 300
    assert json.loads(index.file("validation.json").read_text()).items() <= index.summary.items()


def test_how_many_versions_are_kept_does_not_rebuild_the_index(store: Store) -> None:
    vectors = vectors_artifact(store, clustered(100))
    index = index_artifact(store, clustered(100), IndexConfig(sample=20, keep=2))
    assert find_index(store, vectors, IndexConfig(sample=20, keep=9)) == index
    assert find_index(store, vectors, IndexConfig(sample=20, nprobe=9)) is None


def test_a_process_with_torch_is_refused_and_told_what_to_do(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = vectors_artifact(store, clustered(100))
    monkeypatch.setitem(sys.modules, "torch", ModuleType("torch"))
    with pytest.raises(RuntimeError, match="build_index_in_subprocess"):
        build_index(store, vectors, IndexConfig())


def test_an_invalid_index_leaves_nothing(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    vectors = np.random.default_rng(0).standard_normal((3000, 16)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    origin = vectors_artifact(store, vectors)
    config = IndexConfig(kind="ivf-sq8", nprobe=1, sample=30)
    with pytest.raises(IndexInvalid, match="recall@100"):
        build_index(store, origin, config, threads=1)
    assert find_index(store, origin, config) is None
    assert list((store.root / "index").iterdir()) == []


def test_vectors_without_proper_ids_are_refused(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    twice = vectors_artifact(store, clustered(100), ["same"] * 100)
    with pytest.raises(IndexInvalid, match="'same' occurs twice"):
        build_index(store, twice, IndexConfig())
    origin = vectors_artifact(store, clustered(101))
    origin.file("note_ids.json").write_text('{"a": 1}')
    with pytest.raises(InputError, match="expected a JSON list"):
        build_index(store, origin, IndexConfig())
    origin.file("both.npy").write_bytes(b"not an array")
    with pytest.raises(InputError, match="not an artifact with vectors"):
        build_index(store, origin, IndexConfig())


def test_an_index_is_built_on_an_earlier_one_of_the_same_bundle_only(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    config = IndexConfig(kind="ivf-sq8", sample=30)
    base = index_artifact(store, clustered(1500), config)
    grown = vectors_artifact(store, clustered(1600))
    index = build_index(store, grown, config, base=base, threads=1)
    assert index.summary["made"] == "trained before"
    assert json.loads(index.file("meta.json").read_text())["base"] == base.key
    assert find_index(store, grown, config, base=base) == index
    assert find_index(store, grown, config) is None, "built alone it would be another one"
    other = vectors_artifact(store, clustered(1600, seed=3), bundle="07be2" * 4)
    with pytest.raises(InputError, match=f"bundle {BUNDLE}, asked to build on it with vectors of bundle 07be2"):
        build_index(store, other, config, base=base)
    unnamed = vectors_artifact(store, clustered(1600, seed=4), bundle="")
    with pytest.raises(InputError, match="names no bundle"):
        build_index(store, unnamed, config)


def test_what_is_not_valid_on_an_earlier_index_is_built_anew(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    config = IndexConfig(kind="ivf-sq8", sample=50)
    # All notes of the earlier data lie close together: its 8-bit codes do not reach as far as the new vectors.
    narrow = clustered(1500) * 0.02 + np.eye(16, dtype=np.float32)[0]
    narrow /= np.linalg.norm(narrow, axis=1, keepdims=True)
    base = index_artifact(store, narrow, config)
    vectors = vectors_artifact(store, clustered(1500, seed=2))
    on_base = build_index(store, vectors, config, base=base, threads=1)
    anew = build_index(store, vectors, config, threads=1)
    assert on_base.key != anew.key
    assert on_base.summary["made"] == "built"
    assert on_base.file(INDEX).read_bytes() == anew.file(INDEX).read_bytes()


def test_another_number_of_lists_is_built_anew(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    config = IndexConfig(kind="ivf-sq8", sample=20)
    base = index_artifact(store, clustered(1500), config)
    index = build_index(store, vectors_artifact(store, clustered(3000)), config, base=base, threads=1)
    assert index.summary["made"] == "built"


def test_semantic_ids_are_part_of_the_artifact_where_asked_for(store: Store) -> None:
    assert not set(EXTRA_FILES) & set(index_artifact(store, clustered(300)).manifest["files"])
    config = IndexConfig(sample=20, semantic_levels=2, semantic_codes=8)
    index = index_artifact(store, clustered(300), config)
    assert {SEMANTIC_IDS, SEMANTIC_CODEBOOKS} < set(index.manifest["files"])
    assert index.summary["semantic_ids"]["levels"] == 2


TITLED = ["Sourdough", "", "<b>散歩</b>", *("x" * row for row in range(97))]


def test_titles_are_part_of_the_artifact_unless_the_recipe_keeps_them_out(store: Store) -> None:
    index = index_artifact(store, clustered(100), titles=TITLED)
    assert set(index.manifest["files"]) == {*FILES, *TITLES}
    assert index.summary["titled"] == 98
    opened = Titles.open(index.path, 100)
    assert [opened[row] for row in range(100)] == TITLED
    with pytest.raises(ValueError, match="not those of 99 notes"):
        Titles.open(index.path, 99)
    for config, titles in ((IndexConfig(sample=20, titles=False), TITLED), (None, [""] * 100)):
        assert set(index_artifact(store, clustered(100), config, titles=titles).manifest["files"]) == set(FILES)


@pytest.mark.parametrize("titles", [TITLED[:99], [*TITLED[:99], 7], {"n00000": "Sourdough"}])
def test_titles_that_are_not_those_of_the_notes_are_refused(store: Store, titles: object) -> None:
    with pytest.raises(InputError, match=r"titles\.json: expected a JSON list of 100 titles"):
        index_artifact(store, clustered(100), titles=titles)
