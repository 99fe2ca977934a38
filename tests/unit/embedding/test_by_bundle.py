"""A bundle on its own embeds as the run that made it did."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from notellm2.artifacts import Artifact, Store
from notellm2.embedding import __main__ as command
from notellm2.embedding import vectors_stage
from notellm2.embedding.by_bundle import adopt, embed_bundle
from notellm2.errors import InputError
from notellm2.workspace import Workspace
from tests.unit.training.small_run import MD5, Stages, vectors


@pytest.fixture(scope="module")
def trained(stages: Stages) -> Artifact:
    return stages.train()


def test_a_bundle_embeds_in_another_store_as_in_its_own(stages: Stages, trained: Artifact, tmp_path: Path) -> None:
    bundle = tmp_path / "elsewhere"
    shutil.copytree(trained.file("bundle"), bundle)
    store = Store(tmp_path / "store")
    made = embed_bundle(store, stages.dataset, MD5, bundle)
    own = vectors_stage.embed(stages.store, stages.dataset, MD5, trained, stages.features)
    for name in ("both", "text", "image", "shuffled", "vision"):
        np.testing.assert_allclose(vectors(made, name), vectors(own, name), atol=1e-5)
    assert embed_bundle(store, stages.dataset, MD5, bundle) == made
    assert sorted({a.stage for a in store.artifacts()}) == ["bundle", "texts", "vectors", "vision-features"]
    assert all(store.problems(a) == [] for a in store.artifacts())


def test_it_leaves_a_cache_as_large_as_a_recipe_allowed(stages: Stages, trained: Artifact, tmp_path: Path) -> None:
    store = Store(tmp_path)
    other = Workspace.at(store.root).vision_cache / "another encoder"
    other.mkdir(parents=True)
    np.save(other / "1.keys.npy", np.zeros((1, 32), np.uint8))
    with (other / "1.features.npy").open("wb") as sparse:
        sparse.truncate(11_000_000_000)  # more than the default budget, none of it on disk
    embed_bundle(store, stages.dataset, MD5, trained.file("bundle"))
    assert len(list(other.iterdir())) == 2


def test_vectors_that_a_run_left_are_used_again(stages: Stages, trained: Artifact) -> None:
    own = vectors_stage.embed(stages.store, stages.dataset, MD5, trained, stages.features)
    assert embed_bundle(stages.store, stages.dataset, MD5, trained.file("bundle")) == own
    assert not any(a.stage == "bundle" for a in stages.store.artifacts())


def test_what_is_no_bundle_is_refused(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    with pytest.raises(InputError, match=r"nowhere: not a model bundle .*<store>/training/<key>/bundle"):
        adopt(store, tmp_path / "nowhere")
    (tmp_path / "config.json").write_text(json.dumps({"llm": "x"}))
    with pytest.raises(InputError, match="images, llm_digest, revision, vision, vision_digest missing"):
        adopt(store, tmp_path)


def test_the_command_answers_with_one_line_of_json(
    stages: Stages, trained: Artifact, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--store", str(stages.store.root), "--data", str(stages.dataset.path), "--data-md5", MD5, "--bundle"]
    assert command.main([*given, str(trained.file("bundle"))]) == 0
    assert json.loads(capsys.readouterr().out)["stage"] == "vectors"
    assert command.main([*given, str(tmp_path)]) == 2
    assert "not a model bundle" in json.loads(capsys.readouterr().out)["message"]
