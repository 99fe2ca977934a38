from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from notellm2.artifacts import Store
from notellm2.promotion import gate
from notellm2.promotion.gate import Evidence, judge
from notellm2.recipe import GateConfig
from notellm2.registry.decisions import Rule, Verdict
from tests.unit.registry.conftest import METRICS
from tests.unit.registry.world import index_of

FIGURES = copy.deepcopy(METRICS)
SPACE = {"both": {"never_in_top_100_share": 0.1, "duplicate_share": 0.01, "effective_rank": 20.0}}
INDEX = {"count": 2000, "recall": 1.0, "k": 100, "p99_ms": 0.3}
ALL_RULES = [
    "data-quality",
    "index-validation",
    "index-of-this-model",
    "canary",
    "min-recall",
    "beats-vision",
    "beats-tfidf",
    "beats-linear",
    "both-inputs-text",
    "both-inputs-image",
    "visual-reliance",
    "not-worse-than-champion",
    "space-reach",
    "space-duplicates",
    "space-rank",
    "not-rolled-back",
]


def compared(n: int = 200, **figures: float | None) -> dict[str, Any]:
    difference = {"candidate": 0.4, "champion": 0.41, "difference": -0.01, "low": -0.03, "high": 0.01, "p": 0.4}
    return {"n": n, "recall@10": difference | figures}


def comparison(**slices: dict[str, Any]) -> dict[str, Any]:
    return {"slices": {"all": compared(), "short_query": compared(), **slices}}


def evidence(**changes: Any) -> Evidence:
    known: dict[str, Any] = {
        "name": "version 2",
        "metrics": copy.deepcopy(FIGURES),
        "space": copy.deepcopy(SPACE),
        "quality": {"success": True, "critical_failed": []},
        "index": INDEX,
        "index_bundle": "b" * 20,
        "bundle": "b" * 20,
        "canary": "passed",
    }
    return Evidence(**{**known, **changes})


def against(compared: Any, **changes: Any) -> Evidence:
    return evidence(champion="version 1", comparison=compared, **changes)


def with_figure(*path: str, value: Any) -> Evidence:
    metrics = copy.deepcopy(FIGURES)
    tree = metrics
    for level in path[:-1]:
        tree = tree[level]
    tree[path[-1]] = value
    return evidence(metrics=metrics)


def verdict(known: Evidence, **config: Any) -> Verdict:
    return judge(known, GateConfig(**config))


def rule(judged: Verdict, name: str) -> Rule:
    return next(r for r in judged.rules if r.name == name)


def refusals(judged: Verdict) -> list[str]:
    return [r.name for r in judged.rules if r.required and not r.passed]


def test_a_good_first_version_passes_and_every_rule_says_what_it_saw() -> None:
    judged = verdict(evidence(), min_recall_at_10=0.4)
    assert judged.passed
    assert not judged.warnings
    assert judged.sentence == "version 2 passes all required rules (R@10 0.4000; over no champion so far)"
    assert [r.name for r in judged.rules] == ALL_RULES
    assert all(r.detail for r in judged.rules)


def test_the_index_stages_own_summary_is_what_the_rule_reads(tmp_path: Path) -> None:
    judged = verdict(evidence(index=index_of(Store(tmp_path), "b" * 20).summary))
    assert judged.passed
    assert "index of 40 notes is valid: recall@39 1.0000" in rule(judged, "index-validation").detail


def test_below_the_minimum_is_refused_with_both_numbers() -> None:
    judged = verdict(evidence(), min_recall_at_10=0.41)
    assert refusals(judged) == ["min-recall"]
    assert "0.4000" in rule(judged, "min-recall").detail
    assert "0.4100" in rule(judged, "min-recall").detail
    assert "min-recall" in judged.sentence


@pytest.mark.parametrize("row", ["vision", "tfidf", "linear"])
def test_each_baseline_must_be_exceeded_not_only_reached(row: str) -> None:
    assert refusals(verdict(with_figure(row, "all", "recall@10", value=0.4))) == [f"beats-{row}"]
    assert verdict(with_figure(row, "all", "recall@10", value=0.3999)).passed


def test_baselines_only_warn_where_the_recipe_says_so() -> None:
    judged = verdict(with_figure("tfidf", "all", "recall@10", value=0.9), beat_baselines=False)
    assert judged.passed
    assert [r.name for r in judged.warnings] == ["beats-tfidf"]


@pytest.mark.parametrize(("row", "name"), [("text_only", "both-inputs-text"), ("image_only", "both-inputs-image")])
def test_an_input_that_is_better_alone_warns(row: str, name: str) -> None:
    judged = verdict(with_figure(row, "all", "recall@10", value=0.5), min_visual_reliance=None)
    assert judged.passed
    assert [r.name for r in judged.warnings] == [name]
    assert "0.5000" in rule(judged, name).detail


@pytest.mark.parametrize("without", [0.4, 0.5, None, float("nan"), "much"])
def test_images_that_gain_nothing_are_refused_however_good_the_average(without: Any) -> None:
    assert refusals(verdict(with_figure("text_only", "all", "recall@10", value=without))) == ["visual-reliance"]


def test_a_model_that_only_depends_on_its_images_is_refused() -> None:
    """Helpless without them, and still behind a model that never saw one: they gain nothing."""
    known = with_figure("text_only", "all", "recall@10", value=0.05)
    known.metrics["both"]["all"]["visual_reliance"] = 0.3
    assert verdict(known).passed, "as far as is known: no text variant was trained"
    judged = verdict(
        known.model_copy(update={"metrics": {**known.metrics, "variant_text": {"all": {"recall@10": 0.41}}}})
    )
    assert refusals(judged) == ["visual-reliance"]
    detail = rule(judged, "visual-reliance").detail
    assert "+0.3500 over the same model without them and -0.0100 over the variant trained on text alone" in detail


def test_the_least_gain_by_images_is_the_recipes() -> None:
    assert refusals(verdict(evidence(), min_visual_reliance=0.1)) == ["visual-reliance"]
    assert verdict(evidence(), min_visual_reliance=0.099).passed
    assert "+0.1000" in rule(verdict(evidence()), "visual-reliance").detail
    off = verdict(with_figure("text_only", "all", "recall@10", value=0.9), min_visual_reliance=None)
    assert off.passed
    assert "visual-reliance" not in [r.name for r in off.rules]


def test_baselines_that_the_recipe_does_not_name_are_not_judged() -> None:
    better = with_figure("linear", "all", "recall@10", value=0.9)
    assert refusals(verdict(better)) == ["beats-linear"]
    judged = verdict(better, baselines=("vision", "tfidf"))
    assert judged.passed
    assert "beats-linear" not in [r.name for r in judged.rules]


def test_the_champion_may_be_missed_by_the_margin_and_no_more() -> None:
    assert verdict(against(comparison()), max_drop=0.01).passed
    judged = verdict(against(comparison()), max_drop=0.009)
    assert refusals(judged) == ["not-worse-than-champion"]
    for number in ("0.4000", "0.4100", "-0.0100", "-0.0300", "+0.0100", "-0.0090", "200 queries"):
        assert number in rule(judged, "not-worse-than-champion").detail
    assert judged.sentence.startswith("version 2 is refused by 1 of")


def test_a_drop_may_be_held_against_the_intervals_low_end() -> None:
    assert refusals(verdict(against(comparison()), drop_judged_by="low")) == ["not-worse-than-champion"]
    assert verdict(against(comparison()), drop_judged_by="low", max_drop=0.03).passed


def test_every_named_slice_is_a_rule_of_its_own() -> None:
    worse = comparison(short_query=compared(difference=-0.2, low=-0.3, high=-0.1))
    assert verdict(against(worse)).passed, "not named: not judged"
    judged = verdict(against(worse), max_drop_by_slice={"short_query": 0.05})
    assert refusals(judged) == ["not-worse-than-champion-short_query"]
    assert "not-worse-than-champion" in [r.name for r in judged.rules if r.passed]


@pytest.mark.parametrize(
    ("given", "why"),
    [
        (None, "could not be compared"),
        ({}, "slices.short_query.n is missing"),
        (comparison(short_query=compared(n=0)), "no test queries"),
        (comparison(short_query=compared(difference=None)), "difference is missing"),
        (comparison(short_query=compared(low=float("nan"))), "no number"),
        (comparison(short_query=compared(champion=1.5)), "not between 0 and 1"),
    ],
)
def test_a_comparison_that_lacks_a_figure_is_a_refusal(given: Any, why: str) -> None:
    judged = verdict(against(given), max_drop_by_slice={"short_query": 0.05})
    name = "not-worse-than-champion-short_query"
    assert name in refusals(judged)
    assert why in rule(judged, name).detail


@pytest.mark.parametrize("bad", [None, float("nan"), float("inf"), 1.2, -0.1, True, "0.9"])
def test_a_number_that_is_none_never_passes(bad: Any) -> None:
    judged = verdict(with_figure("both", "all", "recall@10", value=bad))
    assert refusals(judged) == ["min-recall", "beats-vision", "beats-tfidf", "beats-linear", "visual-reliance"]
    assert "metrics.json: both.all.recall@10 is" in judged.sentence


def test_missing_rows_are_refusals() -> None:
    judged = verdict(evidence(metrics={"both": FIGURES["both"]}))
    assert refusals(judged) == ["beats-vision", "beats-tfidf", "beats-linear", "visual-reliance"]
    nothing = verdict(evidence(metrics={}, space={}))
    names = ["min-recall", "beats-vision", "beats-tfidf", "beats-linear", "visual-reliance", "space-reach"]
    assert refusals(nothing) == [*names, "space-duplicates", "space-rank"]


@pytest.mark.parametrize(
    ("figure", "value", "name"),
    [
        ("never_in_top_100_share", 0.51, "space-reach"),
        ("duplicate_share", 0.21, "space-duplicates"),
        ("effective_rank", 1.9, "space-rank"),
    ],
)
def test_the_embedding_space_must_be_in_health(figure: str, value: float, name: str) -> None:
    judged = verdict(evidence(space={"both": SPACE["both"] | {figure: value}}))
    assert refusals(judged) == [name]
    assert f"{value:.2f}" in rule(judged, name).detail
    assert refusals(verdict(evidence(space=None))) == ["space-reach", "space-duplicates", "space-rank"]


@pytest.mark.parametrize(
    ("changes", "name", "why"),
    [
        ({"quality": None}, "data-quality", "not checked"),
        ({"quality": {"success": False, "critical_failed": ["notes.count"]}}, "data-quality", "failed (notes.count)"),
        ({"quality": {}}, "data-quality", "failed"),
        ({"index": None}, "index-validation", "not checked"),
        ({"index": INDEX | {"count": 0}}, "index-validation", "0 notes"),
        ({"index": {"count": 10}}, "index-validation", "recall is missing"),
        ({"index_bundle": "a" * 20}, "index-of-this-model", "aaaa"),
        ({"index_bundle": None}, "index-of-this-model", "unknown"),
        ({"index_bundle": "", "bundle": ""}, "index-of-this-model", "unknown"),
        ({"canary": None}, "canary", "not checked"),
        ({"canary": "other embeddings (largest difference 0.3)"}, "canary", "0.3"),
    ],
)
def test_what_was_not_looked_at_or_failed_is_a_refusal(changes: Mapping[str, Any], name: str, why: str) -> None:
    judged = verdict(evidence(**changes))
    assert refusals(judged) == [name]
    assert why in rule(judged, name).detail


def test_a_version_that_was_rolled_back_is_pointed_out() -> None:
    judged = verdict(evidence(rolled_back="on 2026-11-24 by a person: clicks fell"))
    assert judged.passed
    assert [r.name for r in judged.warnings] == ["not-rolled-back"]
    assert "clicks fell" in judged.warnings[0].detail


def test_an_error_inside_a_rule_is_a_refusal_that_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> tuple[bool, str]:
        raise ZeroDivisionError("by a bug")

    monkeypatch.setattr(gate, "_canary", broken)
    judged = verdict(evidence())
    assert refusals(judged) == ["canary"]
    assert "the rule itself failed: ZeroDivisionError: by a bug" in judged.sentence


def test_no_rule_passes_by_anything_but_true(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate, "_canary", lambda *_: (1, "truthy"))
    assert refusals(verdict(evidence())) == ["canary"]
