"""Suites of expectations as files: what is read of them, and what is refused with which words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from notellm2.errors import InputError
from notellm2.quality.suites import PARAMETERS, load_suites, suites_digest
from notellm2.quality.tables import TABLES
from notellm2.recipe import QualityConfig
from tests.conftest import ROOT

IN_SET = "expect_column_values_to_be_in_set"


def expectation(**changes: Any) -> dict[str, Any]:
    return {"type": IN_SET, "kwargs": {"column": "event", "value_set": ["view"]}} | changes


def store(path: Path, *expectations: Any, **changes: Any) -> Path:
    path.write_text(
        json.dumps({"name": "own", "meta": {"table": "interactions"}, "expectations": expectations} | changes)
    )
    return path


def test_the_shipped_suites_are_the_default_and_each_has_a_meaning_and_a_name_of_its_own() -> None:
    suites = load_suites(None)
    assert suites_digest(suites) == suites_digest(load_suites((ROOT / "recipes" / "suites",)))
    assert {suite.table for suite in suites} == set(TABLES)
    expectations = [one for suite in suites for one in suite.expectations]
    names = [one.name for one in expectations]
    assert len(set(names)) == len(names)
    assert all(one.meaning.endswith((".", "-")) for one in expectations)
    assert {one.kind for one in expectations} >= {
        "expect_column_values_to_not_be_null",
        "expect_column_values_to_match_regex",
        "expect_column_value_lengths_to_be_between",
        "expect_column_values_to_be_in_set",
        "expect_column_values_to_be_between",
        "expect_column_values_to_be_of_type",
    }


def test_every_threshold_of_the_recipe_is_used_by_a_shipped_suite() -> None:
    text = "".join(path.read_text() for path in (ROOT / "recipes" / "suites").glob("*.json"))
    thresholds = {name for name, value in QualityConfig() if isinstance(value, int | float)}
    assert thresholds | {"window_start", "window_end"} == PARAMETERS
    # The image pass reads decode_sample itself; here it is only told.
    unused = {name for name in PARAMETERS - {"decode_sample"} if f'"{name}"' not in text and f"- {name}" not in text}
    assert unused == set()


def test_a_project_edits_its_own_copy_of_the_shipped_suites(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "recipes" / "suites").mkdir(parents=True)
    store(tmp_path / "recipes" / "suites" / "own.json", expectation())
    monkeypatch.chdir(tmp_path)
    assert [suite.name for suite in load_suites(None)] == ["own"]


def test_files_and_folders_are_read_in_order_and_names_are_made_where_none_are_given(tmp_path: Path) -> None:
    first = store(tmp_path / "z.json", expectation(severity="warning", description="Known events."))
    folder = tmp_path / "more"
    folder.mkdir()
    store(folder / "b.json", name="b")
    store(folder / "a.json", expectation(meta={"name": "known"}), name="topics", meta={"table": "topics"}, notes="x")
    with pytest.raises(InputError, match=r"a\.json, expectation 1 .*: the table topics has no column 'event'"):
        load_suites((first, folder))
    store(folder / "a.json", name="topics", meta={})
    suites = load_suites((first, folder))
    assert [(suite.name, suite.table) for suite in suites] == [
        ("own", "interactions"),
        ("topics", "topics"),
        ("b", "interactions"),
    ]
    (known,) = suites[0].expectations
    assert (known.name, known.severity, known.meaning) == ("event_values_to_be_in_set", "warning", "Known events.")


def test_the_digest_is_of_what_the_suites_say(tmp_path: Path) -> None:
    def digest(*expectations: Any, name: str = "a.json") -> str:
        return suites_digest(load_suites((store(tmp_path / name, *expectations),)))

    usual = digest(expectation())
    assert digest(expectation(), name="b.json") == usual
    assert digest(expectation(severity="warning")) != usual
    assert digest(expectation(kwargs={"column": "event", "value_set": ["like"]})) != usual


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"name": "../../etc"}, r"name is '\.\./\.\./etc'; expected letters"),
        ({"meta": {"table": "users"}}, "meta.table is 'users'; expected one of notes, topics"),
        ({"meta": {"table": "notes", "show": ["id"]}}, "meta.show: the table notes has no column 'id'"),
        ({"thresholds": 1}, "unknown key 'thresholds'"),
        ({"expectations": {}}, "expected an object with name and expectations"),
        ({"expectations": [{"kwargs": {}}]}, "expectation 1: expected an object with type and kwargs"),
        ({"expectations": [expectation(mostly=0.5)]}, r"expectation 1 \(.*\): unknown key 'mostly'"),
        ({"expectations": [expectation(severity="fatal")]}, "severity is 'fatal'; expected critical or warning"),
        (
            {"expectations": [expectation(type="expect_column_values_to_be_unique", kwargs={"column": "user_id"})]},
            r"cannot be judged part by part.*of the table\s+summary \(note_count",
        ),
        (
            {"expectations": [expectation(kwargs={"column": "event", "mostly": {"$PARAMETER": "1 - max_share"}})]},
            "no parameter 'max_share'; expected one of decode_sample",
        ),
        ({"expectations": [expectation(), expectation()]}, "expectation 2 .*: a second one named 'event_values"),
    ],
)
def test_what_cannot_be_used_is_refused_by_file_and_expectation(
    tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    path = store(tmp_path / "own.json", **changes)
    with pytest.raises(InputError, match=said) as caught:
        load_suites((path,))
    assert str(path) in str(caught.value)


def test_what_is_not_there_or_not_json_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"quality\.suites: .*gone\.json: No such file"):
        load_suites((tmp_path / "gone.json",))
    with pytest.raises(InputError, match=r"a folder without \*\.json"):
        load_suites((tmp_path,))
    (tmp_path / "torn.json").write_text('{"name": ')
    with pytest.raises(InputError, match=r"suite .*torn\.json: not JSON: .*line 1"):
        load_suites((tmp_path / "torn.json",))
    (tmp_path / "torn.json").write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match=r"suite .*torn\.json: not JSON"):
        load_suites((tmp_path / "torn.json",))
    same = [store(tmp_path / name) for name in ("a.json", "b.json")]
    with pytest.raises(InputError, match="two suites are named 'own'"):
        load_suites(same)
