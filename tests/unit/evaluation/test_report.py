"""The page: what it says, that it stands alone, and that a note's text cannot break it."""

from __future__ import annotations

import dataclasses
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from notellm2.evaluation.plots import DARK, recall_bars, training_curve
from notellm2.evaluation.report import ReportInput, render
from notellm2.evaluation.stage import evaluate, read_history, report
from notellm2.evaluation.thumbnails import SIDE_PX, thumbnail, thumbnails
from notellm2.evaluation.verdict import headline
from notellm2.recipe import EvaluationConfig, ImageLimits, Recipe, TextLimits
from tests.unit.evaluation.small_run import MD5, SmallRun, jpeg, small_run

GATE = {"passed": True, "rules": [{"name": "beat_baselines", "passed": True, "detail": "100.0 % against 12.0 %"}]}
VOID = {"img", "meta", "source", "br", "link", "input", "hr"}


def metrics_with(**recalls: float | None) -> dict[str, Any]:
    return {m: {"all": {"recall@10": r, "recall@50": r, "ndcg@10": r, "mrr": r, "n": 500}} for m, r in recalls.items()}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> SmallRun:
    return small_run(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def given(run: SmallRun) -> ReportInput:
    config = EvaluationConfig(ks=(5, 10, 50), short_text_chars=40)
    evaluation = evaluate(run.store, run.dataset, MD5, run.pairs, run.vectors, config, TextLimits())
    examples = json.loads(evaluation.file("examples.json").read_text())
    ids = {note["note_id"] for e in examples for note in (e["query"], e["target"], *e["neighbours"])}
    return ReportInput(
        recipe=Recipe(name="small").model_dump(mode="json"),
        data={"md5": MD5, "name": "small"},
        metrics=json.loads(evaluation.file("metrics.json").read_text()),
        protocol=json.loads(evaluation.file("protocol.json").read_text()),
        examples=examples,
        thumbnails=thumbnails(run.dataset, ids, ImageLimits()),
        training=run.training.summary,
        history=read_history(run.training),
        quality=run.quality.summary,
        pairs=run.pairs.summary,
        gate=GATE,
    )


@pytest.fixture(scope="module")
def html(given: ReportInput) -> str:
    return render(given)


class Page(HTMLParser):
    """Collects tags, and fails on one that is closed out of order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_stands_alone(html: str) -> None:
    page = Page(html)
    assert len(html) < 5_000_000
    for tag, attributes in page.tags:
        assert tag not in {"script", "link", "iframe", "object"}
        for name in ("src", "srcset", "href"):
            value = attributes.get(name)
            assert value is None or value.startswith(("data:image/", "#")), (tag, name, value)
    assert "url(" not in html
    assert "@import" not in html
    assert "default-src 'none'" in html


def test_the_page_is_accessible(html: str) -> None:
    page = Page(html)
    tags = [tag for tag, _ in page.tags]
    assert tags.count("main") == tags.count("h1") == tags.count("header") == tags.count("footer") == 1
    assert ("html", {"lang": "en"}) in page.tags
    assert all(attributes.get("alt") for tag, attributes in page.tags if tag == "img")
    assert all("scope" in attributes for tag, attributes in page.tags if tag == "th")
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    links = [attributes["href"] for tag, attributes in page.tags if tag == "a"]
    assert {str(link)[1:] for link in links} <= set(ids)


def test_the_page_holds_what_a_reviewer_needs(given: ReportInput, html: str) -> None:
    assert "Passed the gate. With text and image the model finds 100.0% of targets among its first 10" in html
    assert MD5 in html
    assert "100.0 % against 12.0 %" in html
    assert "pairs_per_batch: 64" in html
    assert "pairs per s" in html
    assert html.count("data:image/png;base64,") == 6  # three plots, light and dark
    assert html.count('<li class="target">') == len(given.examples)
    for words in ("short query", "TF-IDF, whole text", "most popular", "chance", "dropped, test"):
        assert words in html


def test_text_of_notes_is_escaped(given: ReportInput, html: str) -> None:
    assert "&lt;b&gt;Note" in html
    assert "<b>Note" not in html
    hostile = '"><script>alert(1)</script><img src=x onerror=alert(1)>'
    example = json.loads(json.dumps(given.examples[0]))
    for note in (example["query"], example["target"], *example["neighbours"]):
        note["title"] = note["text"] = hostile
    changed = dataclasses.replace(
        given,
        examples=[example],
        data={"md5": hostile, "name": hostile},
        gate={"passed": False, "rules": [{"name": hostile, "passed": False, "detail": hostile}]},
        recipe={**given.recipe, "name": hostile},
        training={hostile: hostile},
    )
    page = Page(render(changed))
    assert "script" not in [tag for tag, _ in page.tags]
    assert not [attributes for _, attributes in page.tags if "onerror" in attributes]


def test_a_run_without_gate_history_examples_or_images_still_renders(given: ReportInput) -> None:
    bare = dataclasses.replace(given, gate=None, history=[], examples=[], thumbnails={}, pairs={}, quality={})
    html = render(bare)
    Page(html)
    assert "Not judged by a gate." in html
    assert html.count("data:image/png;base64,") == 4
    empty = dataclasses.replace(given, metrics=metrics_with(both=None, tfidf=None), gate=None)
    assert "There were no test queries." in render(empty)


def test_the_stage_writes_the_page_once(run: SmallRun) -> None:
    config = EvaluationConfig(ks=(5, 10, 50), short_text_chars=40)
    evaluation = evaluate(run.store, run.dataset, MD5, run.pairs, run.vectors, config, TextLimits())

    def write(gate: dict[str, Any] | None) -> Any:
        return report(
            run.store,
            run.dataset,
            MD5,
            Recipe(name="small"),
            evaluation=evaluation,
            pairs=run.pairs,
            training=run.training,
            quality=run.quality,
            gate=gate,
            images=ImageLimits(),
        )

    artifact = write(GATE)
    html = artifact.file("report.html").read_text()
    assert "abc1234" in html
    assert "enough notes" in html
    assert artifact.file("plots/training.png").exists()
    assert write(GATE) == artifact
    assert write(None).key != artifact.key


def test_a_refusal_says_why() -> None:
    gate = {"passed": False, "rules": [{"name": "r", "passed": False, "detail": "R@10 fell by 5 points."}]}
    top = headline(metrics_with(both=0.3, text_only=0.2, tfidf=0.1, vision=0.15), gate, {}, {})
    assert top.tone == "refused"
    assert top.sentence.startswith("Refused: R@10 fell by 5 points. With text and image the model finds 30.0%")
    assert "2.0 times what the better baseline finds (vision encoder alone, 15.0%)" in top.sentence
    assert top.cautions == ()


def test_a_cut_image_branch_and_a_model_at_chance_are_called_out() -> None:
    metrics = metrics_with(both=0.3, text_only=0.3, image_only=0.01, tfidf=0.1, tfidf_full=0.4)
    top = headline(metrics, None, {"left_chance": False}, {"warnings": ["notes.share_with_image"]})
    assert top.tone == "open"
    text = " ".join(top.cautions)
    assert "did not leave chance" in text
    assert "The image does not help: recall@10 is 30.0% with both inputs and 30.0% without it." in text
    assert "no better than “TF-IDF, whole text”" in text
    assert "notes.share_with_image" in text


def test_few_queries_are_called_out() -> None:
    metrics = metrics_with(both=0.3, tfidf=0.1)
    metrics["both"]["all"]["n"] = 40
    (caution,) = headline(metrics, None, {}, {}).cautions
    assert "Only 40 test queries, each worth 2.5 points" in caution


def test_thumbnails_are_small_and_broken_images_left_out(run: SmallRun) -> None:
    made = thumbnails(run.dataset, {"n001", "n060", "n118", "n000", "nowhere"}, ImageLimits())
    assert sorted(made) == ["n001", "n060", "n118"]  # n000 has no image
    size = Image.open(io.BytesIO(made["n001"])).size
    assert max(size) == SIDE_PX
    assert thumbnail(b"not a picture", ImageLimits()) is None
    assert thumbnail(jpeg((1, 2, 3)), ImageLimits(max_bytes=10)) is None


def test_plots_are_deterministic_and_differ_by_theme(given: ReportInput) -> None:
    light = recall_bars(given.metrics)
    assert light == recall_bars(given.metrics)
    assert light != recall_bars(given.metrics, DARK)
    assert training_curve([{"step": 1, "lr": 0.1}]) is None


def test_plots_and_page_bear_missing_values(tmp_path: Path) -> None:
    assert recall_bars(metrics_with(both=None, vision=0.0)).startswith(b"\x89PNG")
    history = [{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.0, "validation_recall_at_10": 0.5}]
    assert training_curve(history) is not None


def test_percent_signs_and_colours_have_words_beside_them(html: str) -> None:
    assert "best of the column" in html
    assert re.search(r"✓ holds", html)
