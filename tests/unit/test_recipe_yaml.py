"""Recipes as people write them: YAML 1.2, and errors that name field and line."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from notellm2.errors import InputError
from notellm2.recipe import load_recipe
from notellm2.recipe.yaml12 import load_yaml
from tests.conftest import ROOT

SAMPLE = ROOT / "recipes" / "sample.yaml"


def _refusal(path: Path, *overrides: str) -> str:
    with pytest.raises(InputError) as caught:
        load_recipe(path, overrides)
    return str(caught.value)


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("yes", "yes"),
        ("on", "on"),
        ("no", "no"),
        ("true", True),
        ("010", 10),
        ("0o10", 8),
        ("0x1F", 31),
        ("1:30", "1:30"),
        ("1e-4", 1e-4),
        ("1.5", 1.5),
        (".5", 0.5),
        ("-.inf", float("-inf")),
        ("-3", -3),
        ("2024-12-31", "2024-12-31"),
        ("2024-05-01T00:00:00Z", "2024-05-01T00:00:00Z"),
        ("~", None),
        ("", None),
        ("[view, on, no]", ["view", "on", "no"]),
    ],
)
def test_plain_values_are_those_of_yaml_1_2(written: str, value: object) -> None:
    assert load_yaml(written) == value


@given(st.integers())
def test_whole_numbers_are_decimal(number: int) -> None:
    assert load_yaml(str(number)) == number


def test_a_key_that_is_there_twice_is_named_with_both_lines(tmp_path: Path) -> None:
    recipe = tmp_path / "r.yaml"
    recipe.write_text("name: r\ntraining:\n  steps: 12\npairs: {}\ntraining:\n  lr: 1e-4\n")
    assert "'training' is there twice, in lines 2 and 5" in _refusal(recipe)
    recipe.write_text("name: r\ntraining:\n  steps: 12\n  steps: 13\n")
    assert "'steps' is there twice, in lines 3 and 4" in _refusal(recipe)


def test_a_wrong_field_is_named_with_its_line(tmp_path: Path) -> None:
    recipe = tmp_path / "r.yaml"
    recipe.write_text("name: r\n\npairs:\n  source_events: [view]\ntraining:\n  steps: soon\n  pace: 3\n")
    lines = _refusal(recipe, "quality.min_notes=none").splitlines()
    assert lines[1].startswith("  quality.min_notes: ")
    assert "(line" not in lines[1], "it is in the command, not in the file"
    assert (lines[2].endswith("(line 6)"), lines[3].endswith("(line 7)")) == (True, True)


def test_a_date_is_what_the_window_of_the_data_asks_for(tmp_path: Path) -> None:
    recipe = tmp_path / "r.yaml"
    recipe.write_text("name: r\nquality:\n  earliest: 2020-01-01\n")
    quality = load_recipe(recipe, ("quality.latest=2024-12-31",)).quality
    assert (quality.earliest, quality.latest) == ("2020-01-01", "2024-12-31")


@pytest.mark.parametrize("written", ["yes", "true", "on"])
def test_a_yes_is_no_number(written: str) -> None:
    assert "training.steps: " in _refusal(SAMPLE, f"training.steps={written}")
    assert "training.lr: " in _refusal(SAMPLE, f"training.lr={written}")


@pytest.mark.parametrize("value", ["backbones.llm=@hub/name", "pairs.source_events=[view,click", "data.dir=%DATA%"])
def test_an_override_that_is_no_yaml_is_named(value: str) -> None:
    message = _refusal(SAMPLE, value)
    assert message.startswith(f"override {value!r}: not valid YAML: ")
    assert "put quotes around" in message


def test_a_folder_is_no_recipe() -> None:
    assert _refusal(ROOT / "recipes").endswith("a folder; name a YAML file such as recipes/sample.yaml")


@pytest.mark.shared
def test_15_collected_recipes_end_as_they_should(shared: Path) -> None:
    cases = shared / "cases" / "15-recipes"
    if not cases.is_dir():
        pytest.skip(f"needs the collected cases in {cases}")
    assert "'training' is there twice, in lines 18 and 30" in _refusal(cases / "dup.yaml")
    assert load_recipe(cases / "dates.yaml").quality.latest == "2024-12-31"
    assert load_recipe(cases / "norway.yaml").pairs.source_events == ("view", "on", "no")
    assert load_recipe(cases / "untilz.yaml").pairs.until is not None
    assert "pairs.until: Input should have timezone info (line 31)" in _refusal(cases / "until.yaml")
    for name in ("empty", "tabs", "utf16"):
        assert str(cases / f"{name}.yaml") in _refusal(cases / f"{name}.yaml")
