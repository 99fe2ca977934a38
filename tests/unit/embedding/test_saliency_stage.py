"""The saliency stage on tiny backbones: a file a page can draw, made once."""

from __future__ import annotations

import json

import pyarrow.parquet as pq
import pytest

from notellm2.artifacts import Artifact, Store
from notellm2.embedding.saliency_stage import SaliencyInputs, measure_saliency
from notellm2.errors import InputError
from tests.unit.training.small_run import MD5, Stages


def with_test_pairs(stages: Stages, name: str, rows: int) -> Artifact:
    """A pairs artifact whose test pairs are some of the training's."""

    def write(into: object) -> None:
        table = pq.read_table(stages.pairs.file("train.parquet")).slice(0, rows)
        pq.write_table(table, f"{into}/test.parquet")

    return stages.store.build("pairs", 1, {"saliency": name}, {}, write)


def test_shares_of_each_layer_sum_to_one(stages: Stages) -> None:
    pairs, trained = with_test_pairs(stages, "ten", 10), stages.train()

    def measured(store: Store, count: int) -> Artifact:
        inputs = SaliencyInputs(stages.dataset, MD5, pairs, trained, stages.features)
        return measure_saliency(store, inputs, count=count)

    artifact = measured(stages.store, 6)
    found = json.loads(artifact.file("saliency.json").read_text())
    assert found["pairs"] == 6
    assert len(found["layers"]) == 1
    for layer in found["layers"]:
        assert sum(layer[name] for name in ("visual", "text", "rest")) == pytest.approx(1)
        assert sum(layer[f"released_{name}"] for name in ("visual", "text", "rest")) == pytest.approx(1)
        # The one layer is the last: nothing of what flows elsewhere is read.
        zero = {name for name, value in layer.items() if value == 0}
        assert zero == {"released_rest", "released_rest_flow"}
        assert min(layer.values()) == 0
    assert measured(stages.store, 6) == artifact
    assert json.loads(measured(stages.store, 50).file("saliency.json").read_text())["pairs"] == 10


def test_one_test_pair_is_too_few(stages: Stages) -> None:
    pairs = with_test_pairs(stages, "one", 1)
    inputs = SaliencyInputs(stages.dataset, MD5, pairs, stages.train(), stages.features)
    with pytest.raises(InputError, match="1 test pairs; saliency needs at least two"):
        measure_saliency(stages.store, inputs, count=4)
