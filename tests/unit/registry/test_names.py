from __future__ import annotations

from notellm2.registry import names
from notellm2.registry.runs import flatten


def test_metric_names_are_the_documented_ones() -> None:
    assert names.training_metric("loss") == "training/loss"
    assert names.metric_part("recall@10") == "recall_at_10"


def test_characters_that_mlflow_refuses_are_replaced() -> None:
    assert names.training_metric("größe(µ)") == "training/gr__e___"


def test_settings_become_dotted_names_and_texts() -> None:
    tree = {"a": {"b": {"c": 1}, "d": None}, "e": [10, 20], "f": "text", "g": True, "h": {}}
    assert flatten(tree) == {"a.b.c": "1", "a.d": "null", "e": "[10, 20]", "f": "text", "g": "true", "h": "{}"}
