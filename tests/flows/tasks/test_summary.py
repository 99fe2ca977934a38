"""The last lines of a retraining."""

from __future__ import annotations

from flows.tasks.summary import figures


def test_the_figures_in_a_line_are_those_that_were_measured() -> None:
    recall = {"both": 0.3361, "text_only": 0.229, "image_only": 0.12, "tfidf": 0.093, "popular": 0.2}
    assert figures({"queries": 241, "pool": 348, "recall@10": recall, "visual_reliance": 0.1}) == (
        "recall@10 in %: model 33.6, text only 22.9, image only 12.0, TF-IDF 9.3 (241 queries, 348 notes to find)"
    )
