from __future__ import annotations

import copy
from typing import Any

import pytest

from notellm2.recipe import GateConfig
from notellm2.registry.gate import Rule, Scored, Verdict, judge
from tests.unit.registry.conftest import METRICS


def scored(test_set: str = "pairs-1", name: str = "version 2", **recalls: Any) -> Scored:
    metrics = copy.deepcopy(METRICS)
    for row, recall in recalls.items():
        metrics[row] = {"all": {"recall@10": recall}}
    return Scored(metrics=metrics, test_set=test_set, name=name)


def verdict(challenger: Scored, champion: Scored | None = None, **config: Any) -> Verdict:
    return judge(challenger, champion, GateConfig(**config), quality_passed=True, index_valid=True)


def rule(judged: Verdict, name: str) -> Rule:
    return next(r for r in judged.rules if r.name == name)


def refusals(judged: Verdict) -> list[str]:
    return [r.name for r in judged.rules if r.required and not r.passed]


def test_a_good_first_version_passes() -> None:
    judged = verdict(scored(), min_recall_at_10=0.4)
    assert judged.passed
    assert not refusals(judged)
    assert not judged.warnings
    assert judged.sentence == "version 2 passes all required rules (R@10 0.4000; over no champion so far)"


def test_below_the_minimum_is_refused_with_both_numbers() -> None:
    judged = verdict(scored(), min_recall_at_10=0.41)
    assert refusals(judged) == ["min-recall"]
    assert "0.4000" in rule(judged, "min-recall").detail
    assert "0.4100" in rule(judged, "min-recall").detail
    assert "min-recall" in judged.sentence


@pytest.mark.parametrize("row", ["vision", "tfidf"])
def test_each_baseline_must_be_exceeded_not_only_reached(row: str) -> None:
    assert refusals(verdict(scored(**{row: 0.4}))) == [f"beats-{row}"]
    assert verdict(scored(**{row: 0.3999})).passed


def test_baselines_only_warn_where_the_recipe_says_so() -> None:
    judged = verdict(scored(tfidf=0.9), beat_baselines=False)
    assert judged.passed
    assert [r.name for r in judged.warnings] == ["beats-tfidf"]


@pytest.mark.parametrize(("row", "name"), [("text_only", "both-inputs-text"), ("image_only", "both-inputs-image")])
def test_an_input_that_is_better_alone_warns(row: str, name: str) -> None:
    judged = verdict(scored(**{row: 0.5}))
    assert judged.passed
    assert [r.name for r in judged.warnings] == [name]
    assert "0.5000" in rule(judged, name).detail


def test_the_champion_may_be_missed_by_the_margin_and_no_more() -> None:
    champion = scored(name="version 1", both=0.42)
    assert verdict(scored(), champion, max_drop=0.02).passed
    judged = verdict(scored(), champion, max_drop=0.019)
    assert refusals(judged) == ["not-worse-than-champion"]
    assert "0.4200" in rule(judged, "not-worse-than-champion").detail


def test_a_champion_measured_on_another_test_set_does_not_compare() -> None:
    judged = verdict(scored(), scored(test_set="pairs-0", name="version 1", both=0.1))
    assert refusals(judged) == ["not-worse-than-champion"]
    assert "not comparable" in judged.sentence
    assert "pairs-0" in judged.sentence


@pytest.mark.parametrize("bad", [None, float("nan"), float("inf"), 1.2, -0.1, True, "0.9"])
def test_a_number_that_is_none_never_passes(bad: Any) -> None:
    judged = verdict(scored(both=bad), scored(name="version 1", both=0.1))
    assert not judged.passed
    assert set(refusals(judged)) == {"min-recall", "beats-vision", "beats-tfidf", "not-worse-than-champion"}
    assert "missing" in judged.sentence


def test_missing_rows_are_refusals() -> None:
    judged = verdict(Scored(metrics={"both": {"all": {"recall@10": 0.4}}}, test_set="pairs-1", name="version 2"))
    assert refusals(judged) == ["beats-vision", "beats-tfidf"]
    judged = verdict(scored(), Scored(metrics={}, test_set="pairs-1", name="version 1"))
    assert refusals(judged) == ["not-worse-than-champion"]


@pytest.mark.parametrize(("outcome", "word"), [(False, "failed"), (None, "not checked")])
def test_quality_and_index_must_have_passed(outcome: bool | None, word: str) -> None:
    for name, checks in (
        ("data-quality", {"quality_passed": outcome, "index_valid": True}),
        ("index-validation", {"quality_passed": True, "index_valid": outcome}),
    ):
        judged = judge(scored(), None, GateConfig(), **checks)
        assert refusals(judged) == [name]
        assert word in rule(judged, name).detail
