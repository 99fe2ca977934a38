"""The stage with Great Expectations: verdicts, result.json, Data Docs, the refusal.

Great Expectations takes 4 s to import, so the artifacts are built once for the whole module.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

from notellm2.artifacts import Artifact, Store
from notellm2.errors import InputError
from notellm2.notes.dataset import Dataset, DatasetInfo
from notellm2.quality.quality_stage import QualityError, QualityRules, check_quality, require_quality
from notellm2.recipe import QualityConfig
from tests.conftest import ROOT
from tests.unit.quality.small_data import CONFIG, sound, write

FIELDS = [
    "suite",
    "expectation",
    "column",
    "severity",
    "success",
    "observed",
    "lower",
    "upper",
    "failed_count",
    "samples",
    "meaning",
    "rule",
]


@pytest.fixture(scope="module")
def workdir(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Home and current directory of the runs, to see what they leave there."""
    path = tmp_path_factory.mktemp("elsewhere")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(path)
        patch.setenv("HOME", str(path))
        yield path


RULES = QualityRules(CONFIG, target_events=("like",))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def passed(store: Store, workdir: Path, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    dataset = write(tmp_path_factory.mktemp("sound"), sound())
    return check_quality(store, dataset, "1.dir", RULES, dataset.info)


@pytest.fixture(scope="module")
def refused(store: Store, workdir: Path, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    raw = sound()
    for index in (3, 9, 11, 20, 21, 22):
        raw.interactions[index]["note_id"] = f"gone<b>{index:02}"
    for note in raw.notes[:70]:
        note["image"] = None
    raw.notes[80]["topics"] = [" "]
    dataset = write(tmp_path_factory.mktemp("damaged"), raw)
    return check_quality(store, dataset, "2.dir", QualityRules(CONFIG.model_copy(update={"min_users": 31})), None)


def _entries(artifact: Artifact) -> dict[str, dict[str, Any]]:
    return {entry["expectation"]: entry for entry in json.loads(artifact.file("result.json").read_text())}


def test_sound_data_pass(passed: Artifact) -> None:
    require_quality(passed)
    assert passed.summary["success"] is True
    assert passed.summary["critical_failed"] == passed.summary["warnings"] == []
    assert passed.summary["counts"] == {"notes": 120, "interactions": 1200, "users": 30, "quarantined": 0}
    assert passed.summary["compared_with_previous"] is True
    assert all(entry["success"] for entry in _entries(passed).values())


def test_result_json_keeps_its_form(passed: Artifact) -> None:
    entries = json.loads(passed.file("result.json").read_text())
    assert [list(entry) for entry in entries] == [FIELDS] * passed.summary["expectations"]
    assert _entries(passed)["note_count"] == {
        "suite": "volume",
        "expectation": "note_count",
        "column": "*",
        "severity": "critical",
        "success": True,
        "observed": 120,
        "lower": 100,
        "upper": None,
        "failed_count": None,
        "samples": [],
        "meaning": "There are at least 100 notes.",
        "rule": "expect_column_min_to_be_between",
    }


def test_failures_are_told_apart_by_severity(refused: Artifact) -> None:
    assert refused.summary["success"] is False
    assert refused.summary["critical_failed"] == [
        "images.share_with_image",
        "references.interaction_note_exists",
        "volume.user_count",
    ]
    assert refused.summary["warnings"] == ["topics.topic_not_blank"]
    missing = _entries(refused)["interaction_note_exists"]
    assert missing["failed_count"] == 6
    assert [sample["note_id"] for sample in missing["samples"]] == [f"gone<b>{i:02}" for i in (3, 9, 11, 20, 21)]


def test_the_refusal_names_expectation_count_and_rows(refused: Artifact) -> None:
    with pytest.raises(QualityError) as caught:
        require_quality(refused)
    message = str(caught.value)
    assert isinstance(caught.value, InputError)
    assert "3 critical expectation(s) failed" in message
    assert "references.interaction_note_exists: expected: The note of every interaction is among the notes." in message
    assert "6 row(s) at fault:" in message
    assert message.count("note_id='gone<b>") == 5
    assert "user_id='u03'" in message
    assert "images.share_with_image" in message
    assert "observed 0.4167, 70 row(s) at fault" in message
    assert "topic_not_blank" not in message
    assert str(refused.path / "data_docs" / "index.html") in message


def test_a_warning_alone_does_not_stop(refused: Artifact, tmp_path: Path) -> None:
    entries = [e for e in json.loads(refused.file("result.json").read_text()) if e["severity"] == "warning"]
    assert not all(entry["success"] for entry in entries)
    (tmp_path / "result.json").write_text(json.dumps(entries))
    require_quality(Artifact("quality", "0", tmp_path))


def test_the_summary_is_a_table_with_failures_first(refused: Artifact) -> None:
    lines = refused.file("summary.md").read_text().splitlines()
    assert lines[0] == "| Outcome | Expectation | Meaning | Observed | Rows at fault |"
    assert [line.split("|")[1].strip() for line in lines[2:7]] == ["**FAILED**"] * 3 + ["warning", "passed"]
    assert all(line.count("|") == 6 for line in lines[: 2 + refused.summary["expectations"]])
    assert any("gone<b>03" in line for line in lines)


def test_data_docs_need_no_network_and_no_missing_file(refused: Artifact) -> None:
    site = refused.file("data_docs")
    pages = sorted(site.rglob("*.html"))
    assert len(pages) == 15  # our front page; a suite and a result for each of seven suites
    for page in pages:
        text = page.read_text()
        assert "<script" not in text
        assert not re.search(r"(src\s*=|url\(|<link|@import)", text)
        for target in re.findall(r"<a[^>]*href=['\"]([^'\"#]+)", text):
            assert target.startswith("https://") or (page.parent / unquote(target)).exists(), (page, target)


def test_the_front_page_shows_failures_with_rows_and_escapes_them(refused: Artifact) -> None:
    text = (refused.file("data_docs") / "index.html").read_text()
    assert "3 critical and 1 warning(s) failed" in text
    assert "gone&lt;b&gt;03" in text
    assert "gone<b>" not in text
    assert text.count("title='failed, critical'") == 3
    assert "<td>note_exists</td><td title='expect_column_values_to_be_in_set'>interaction_note_exists" in text


def test_great_expectations_pages_carry_the_verdict(refused: Artifact) -> None:
    (page,) = (refused.file("data_docs") / "validations" / "references").rglob("*.html")
    text = page.read_text()
    assert "The note of every interaction is among the notes. (critical)" in text
    assert "Failed" in text


def test_nothing_is_left_elsewhere(passed: Artifact, refused: Artifact, workdir: Path) -> None:
    assert list(workdir.iterdir()) == []
    for artifact in (passed, refused):
        top = {path.name for path in artifact.path.iterdir()}
        assert top == {"manifest.json", "result.json", "summary.md", "data_docs"}
        assert not [p for p in artifact.path.rglob("*") if p.is_file() and ".tmp-" in p.read_text()]
    assert os.environ["GX_ANALYTICS_ENABLED"] == "false"


def test_the_same_data_version_is_not_checked_again(
    store: Store, passed: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("notellm2.quality.quality_stage.judge_dataset", lambda *_: pytest.fail("checked again"))
    dataset = write(tmp_path, sound())
    assert check_quality(store, dataset, "1.dir", RULES, dataset.info) == passed


def test_what_the_verdict_rests_on_is_in_the_key(
    store: Store, passed: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Reached(Exception):
        pass

    def judge(*_: Any) -> None:
        raise Reached

    monkeypatch.setattr("notellm2.quality.quality_stage.judge_dataset", judge)
    own = tmp_path / "own.json"
    own.write_text(json.dumps({"name": "topics", "expectations": []}))
    dataset = write(tmp_path, sound())
    other = CONFIG.model_copy(update={"min_notes": 99})
    variants: list[dict[str, Any]] = [
        {"data_md5": "3.dir"},
        {"rules": replace(RULES, thresholds=other)},
        {"previous": None},
        {"rules": replace(RULES, target_events=("click",))},
        {"rules": replace(RULES, thresholds=CONFIG.model_copy(update={"suites": (own,)}))},
    ]
    copied = tmp_path / "copied"
    shutil.copytree(ROOT / "recipes" / "suites", copied)
    elsewhere = replace(RULES, thresholds=CONFIG.model_copy(update={"suites": (copied,)}))
    usual: dict[str, Any] = {
        "data_md5": "1.dir",
        "rules": RULES,
        "previous": dataset.info,
    }
    for variant in variants:
        with pytest.raises(Reached):
            check_quality(store, dataset, **(usual | variant))
    # Where the suites' files lie is not in it.
    assert check_quality(store, dataset, **(usual | {"rules": elsewhere})) == passed


def test_data_from_the_future_is_judged_anew_each_day_and_other_data_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Keys(Store):
        def build(self, stage: str, version: int, config: Any, inputs: Any, write: Any) -> Any:
            return self.key(stage, version, config, inputs)

    def key_on(day: int, last: str, latest: str | None) -> Any:
        class Clock(datetime):
            @classmethod
            def now(cls, tz: Any = None) -> Any:
                return datetime(2024, 1, day, tzinfo=tz)

        monkeypatch.setattr("notellm2.quality.quality_stage.datetime", Clock)
        info: DatasetInfo = dataset.info.model_copy(update={"last_interaction": last})
        return check_quality(
            Keys(tmp_path), Dataset(dataset.path, info), "1.dir", QualityRules(QualityConfig(latest=latest)), None
        )

    dataset = write(tmp_path / "data", sound())
    assert key_on(2, "2024-01-10T00:00:00+00:00", None) != key_on(3, "2024-01-10T00:00:00+00:00", None)
    assert key_on(2, "2024-01-01T00:00:00+00:00", None) == key_on(3, "2024-01-01T00:00:00+00:00", None)
    assert key_on(2, "2024-01-10T00:00:00+00:00", "2024-02-01") == key_on(3, "2024-01-10T00:00:00+00:00", "2024-02-01")
    with pytest.raises(InputError, match=r"last_interaction is 'soon'"):
        key_on(2, "soon", None)
