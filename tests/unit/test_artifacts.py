from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from notellm2.artifacts import Artifact, ArtifactError, Store, digest_json, digest_tree, write_atomic
from notellm2.errors import InputError


class Config(BaseModel):
    rate: float = 0.1
    names: tuple[str, ...] = ("a", "b")


def write_text(directory: Path) -> dict[str, Any]:
    (directory / "sub").mkdir()
    (directory / "data.txt").write_text("payload")
    (directory / "sub" / "more.txt").write_text("more")
    return {"rows": 3}


def forbidden(directory: Path) -> dict[str, Any]:
    raise AssertionError("made again")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store", provenance={"data_md5": "0a.dir", "recipe": "tiny"})


@pytest.fixture
def made(store: Store) -> Artifact:
    return store.build("pairs", 1, Config(), {"data": "0a.dir"}, write_text)


def test_build_leaves_files_manifest_and_nothing_else(store: Store, made: Artifact) -> None:
    manifest = made.manifest
    assert manifest["stage"] == "pairs"
    assert manifest["key"] == made.key == made.path.name
    assert manifest["summary"] == made.summary == {"rows": 3}
    assert manifest["provenance"] == {"data_md5": "0a.dir", "recipe": "tiny"}
    assert manifest["config"] == {"rate": 0.1, "names": ["a", "b"]}
    assert manifest["inputs"] == {"data": "0a.dir"}
    assert {name: e["bytes"] for name, e in manifest["files"].items()} == {"data.txt": 7, "sub/more.txt": 4}
    assert made.file("sub/more.txt").read_text() == "more"
    assert sorted(p.name for p in store.root.rglob("*") if p.is_file()) == ["data.txt", "manifest.json", "more.txt"]


def test_a_finished_stage_is_never_done_twice(store: Store, made: Artifact) -> None:
    assert store.build("pairs", 1, Config(), {"data": "0a.dir"}, forbidden) == made


@pytest.mark.parametrize(
    ("version", "config", "inputs"),
    [
        (2, Config(), {"data": "0a.dir"}),
        (1, Config(rate=0.2), {"data": "0a.dir"}),
        (1, Config(), {"data": "0b.dir"}),
        (1, Config(), {"other": "0a.dir"}),
    ],
)
def test_version_config_and_inputs_each_change_the_key(
    store: Store, made: Artifact, version: int, config: Config, inputs: dict[str, Artifact | str]
) -> None:
    assert store.key("pairs", version, config, inputs) != made.key


def test_an_input_artifact_counts_by_its_key_and_provenance_not_at_all(store: Store, made: Artifact) -> None:
    elsewhere = Artifact(made.stage, made.key, Path("elsewhere"))
    assert store.key("training", 1, {}, {"pairs": made}) == store.key("training", 1, {}, {"pairs": elsewhere})
    assert Store(store.root, {"recipe": "other"}).key("training", 1, {}, {}) == store.key("training", 1, {}, {})


@given(
    st.dictionaries(
        st.text(max_size=5),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.floats(allow_nan=False, width=32),
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
            max_leaves=8,
        ),
        max_size=4,
    ).filter(lambda d: "inf" not in json.dumps(d).lower())
)
def test_digest_ignores_the_order_of_keys_and_survives_json(value: dict[str, Any]) -> None:
    turned = dict(reversed(value.items()))
    assert digest_json(value) == digest_json(turned) == digest_json(json.loads(json.dumps(value)))


def test_digest_refuses_what_json_cannot_say() -> None:
    with pytest.raises(ValueError, match="JSON"):
        digest_json({"loss": float("nan")})


@pytest.mark.parametrize("name", ["", "Pairs", "_pairs", "../pairs", "pairs/x", "1pairs", "pairs\n"])
def test_stage_names_cannot_leave_the_store(store: Store, name: str) -> None:
    with pytest.raises(InputError, match="stage name"):
        store.build(name, 1, {}, {}, write_text)
    assert not store.root.exists()


def test_a_failed_write_leaves_nothing_visible_and_can_be_repeated(store: Store) -> None:
    def fails(directory: Path) -> None:
        (directory / "half.txt").write_text("half")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        store.build("pairs", 1, {}, {}, fails)
    assert list(store.artifacts()) == []
    assert [p for p in store.root.rglob("*") if p.is_file()] == []
    assert store.build("pairs", 1, {}, {}, write_text).file("data.txt").read_text() == "payload"


def test_a_workspace_survives_a_failure_and_goes_with_success(store: Store) -> None:
    key = store.key("training", 1, {}, {})
    work = store.workspace("training", key)
    (work / "step-10").write_text("checkpoint")

    def fails(directory: Path) -> None:
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError):
        store.build("training", 1, {}, {}, fails)
    assert (work / "step-10").read_text() == "checkpoint"
    store.build("training", 1, {}, {}, write_text)
    assert not work.exists()


def test_references_are_small_json_and_come_back(made: Artifact) -> None:
    text = json.dumps(made.reference())
    assert len(text) < 500
    assert Artifact.from_reference(json.loads(text)) == made


def test_a_missing_file_is_named(made: Artifact) -> None:
    with pytest.raises(ArtifactError, match=r"pairs/\w+ has no file 'model.pt'"):
        made.file("model.pt")


def test_get_by_a_cut_key(store: Store, made: Artifact) -> None:
    assert store.get(f"pairs/{made.key[:6]}") == made
    store.build("pairs", 2, {}, {}, write_text)
    with pytest.raises(InputError, match=r"exactly one match.*found 2"):
        store.get("pairs/")
    with pytest.raises(InputError, match="found 0"):
        store.get("index/abc")


def test_names_with_underscore_or_dot_are_no_artifacts(store: Store, made: Artifact) -> None:
    for name in ("_mlflow/run", ".hidden/x", "pairs/.tmp-1"):
        folder = store.root / name
        folder.mkdir(parents=True)
        (folder / "manifest.json").write_text("{}")
    assert list(store.artifacts()) == [made]


def age(path: Path, hours: float) -> None:
    then = time.time() - hours * 3600
    os.utime(path, (then, then))


def test_gc_keeps_what_the_kept_was_made_from_and_spares_the_young(store: Store, made: Artifact) -> None:
    training = store.build("training", 1, {}, {"pairs": made}, write_text)
    orphan = store.build("pairs", 2, {}, {}, write_text)
    young = store.build("pairs", 3, {}, {}, write_text)
    leftover = store.root / "training" / ".abc.tmp-1"
    leftover.mkdir()
    for path in (made.path, training.path, orphan.path, leftover):
        age(path, 2)
    keep = {("training", training.key)}
    assert set(store.gc(keep, dry_run=True)) == {orphan.path, leftover}
    assert orphan.path.exists()
    assert set(store.gc(keep)) == {orphan.path, leftover}
    assert set(store.artifacts()) == {made, training, young}
    assert not leftover.exists()


def test_write_atomic_replaces_and_leaves_no_sibling(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "current.json"
    write_atomic(path, "one")
    write_atomic(path, "two")
    assert path.read_text() == "two"
    assert [p.name for p in path.parent.iterdir()] == ["current.json"]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=20)
@given(st.dictionaries(st.sampled_from(["a", "b/c", "b/d"]), st.binary(max_size=8), min_size=1))
def test_digest_tree_sees_names_and_bytes(tmp_path_factory: pytest.TempPathFactory, files: dict[str, bytes]) -> None:
    def lay(content: dict[str, bytes]) -> str:
        root = tmp_path_factory.mktemp("tree")
        for name, data in content.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(data)
        return digest_tree(root)

    name = sorted(files)[0]
    assert lay(files) == lay(dict(reversed(files.items())))
    assert lay(files) != lay({**files, name: files[name] + b"x"})
    assert lay(files) != lay({**files, "extra": b""})
