"""The evaluation stage on hand-made artifacts: figures that are known beforehand, and inputs that do not fit."""

from __future__ import annotations

import dataclasses
import json
import shutil
from datetime import timedelta
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from notellm2.artifacts import ArtifactError
from notellm2.errors import InputError
from notellm2.evaluation.evaluation_stage import evaluate
from notellm2.evaluation.metrics import MODELS, SLICES
from notellm2.recipe import EvaluationConfig, TextLimits
from tests.unit.evaluation.small_run import N_NOTES, NOW, SmallRun, note_ids, small_run

CONFIG = EvaluationConfig(ks=(5, 10, 100, 1000), short_text_chars=40)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> SmallRun:
    return small_run(tmp_path_factory.mktemp("run"))


def test_every_model_and_slice_is_there_and_the_numbers_are_right(run: SmallRun) -> None:
    artifact = evaluate(run.store, run.mined, run.vectors, CONFIG, TextLimits())
    metrics = json.loads(artifact.file("metrics.json").read_text())
    assert set(metrics) == {model for model in MODELS if not model.startswith("variant")}
    assert set(metrics["popular"]) == set(SLICES)
    assert set(metrics["both"]) == set(json.loads(artifact.file("protocol.json").read_text())["slices"])
    assert {"new_target", "target_without_image", "popularity_01", "popularity_10"} < set(metrics["both"])
    assert sum(name.startswith("category_kind-") for name in metrics["both"]) == 3
    assert sum(metrics["both"][f"popularity_{i:02d}"]["n"] for i in range(1, 11)) == 30
    assert metrics["both"]["new_target"]["n"] == len([i for i in range(30) if i + 20 < 24])
    assert metrics["both"]["target_without_image"]["n"] == len([i for i in range(30) if (i + 20) % 7 == 0])
    every = metrics["both"]["all"]
    assert [name for name in every if name.startswith("recall")] == ["recall@5", "recall@10", "recall@100"]
    # Five notes of a query's group are in the pool (four when the query is one of them), all nearer than any other.
    assert every["recall@5"] == 1.0
    assert every["n"] == 30
    assert metrics["text_only"]["all"]["mrr"] < every["mrr"]
    assert metrics["random"]["all"]["recall@10"] == pytest.approx((20 * 10 / 100 + 10 * 10 / 99) / 30)
    assert metrics["popular"]["all"]["recall@10"] == 0.0
    short = metrics["both"]["short_query"]["n"]
    assert short == len([i for i in range(30) if i % 3 == 0])
    assert short + metrics["both"]["long_query"]["n"] == 30
    protocol = json.loads(artifact.file("protocol.json").read_text())
    assert (protocol["pool"], protocol["queries_in_pool"], protocol["ks_beyond_the_pool"]) == (100, 10, [1000])
    assert artifact.summary["recall@10"]["both"] == every["recall@10"]


def test_intervals_hold_their_figures_and_reliance_is_the_drop_by_shuffled_images(run: SmallRun) -> None:
    artifact = evaluate(run.store, run.mined, run.vectors, CONFIG, TextLimits())
    metrics, intervals = (json.loads(artifact.file(f"{n}.json").read_text()) for n in ("metrics", "intervals"))
    for model, slices in metrics.items():
        for name, figures in slices.items():
            spread = intervals[model][name]
            assert set(spread) == ({metric for metric in figures if metric != "n"} if figures["n"] else set())
            for metric, ends in spread.items():
                assert ends["low"] - 1e-9 <= figures[metric] <= ends["high"] + 1e-9
    every = metrics["both"]["all"]
    drop = every["recall@10"] - metrics["shuffled"]["all"]["recall@10"]
    assert every["visual_reliance"] == pytest.approx(drop)
    assert drop > 0
    assert artifact.summary["visual_reliance"] == every["visual_reliance"]
    assert intervals["both"]["all"]["visual_reliance"]["low"] > 0


def test_what_images_add_is_the_recall_that_is_missing_without_them(run: SmallRun) -> None:
    variants = {"text": run.vectors_with("text", both=0.7)}
    artifact = evaluate(run.store, run.mined, run.vectors, CONFIG, TextLimits(), variants)
    metrics, intervals = (json.loads(artifact.file(f"{n}.json").read_text()) for n in ("metrics", "intervals"))
    every = metrics["both"]["all"]
    for figure, row in (("image_gain", "text_only"), ("image_gain_over_text_variant", "variant_text")):
        assert every[figure] == pytest.approx(every["recall@10"] - metrics[row]["all"]["recall@10"])
        ends = intervals["both"]["all"][figure]
        assert ends["low"] <= every[figure] <= ends["high"]
    assert every["image_gain"] > 0
    plain = evaluate(run.store, run.mined, run.vectors, CONFIG, TextLimits())
    assert "image_gain_over_text_variant" not in json.loads(plain.file("metrics.json").read_text())["both"]["all"]


def test_the_linear_baseline_is_left_out_where_the_recipe_or_the_store_has_none(run: SmallRun) -> None:
    """The figures of the other rows stay as they are, and without it the key is the plain one."""
    artifact = evaluate(run.store, run.mined, run.vectors, CONFIG, TextLimits())
    assert "linear" in artifact.manifest["inputs"]
    off = evaluate(run.store, run.mined, run.vectors, CONFIG.model_copy(update={"linear": False}), TextLimits())
    gone = run.store.build("vectors", 1, {"features": "gone"}, {"features": "0" * 20}, lambda into: _copy(run, into))
    for other in (off, evaluate(run.store, run.mined, gone, CONFIG, TextLimits())):
        assert "linear" not in other.manifest["inputs"]
        metrics = json.loads(other.file("metrics.json").read_text())
        assert "linear" not in metrics
        assert metrics["both"] == json.loads(artifact.file("metrics.json").read_text())["both"]


def _copy(run: SmallRun, into: Path) -> None:
    shutil.copytree(run.vectors.path, into, ignore=shutil.ignore_patterns("manifest.json"), dirs_exist_ok=True)


def test_the_space_is_described(run: SmallRun) -> None:
    artifact = evaluate(run.store, run.mined, run.vectors, CONFIG, TextLimits())
    both = json.loads(artifact.file("space.json").read_text())["both"]
    assert both["dim"] == 20
    assert both["askers"] == 100
    assert 15 < both["effective_rank"] <= 20
    assert both["alignment"] < 0.2
    assert both["young_share"] > 0
    assert both["duplicate_share"] == 0


def test_age_is_that_at_the_end_of_the_behaviour_the_pairs_read(run: SmallRun) -> None:
    """A backtest's window ends before the data does: a note that was new then is new in its test."""
    ended = NOW - timedelta(hours=24)

    def same(into: Path) -> None:
        shutil.copytree(run.pairs.path, into, ignore=shutil.ignore_patterns("manifest.json"), dirs_exist_ok=True)

    pairs = run.store.build("pairs", 1, {"until": ended.isoformat().replace("+00:00", "Z")}, {}, same)
    artifact = evaluate(run.store, dataclasses.replace(run.mined, pairs=pairs), run.vectors, CONFIG, TextLimits())
    metrics, protocol = (json.loads(artifact.file(f"{name}.json").read_text()) for name in ("metrics", "protocol"))
    assert protocol["age_measured_at"] == ended.isoformat()
    assert metrics["both"]["new_target"]["n"] == len([i for i in range(30) if i + 20 < 48])


def test_variants_are_rows_of_their_own(run: SmallRun) -> None:
    variants = {"text": run.vectors_with("text", both=0.7), "basic": run.vectors_with("basic", both=0.3)}
    artifact = evaluate(run.store, run.mined, run.vectors, CONFIG, TextLimits(), variants)
    metrics = json.loads(artifact.file("metrics.json").read_text())
    assert set(metrics) == set(MODELS)
    recalls = [metrics[model]["all"]["recall@10"] for model in ("variant_text", "variant_basic", "both")]
    assert recalls == sorted(recalls)
    assert recalls[0] < recalls[1]
    plain = evaluate(run.store, run.mined, run.vectors, CONFIG, TextLimits())
    assert plain.key != artifact.key


def test_queries_carry_enough_for_a_paired_test(run: SmallRun) -> None:
    artifact = evaluate(run.store, run.mined, run.vectors, CONFIG, TextLimits())
    queries = pq.read_table(artifact.file("queries.parquet"))
    metrics = json.loads(artifact.file("metrics.json").read_text())
    assert queries["query_id"].to_pylist() == note_ids()[:30]
    for model in ("both", "image_only", "shuffled", "vision", "tfidf", "popular"):
        above, ties = (queries[f"{model}_{what}"].to_numpy() for what in ("above", "ties"))
        recall = np.clip((10 - above) / (ties + 1), 0, 1)
        assert recall.mean() == pytest.approx(metrics[model]["all"]["recall@10"])
        assert recall[queries["short_target"].to_numpy()].mean() == pytest.approx(
            metrics[model]["short_target"]["recall@10"]
        )


def test_examples_mark_the_target_and_never_the_query(run: SmallRun) -> None:
    artifact = evaluate(run.store, run.mined, run.vectors, CONFIG, TextLimits())
    examples = json.loads(artifact.file("examples.json").read_text())
    assert {example["group"] for example in examples} >= {"ordinary"}
    assert len({example["query"]["note_id"] for example in examples}) == len(examples)
    for example in examples:
        neighbours = [n["note_id"] for n in example["neighbours"]]
        assert len(neighbours) == 10
        assert example["query"]["note_id"] not in neighbours
        marked = [n["note_id"] for n in example["neighbours"] if n["is_target"]]
        assert marked == [example["target"]["note_id"]]
        assert neighbours.index(marked[0]) + 1 == example["ranks"]["both"]


def test_the_key_ignores_what_does_not_change_the_figures(run: SmallRun) -> None:
    first = evaluate(run.store, run.mined, run.vectors, CONFIG, TextLimits())
    elsewhere = CONFIG.model_copy(update={"saliency_pairs": 0, "variants": ("text",)})
    assert evaluate(run.store, run.mined, run.vectors, elsewhere, TextLimits()) == first
    shorter = evaluate(run.store, run.mined, run.vectors, CONFIG, TextLimits(content_chars=0))
    assert shorter.key != first.key


def test_no_test_pairs_is_an_input_error(tmp_path: Path) -> None:
    run = small_run(tmp_path, n_pairs=0)
    with pytest.raises(InputError, match=r"no test pairs.*pairs\.test_share"):
        evaluate(run.store, run.mined, run.vectors, CONFIG, TextLimits())


def test_a_pool_below_every_cutoff_is_an_input_error(tmp_path: Path) -> None:
    run = small_run(tmp_path, n_pairs=3, pool=range(20, 24))
    with pytest.raises(InputError, match=r"4 notes, fewer than the smallest of evaluation\.ks \(5\)"):
        evaluate(run.store, run.mined, run.vectors, CONFIG, TextLimits())


def test_a_target_outside_the_pool_is_named_as_damage(tmp_path: Path) -> None:
    run = small_run(tmp_path, pool=range(40, 120))
    with pytest.raises(ArtifactError, match="20 of 30 test targets are not in the pool"):
        evaluate(run.store, run.mined, run.vectors, CONFIG, TextLimits())


def test_vectors_of_other_notes_are_refused(run: SmallRun) -> None:
    def write(into: Path) -> None:
        for name in ("both", "text", "image", "shuffled", "vision"):
            np.save(into / f"{name}.npy", np.ones((N_NOTES, 4), np.float32))
        (into / "note_ids.json").write_text(json.dumps(note_ids()[::-1]))

    vectors = run.store.build("vectors", 1, {"reversed": True}, {}, write)
    with pytest.raises(ArtifactError, match="does not list the data set's notes in its order"):
        evaluate(run.store, run.mined, vectors, CONFIG, TextLimits())
