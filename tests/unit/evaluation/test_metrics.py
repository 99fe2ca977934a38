"""Figures by slice, and their names."""

from __future__ import annotations

import json

import numpy as np

from notellm2.evaluation.metrics import by_slice, figures, flatten, slice_masks, usable_ks
from notellm2.evaluation.ranks import Ranks


def ranks_at(*places: int) -> Ranks:
    above = np.array(places, np.int64) - 1
    return Ranks(above, np.zeros_like(above), np.full_like(above, 100))


def test_cutoffs_beyond_the_pool_are_dropped() -> None:
    assert usable_ks((100, 10, 10, 1000), 100) == (10, 100)
    assert usable_ks((10,), 9) == ()


def test_figures_of_known_ranks() -> None:
    found = figures(ranks_at(1, 2, 11), (1, 10))
    assert found["recall@1"] == 1 / 3
    assert found["recall@10"] == 2 / 3
    assert found["mrr"] == (1 + 1 / 2 + 1 / 11) / 3
    assert found["ndcg@1"] == 1 / 3
    assert found["n"] == 3


def test_a_slice_without_queries_is_null_and_valid_json() -> None:
    masks = slice_masks(np.array([100, 100]), np.array([100, 5]), 80)
    metrics = by_slice(ranks_at(1, 50), masks, (10,))
    assert metrics["short_query"] == {"recall@10": None, "ndcg@10": None, "mrr": None, "n": 0}
    assert metrics["short_target"]["recall@10"] == 0.0
    assert metrics["long_target"]["recall@10"] == 1.0
    json.dumps(metrics, allow_nan=False)


def test_a_note_at_the_bound_is_long() -> None:
    masks = slice_masks(np.array([79, 80]), np.array([80, 79]), 80)
    assert masks["short_query"].tolist() == [True, False]
    assert masks["long_target"].tolist() == [True, False]


def test_flat_names_suit_mlflow() -> None:
    flat = flatten({"both": {"all": {"recall@10": 0.5, "mrr": None, "n": 3}}})
    assert flat == {"both/all/recall_at_10": 0.5, "both/all/n": 3.0}
