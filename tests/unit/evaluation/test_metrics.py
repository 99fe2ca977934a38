"""Figures by slice, their intervals, and their names."""

from __future__ import annotations

import json

import numpy as np
import pytest

from notellm2.evaluation.metrics import FINE_MODELS, SLICES, headline, measure, per_query, usable_ks
from notellm2.evaluation.ranks import Ranks


def ranks_at(*places: int) -> Ranks:
    above = np.array(places, np.int64) - 1
    return Ranks(above, np.zeros_like(above), np.full_like(above, 100))


def every(ranks: Ranks) -> dict[str, np.ndarray]:
    return {"all": np.ones(len(ranks), bool)}


def test_cutoffs_beyond_the_pool_are_dropped() -> None:
    assert usable_ks((100, 10, 10, 1000), 100) == (10, 100)
    assert usable_ks((10,), 9) == ()
    assert headline((10, 20)) == 10
    assert headline((20, 5)) == 5


def test_figures_of_known_ranks() -> None:
    ranks = ranks_at(1, 2, 11)
    metrics, intervals = measure({"both": ranks}, every(ranks), (1, 10), 200)
    found = metrics["both"]["all"]
    assert found["recall@1"] == pytest.approx(1 / 3)
    assert found["recall@10"] == pytest.approx(2 / 3)
    assert found["mrr"] == pytest.approx((1 + 1 / 2 + 1 / 11) / 3)
    assert found["ndcg@1"] == pytest.approx(1 / 3)
    assert found["n"] == 3
    assert set(per_query(ranks, (1, 10))) == set(found) - {"n"} == set(intervals["both"]["all"])
    for metric, interval in intervals["both"]["all"].items():
        assert interval["low"] <= found[metric] <= interval["high"]
    assert "visual_reliance" not in found


def test_a_slice_without_queries_is_null_and_valid_json() -> None:
    masks = {"all": np.array([True, True]), "short_query": np.array([False, False])}
    metrics, intervals = measure({"both": ranks_at(1, 50)}, masks, (10,), 100)
    assert metrics["both"]["short_query"] == {"recall@10": None, "ndcg@10": None, "mrr": None, "n": 0}
    assert intervals["both"]["short_query"] == {}
    assert metrics["both"]["all"]["recall@10"] == 0.5
    json.dumps([metrics, intervals], allow_nan=False)


def test_finer_slices_are_kept_for_the_models_people_compare_there() -> None:
    ranks = {"both": ranks_at(1, 50), "popular": ranks_at(9, 50)}
    masks = {"all": np.array([True, True]), "new_target": np.array([True, False])}
    metrics, _ = measure(ranks, masks, (10, 20), 100)
    assert "popular" not in FINE_MODELS
    assert set(metrics["popular"]) == {"all"} <= set(SLICES)
    assert metrics["both"]["new_target"] == {"recall@10": 1.0, "ndcg@10": 1.0, "mrr": 1.0, "n": 1}


def test_visual_reliance_is_what_shuffling_the_images_costs() -> None:
    ranks = {"both": ranks_at(1, 2, 30), "shuffled": ranks_at(1, 30, 30)}
    metrics, intervals = measure(ranks, every(ranks["both"]), (10,), 200)
    assert metrics["both"]["all"]["visual_reliance"] == pytest.approx(1 / 3)
    assert intervals["both"]["all"]["visual_reliance"]["low"] >= 0
    assert "visual_reliance" not in metrics["shuffled"]["all"]
