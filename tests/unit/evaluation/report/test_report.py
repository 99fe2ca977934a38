"""The page: what it says, that it stands alone, and that a note's text cannot break it."""

from __future__ import annotations

import dataclasses
import io
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from notellm2.artifacts import Artifact
from notellm2.evaluation.comparison import compare
from notellm2.evaluation.evaluation_stage import evaluate
from notellm2.evaluation.report import Opponent, ReportInput, render
from notellm2.evaluation.report.drawing import DARK
from notellm2.evaluation.report.plots import recall_bars, training_curve
from notellm2.evaluation.report.report_stage import Champion, RunRecord, read_history, report, shown_ids
from notellm2.evaluation.report.tables import FEW, changes, overall
from notellm2.evaluation.report.thumbnails import SIDE_PX, thumbnail, thumbnails
from notellm2.evaluation.report.words import data_changes, recipe_changes
from notellm2.recipe import EvaluationConfig, ImageLimits, Recipe, TextLimits
from tests.unit.evaluation.small_run import MD5, SmallRun, jpeg, metrics_with, small_run

GATE = {"passed": True, "rules": [{"name": "beat_baselines", "passed": True, "detail": "100.0 % against 12.0 %"}]}
VOID = {"img", "meta", "source", "br", "link", "input", "hr"}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> SmallRun:
    return small_run(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def content(run: SmallRun) -> ReportInput:
    config = EvaluationConfig(ks=(5, 10, 50), short_text_chars=40)
    evaluation = evaluate(run.store, run.mined, run.vectors, config, TextLimits())
    examples = json.loads(evaluation.file("examples.json").read_text())
    ids = shown_ids(examples)
    return ReportInput(
        recipe=Recipe(name="small").model_dump(mode="json"),
        data={"md5": MD5, "name": "small"},
        metrics=json.loads(evaluation.file("metrics.json").read_text()),
        intervals=json.loads(evaluation.file("intervals.json").read_text()),
        space=json.loads(evaluation.file("space.json").read_text()),
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
def html(content: ReportInput) -> str:
    return render(content)


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


def test_the_page_holds_what_a_reviewer_needs(content: ReportInput, html: str) -> None:
    assert "Passed the gate: with text and image the model finds 100.0% of targets among its first 10" in html
    assert MD5 in html
    assert "100.0 % against 12.0 %" in html
    assert "pairs_per_batch: 64" in html
    assert "pairs per s" in html
    assert html.count("data:image/png;base64,") == 8  # four plots, light and dark
    assert html.count('<li class="target">') == len(content.examples)
    for words in ("short query", "TF-IDF, whole text", "most popular", "chance", "dropped, test"):
        assert words in html


def test_text_of_notes_is_escaped(content: ReportInput, html: str) -> None:
    assert "&lt;b&gt;Note" in html
    assert "<b>Note" not in html
    hostile = '"><script>alert(1)</script><img src=x onerror=alert(1)>'
    example = json.loads(json.dumps(content.examples[0]))
    for note in (example["query"], example["target"], *example["neighbours"]):
        note["title"] = note["text"] = hostile
    changed = dataclasses.replace(
        content,
        examples=[example],
        data={"md5": hostile, "name": hostile},
        gate={"passed": False, "rules": [{"name": hostile, "passed": False, "detail": hostile}]},
        recipe={**content.recipe, "name": hostile},
        training={hostile: hostile},
    )
    page = Page(render(changed))
    assert "script" not in [tag for tag, _ in page.tags]
    assert not [attributes for _, attributes in page.tags if "onerror" in attributes]


def test_a_metric_that_an_older_evaluation_lacks_has_no_column() -> None:
    metrics = metrics_with(both=0.3, tfidf=0.1)
    assert overall(metrics)["columns"][-1] == "MRR"
    for of_model in metrics.values():
        del of_model["all"]["mrr"]
    assert "MRR" not in overall(metrics)["columns"]
    assert len(overall(metrics)["rows"][0]["cells"]) == len(overall(metrics)["columns"])


def test_a_run_without_gate_history_examples_or_images_still_renders(content: ReportInput) -> None:
    bare = dataclasses.replace(content, gate=None, history=[], examples=[], thumbnails={}, pairs={}, quality={})
    html = render(bare)
    Page(html)
    assert "Not judged by a gate: " in html
    assert html.count("data:image/png;base64,") == 6
    empty = dataclasses.replace(content, metrics=metrics_with(both=None, tfidf=None), gate=None)
    assert "there were no test queries." in render(empty)


def test_the_stage_writes_the_page_once(run: SmallRun) -> None:
    config = EvaluationConfig(ks=(5, 10, 50), short_text_chars=40)
    evaluation = evaluate(run.store, run.mined, run.vectors, config, TextLimits())

    def write(gate: dict[str, Any] | None) -> Any:
        return report(
            run.store,
            run.mined,
            RunRecord(
                Recipe(name="small"),
                evaluation=evaluation,
                training=run.training,
                quality=run.quality,
                gate=gate,
            ),
        )

    artifact = write(GATE)
    html = artifact.file("report.html").read_text()
    assert "abc1234" in html
    assert "enough notes" in html
    assert artifact.file("plots/training.png").exists()
    assert write(GATE) == artifact
    assert write(None).key != artifact.key


@dataclasses.dataclass(frozen=True)
class Reviewed:
    """A model's page beside a champion's figures."""

    html: str
    comparison: dict[str, Any]
    plots: set[str]


def reviewed(run: SmallRun, champion: Artifact, candidate: Artifact) -> Reviewed:
    config = EvaluationConfig(ks=(5, 10, 50), short_text_chars=40, resamples=500)
    ours, theirs = (evaluate(run.store, run.mined, vectors, config, TextLimits()) for vectors in (candidate, champion))
    compared = compare(run.store, ours, theirs, config)
    before = Recipe(name="small").model_dump(mode="json")
    before["training"]["lr"] = 0.5
    facts = run.dataset.info.model_dump(mode="json")
    page = report(
        run.store,
        run.mined,
        RunRecord(
            Recipe(name="small"),
            evaluation=ours,
            training=run.training,
            quality=run.quality,
            gate=GATE,
            champion=Champion("version 7", compared, before, {"md5": "older.dir", **facts, "notes": 100}),
        ),
    )
    html = page.file("report.html").read_text()
    plots = {path.stem for path in page.file("plots").glob("*.png")}
    return Reviewed(html, json.loads(compared.file("comparison.json").read_text()), plots)


def verdict_of(html: str) -> str:
    found = re.search(r'<div class="verdict.*?</span>\s*(.*?)\s*</div>', html, re.DOTALL)
    assert found is not None
    return found[1]


def test_the_champion_stands_beside_the_model(run: SmallRun) -> None:
    found = reviewed(run, run.vectors_with("weak", both=1.2, shuffled=1.4), run.vectors)
    page = Page(found.html)
    assert found.plots >= {"changes", "recall_bars", "recall_curve", "training"}
    verdict = verdict_of(found.html)
    assert re.search(r"points more than version 7 \(95 % interval \+", verdict), verdict
    for words in ("Changes against the champion, version 7", "Largest wins over the champion", "▲", "better"):
        assert words in found.html
    sides = [str(attributes.get("aria-label")) for tag, attributes in page.tags if tag == "ol"]
    assert sides.count("Nearest notes, this model") == sides.count("Nearest notes, champion, version 7") > 4
    assert re.search(r"training\.lr</code></th><td class=\"wrap\">0\.5</td>", found.html)
    assert re.search(r"<th scope=\"row\">notes</th><td class=\"wrap\">100</td><td class=\"wrap\">120</td>", found.html)
    assert "+20 (+20.0 %)" in found.html
    assert f"quality/{run.quality.key}/data_docs/index.html" in found.html
    assert len(found.html) < 5_000_000


def test_a_cut_image_branch_is_called_out_in_the_verdict_although_recall_holds(run: SmallRun) -> None:
    """The planted regression: as many targets found as by the champion, but its images could be anybody's."""
    champion = run.vectors_with("sees", both=0.35, shuffled=1.6)
    cut = run.vectors_with("blind", both=0.36, text=0.36, shuffled=0.36)
    found = reviewed(run, champion, cut)
    every = found.comparison["slices"]["all"]
    assert abs(every["recall@10"]["difference"]) < 0.05
    assert every["recall@10"]["low"] <= 0 <= every["recall@10"]["high"]
    verdict = verdict_of(found.html)
    assert "no clear difference from version 7" in verdict
    assert "but it hardly looks at its images any more (shuffling them costs 0.0 points of recall@10" in verdict
    fair = verdict_of(reviewed(run, champion, run.vectors_with("fair", both=0.34, shuffled=1.6)).html)
    assert "looks at its images" not in fair
    assert "Images add" in fair


def test_a_slice_with_too_few_queries_has_no_arrow() -> None:
    """One query that the champion missed has the interval +100 to +100: no evidence of anything."""
    found = {"candidate": 1.0, "champion": 0.0, "difference": 1.0, "low": 1.0, "high": 1.0, "p": 0.002}
    few, enough = (
        {"n": n, "wins": n, "losses": 0, "ties": 0, "recall@10": found, "mrr": found, "visual_reliance": found}
        for n in (FEW - 1, FEW)
    )
    champion = Opponent("version 2", {}, {}, {"slices": {"new_target": few, "old_target": enough}})
    marks = [[cell["mark"] for cell in row["cells"]] for row in changes(champion, {}, fine=False)]
    assert marks == [["≈"] * 3, ["▲"] * 3]


def test_a_champion_whose_vectors_are_gone_leaves_one_side(run: SmallRun, tmp_path: Path) -> None:
    other = small_run(tmp_path)
    champion = other.vectors_with("gone", both=1.0)
    config = EvaluationConfig(ks=(5, 10, 50), short_text_chars=40, resamples=400)
    ours, theirs = (evaluate(other.store, other.mined, v, config, TextLimits()) for v in (other.vectors, champion))
    compared = compare(other.store, ours, theirs, config)
    shutil.rmtree(champion.path)
    page = report(
        other.store,
        other.mined,
        RunRecord(
            Recipe(name="small"),
            evaluation=ours,
            training=other.training,
            quality=None,
            gate=None,
            champion=Champion("version 7", compared),
        ),
    )
    html = page.file("report.html").read_text()
    assert "Nearest notes, this model" in html
    assert "Nearest notes, champion" not in html
    assert "Against the champion's" not in html


def test_changes_of_recipe_and_data_name_what_differs_only() -> None:
    before = {"a": {"b": 1, "gone": True}, "same": [1]}
    now = {"a": {"b": 2.5, "new": None}, "same": [1]}
    assert recipe_changes(before, now) == [
        ("a.gone", "yes", "not there"),
        ("a.b", "1", "2.5"),
        ("a.new", "not there", "–"),
    ]
    assert data_changes({"notes": 200, "name": "x"}, {"notes": 150, "name": "x"}) == [
        ("notes", "200", "150", "−50 (−25.0 %)")
    ]
    before, now = {"quarantined": {}, "licence": "CC0"}, {"quarantined": {"broken_image": 5}}
    assert data_changes(before, now) == [
        ("licence", "CC0", "not there", ""),
        ("quarantined, broken image", "not there", "5", ""),
    ]
    assert data_changes(now, {"quarantined": {}}) == [("quarantined, broken image", "5", "not there", "")]


def test_thumbnails_are_small_and_broken_images_left_out(run: SmallRun) -> None:
    made = thumbnails(run.dataset, {"n001", "n060", "n118", "n000", "nowhere"}, ImageLimits())
    assert sorted(made) == ["n001", "n060", "n118"]  # n000 has no image
    size = Image.open(io.BytesIO(made["n001"])).size
    assert max(size) == SIDE_PX
    assert thumbnail(b"not a picture", ImageLimits()) is None
    assert thumbnail(jpeg((1, 2, 3)), ImageLimits(max_bytes=10)) is None


def test_plots_are_deterministic_and_differ_by_theme(content: ReportInput) -> None:
    light = recall_bars(content.metrics, content.intervals)
    assert light == recall_bars(content.metrics, content.intervals)
    assert light != recall_bars(content.metrics, content.intervals, DARK)
    assert training_curve([{"step": 1, "lr": 0.1}]) is None


def test_plots_and_page_bear_missing_values(tmp_path: Path) -> None:
    assert recall_bars(metrics_with(both=None, vision=0.0), {}).startswith(b"\x89PNG")
    history = [{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.0, "validation_recall_at_10": 0.5}]
    assert training_curve(history) is not None


def test_percent_signs_and_colours_have_words_beside_them(html: str) -> None:
    assert "best of the column" in html
    assert re.search(r"✓ holds", html)
