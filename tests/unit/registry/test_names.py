from __future__ import annotations

import math

from notellm2.registry import names
from notellm2.registry.runs import flatten


def test_metric_names_are_the_documented_ones() -> None:
    assert names.test_metric("both", "all", "recall@10") == "test.both.all.recall_at_10"
    assert names.training_metric("validation_recall@10") == "training/validation_recall_at_10"


def test_figures_are_flattened_and_what_is_no_number_is_left_out() -> None:
    metrics = {
        "both": {"all": {"recall@10": 0.5, "n": 3, "mrr": None, "flag": True, "word": "x", "list": [1]}},
        "pool": 7,
        "tfidf": {"all": {"recall@10": math.nan}},
    }
    assert names.test_metrics(metrics) == {
        "test.both.all.recall_at_10": 0.5,
        "test.both.all.n": 3.0,
        "test.pool": 7.0,
    }


def test_characters_that_mlflow_refuses_are_replaced() -> None:
    assert names.training_metric("größe(µ)") == "training/gr__e___"


def test_settings_become_dotted_names_and_texts() -> None:
    tree = {"a": {"b": {"c": 1}, "d": None}, "e": [10, 20], "f": "text", "g": True, "h": {}}
    assert flatten(tree) == {"a.b.c": "1", "a.d": "null", "e": "[10, 20]", "f": "text", "g": "true", "h": "{}"}
