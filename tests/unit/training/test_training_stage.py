from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import load_file

from notellm2.artifacts import Artifact, Store
from notellm2.errors import InputError
from notellm2.model.bundle.bundle import Bundle
from notellm2.model.network.notellm2 import NoteLLM2
from notellm2.notes.schema import PAIRS
from notellm2.training import fit, training_stage
from tests.unit.model.tiny import VARIANTS
from tests.unit.training.small_run import MODEL, TOPICS, TRAINING, Stages, topic


class Killed(Exception):
    """Stands for a kill in the middle of the training."""


@pytest.fixture(scope="module")
def trained(stages: Stages) -> Artifact:
    return stages.train()


def weights(artifact: Artifact) -> dict[str, np.ndarray]:
    bundle = artifact.file("bundle")
    return load_file(bundle / "heads.safetensors") | load_file(bundle / "adapter" / "adapter_model.safetensors")


def history(artifact: Artifact) -> list[dict[str, float]]:
    lines = artifact.file("metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k != "pairs_per_s"} for line in lines]


def test_it_leaves_a_bundle_metrics_and_figures(trained: Artifact, stages: Stages) -> None:
    assert Bundle.load(trained.file("bundle")).embed(stages.dataset.texts()[:3]).shape == (3, 8)
    assert [row["step"] for row in history(trained)] == [1, 2, 3, 4, 5, 6]
    assert [row["step"] for row in history(trained) if "validation_mrr" in row] == [3, 6]
    summary = trained.summary
    assert summary["steps"] == 6
    assert summary["final_loss"] == history(trained)[-1]["loss"]
    assert isinstance(summary["left_chance"], bool)
    assert 0 < summary["trained_weights"] < summary["weights"]
    assert summary["start"]["mean_cosine_after"] < summary["start"]["mean_cosine_before"]
    assert summary["pairs"] == len(pq.read_table(stages.pairs.file("train.parquet")))


@pytest.mark.parametrize(("centre", "named"), [(True, True), (False, False)])
def test_trainings_from_before_heads_were_centred_are_found(
    centre: bool, named: bool, stages: Stages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A key without the field is the key that such a training has."""
    configs: list[Mapping[str, Mapping[str, object]]] = []
    plain = Store.key

    def key(self: Store, stage: str, version: int, config: Any, inputs: Any) -> str:
        configs.append(config)
        return plain(self, stage, version, config, inputs)

    monkeypatch.setattr(Store, "key", key)
    stages.train(MODEL.model_copy(update={"centre": centre}), store=Store(tmp_path))
    assert configs
    assert all(("centre" in config["model"]) == named for config in configs if "training" in config)


def test_it_is_done_once(trained: Artifact, stages: Stages, monkeypatch: pytest.MonkeyPatch) -> None:
    def again(*args: object) -> None:
        raise AssertionError("trained a second time")

    monkeypatch.setattr(fit, "fit", again)
    assert stages.train() == trained
    assert not list((stages.store.root / "training").glob(".*")), "the workspace was left behind"


def test_the_canary_covers_notes_with_and_without_image_and_text(trained: Artifact) -> None:
    canaries = json.loads((trained.file("bundle") / "canary.json").read_text())
    assert {bool(c["image"]) for c in canaries} == {True, False}
    assert {bool(c["content"]) for c in canaries} == {True, False}


@pytest.mark.parametrize("at", [1, 5])
def test_a_training_that_dies_continues_to_the_same_model(
    at: int, trained: Artifact, stages: Stages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path)

    def die(step: int, values: Mapping[str, float]) -> None:
        if step == at:
            raise Killed

    with pytest.raises(Killed):
        stages.train(store=store, on_metrics=die)
    assert "training" not in {a.stage for a in store.artifacts()}, "half a training is visible"
    seen: list[int] = []
    if at > TRAINING.checkpoint_every:
        monkeypatch.setattr(fit, "fit_start", lambda *_, **__: pytest.fail("the start was fitted again"))
    resumed = stages.train(store=store, on_metrics=lambda step, values: seen.append(step))
    assert seen == ([1, 2, 3, 4, 5, 6] if at == 1 else [5, 6])
    found, expected = weights(resumed), weights(trained)
    assert found.keys() == expected.keys()
    for name, weight in expected.items():
        np.testing.assert_array_equal(found[name], weight, err_msg=name)
    assert history(resumed) == history(trained)
    assert resumed.summary["start"] == trained.summary["start"]
    assert resumed.key == trained.key


@pytest.mark.parametrize("variant", ["text", "late"])
def test_variants_are_configuration_alone(variant: str, stages: Stages) -> None:
    model = MODEL.model_copy(update={**VARIANTS[variant], "tuning": "full"})
    artifact = stages.train(model, TRAINING.model_copy(update={"steps": 2, "select": "last"}))
    bundle = Bundle.load(artifact.file("bundle"))
    assert (bundle.vision is None) == (variant == "text")
    assert "loss_visual" not in history(artifact)[0]


def with_pairs(stages: Stages, name: str, rows: list[tuple[str, str]]) -> Artifact:
    def write(folder: Path) -> None:
        table = [{"query_id": q, "target_id": t, "score": 1.0, "support": 1} for q, t in rows]
        for split in ("train", "validation"):
            pq.write_table(pa.Table.from_pylist(table if split == "train" else [], PAIRS), folder / f"{split}.parquet")

    return stages.store.build("pairs", 1, {"name": name}, {}, write)


@pytest.mark.parametrize(
    ("rows", "message"), [([("n001", "stranger")], "note 'stranger' is not in the data set"), ([], "no pairs to train")]
)
def test_pairs_that_do_not_belong_are_input_errors(rows: list[tuple[str, str]], message: str, stages: Stages) -> None:
    pairs = with_pairs(stages, message, rows)
    with pytest.raises(InputError, match=message):
        training_stage.train(stages.store, stages.inputs(pairs=pairs), MODEL, TRAINING)


def test_features_of_other_notes_are_an_input_error(stages: Stages) -> None:
    def write(folder: Path) -> None:
        np.save(folder / "features.npy", np.zeros((7, 5, 16), np.float16))

    features = stages.store.build("vision-features", 1, {"n": 7}, {}, write)
    with pytest.raises(InputError, match="features of 7 notes, the data set has 120"):
        training_stage.train(stages.store, stages.inputs(features=features), MODEL, TRAINING)


@pytest.mark.parametrize("select", ["best", "last"])
def test_the_selected_weights_go_into_the_bundle(
    select: str, stages: Stages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from notellm2.training import checkpoint, loop

    scores = iter([0.9, 0.1])
    heads: list[np.ndarray] = []
    centres: list[np.ndarray] = []

    def judge(network: NoteLLM2, *_: object) -> dict[str, float]:
        heads.append(checkpoint.trained_weights(network)["head.weight"].numpy().copy())
        centres.append(network.head.bias.detach().numpy().copy())
        return {"validation_mrr": next(scores)}

    monkeypatch.setattr(loop, "validate", judge)
    artifact = stages.train(training=TRAINING.model_copy(update={"select": select}), store=Store(tmp_path))
    saved, chosen = weights(artifact), 0 if select == "best" else 1
    np.testing.assert_array_equal(saved["head.weight"], heads[chosen])
    np.testing.assert_array_equal(saved["head.bias"], centres[chosen])
    assert not np.array_equal(heads[0], heads[1])
    assert not np.array_equal(centres[0], centres[1])


def test_related_notes_are_compared_with_by_no_step(stages: Stages) -> None:
    """All notes of the next topic are related, so each row is compared with fewer columns."""

    def write(folder: Path) -> None:
        shutil.copytree(stages.pairs.path, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("manifest.json"))
        rows = [
            {"query_id": f"n{a:03d}", "target_id": f"n{b:03d}", "score": 0.5, "support": 1}
            for a in range(100)
            for b in range(100)
            if (topic(a) + 1) % TOPICS == topic(b)
        ]
        pq.write_table(pa.Table.from_pylist(rows, PAIRS), folder / fit.RELATED)

    related = stages.store.build("pairs", 1, {"related": True}, {}, write)
    training = TRAINING.model_copy(update={"steps": 1})
    inputs = stages.inputs()
    chances = [
        history(training_stage.train(stages.store, replace(inputs, pairs=pairs), MODEL, training))[0]["chance"]
        for pairs in (stages.pairs, related)
    ]
    assert chances[1] < chances[0] - 0.1
