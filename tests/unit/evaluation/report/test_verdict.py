"""The verdict in a sentence: what it calls out, and what it lets pass."""

from __future__ import annotations

from typing import Any

import numpy as np

from notellm2.evaluation.bootstrap import resample
from notellm2.evaluation.report import Opponent
from notellm2.evaluation.report.verdict import WATCHED, Headline, headline, regressions
from notellm2.recipe import EvaluationConfig
from tests.unit.evaluation.small_run import metrics_with, page_of


def compared_with(**changes: tuple[float, float, int]) -> dict[str, Any]:
    """A comparison with (difference, p, n) of recall@10 by slice, and nothing else different."""
    same = {"candidate": 0.3, "champion": 0.3, "difference": 0.0, "low": -0.01, "high": 0.01, "p": 1.0}
    parts = {
        name: {"n": n, "recall@10": {**same, "difference": change, "p": p}, "visual_reliance": same}
        for name, (change, p, n) in {"all": (0.0, 1.0, 900), **changes}.items()
    }
    return {"slices": parts}


def test_a_loss_in_one_slice_is_called_out_if_it_is_sure_and_the_slice_large_enough() -> None:
    comparison = compared_with(
        short_query=(-0.08, 0.002, 300),
        long_query=(-0.02, 0.04, 600),
        new_target=(-0.3, 0.002, 8),
        popularity_01=(-0.5, 0.002, 90),
        old_target=(0.05, 0.002, 500),
    )
    (found,) = regressions(comparison, {"short_query": "short query"})
    assert found == "it is worse on short query (-8.0 points)"
    top = headline(page_of(metrics_with(both=0.3), champion=Opponent("version 2", {}, {}, comparison)))
    assert top.sentence.startswith(
        "Not judged by a gate: the model finds 30.0% of targets among its first 10, no clear"
    )
    assert top.sentence.endswith("but it is worse on short_query (-8.0 points).")


def test_the_fewest_resamples_allowed_can_call_out_a_slice() -> None:
    """A p below 2 / (R + 1) cannot be, however sure the loss: fewer resamples would silence the verdict."""
    fewest = next(limit.ge for limit in EvaluationConfig.model_fields["resamples"].metadata if hasattr(limit, "ge"))
    surest = resample(np.full((50, 1), -1.0), fewest).p[0]
    every_slice = dict.fromkeys(WATCHED, (-0.2, surest, 900))
    (found,) = regressions(compared_with(**every_slice), {})
    assert all(name in found for name in WATCHED)


def test_images_that_the_champion_did_not_use_either_are_no_regression() -> None:
    comparison = compared_with()
    comparison["slices"]["all"]["visual_reliance"] = {
        "candidate": -0.02,
        "champion": 0.0,
        "difference": -0.02,
        "p": 0.002,
    }
    assert regressions(comparison, {}) == []
    comparison["slices"]["all"]["visual_reliance"] = {
        "candidate": 0.02,
        "champion": 0.04,
        "difference": -0.02,
        "p": 0.002,
    }
    assert len(regressions(comparison, {})) == 1


def test_a_refusal_says_why() -> None:
    gate = {"passed": False, "rules": [{"name": "r", "passed": False, "detail": "R@10 fell by 5 points."}]}
    top = headline(page_of(metrics_with(both=0.3, text_only=0.2, tfidf=0.1, vision=0.15), gate=gate))
    assert top.tone == "refused"
    assert top.sentence.startswith("Refused (R@10 fell by 5 points): with text and image the model finds 30.0%")
    assert "2.0 times what the best baseline finds (vision encoder alone, 15.0%)" in top.sentence
    assert top.cautions == ()


def test_a_cut_image_branch_and_a_model_at_chance_are_called_out() -> None:
    metrics = metrics_with(both=0.3, text_only=0.3, image_only=0.01, tfidf=0.1, tfidf_full=0.4)
    top = headline(page_of(metrics, training={"left_chance": False}, quality={"warnings": ["notes.share_with_image"]}))
    assert top.tone == "open"
    text = " ".join(top.cautions)
    assert "did not leave chance" in text
    assert "The image does not help: recall@10 is 30.0% with both inputs and 30.0% without it." in text
    assert "no better than “TF-IDF, whole text”" in text
    assert "notes.share_with_image" in text


def test_images_that_may_not_matter_are_called_out() -> None:
    metrics = metrics_with(both=0.3, tfidf=0.1)
    for low, said in ((-0.01, True), (0.01, False)):
        intervals = {"both": {"all": {"visual_reliance": {"low": low, "high": 0.02}}}}
        cautions = headline(page_of(metrics, intervals=intervals)).cautions
        assert any("may not look at its images" in caution for caution in cautions) is said


def test_few_queries_are_called_out() -> None:
    metrics = metrics_with(both=0.3, tfidf=0.1)
    metrics["both"]["all"]["n"] = 40
    (caution,) = headline(page_of(metrics)).cautions
    assert "Only 40 test queries, each worth 2.5 points" in caution


def test_what_images_add_is_a_sentence_and_what_they_cost_a_warning() -> None:
    def top(low: float, high: float, over_text: tuple[float, float] | None = None) -> Headline:
        metrics = metrics_with(both=0.3, text_only=0.28, tfidf=0.1)
        gains = {"image_gain": (low, high)} | ({"image_gain_over_text_variant": over_text} if over_text else {})
        metrics["both"]["all"] |= {name: sum(ends) / 2 for name, ends in gains.items()}
        ends_of = {name: {"low": ends[0], "high": ends[1]} for name, ends in gains.items()}
        return headline(page_of(metrics, intervals={"both": {"all": ends_of}}))

    good = top(0.01, 0.03, (0.02, 0.06))
    assert good.images == (
        "Images add +2.0 points of recall@10 over the same model without them (95 % interval +1.0 to +3.0), and +4.0 "
        "points of recall@10 over the variant trained on text alone (95 % interval +2.0 to +6.0)."
    )
    assert good.cautions == ()
    (unsure,) = top(-0.01, 0.03).cautions
    assert unsure.startswith("Images may add nothing over the same model without them: −1.0 to +3.0 points")
    (costly,) = top(0.01, 0.03, (-0.06, -0.02)).cautions
    assert costly.startswith("Images cost 4.0 points of recall@10: the variant trained on text alone finds more.")
    assert headline(page_of(metrics_with(both=0.3, tfidf=0.1))).images is None
