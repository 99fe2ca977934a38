"""What a recipe cannot do with the data and backbones that are there, known from names and footers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from notellm2.doctor.check import Check
from notellm2.doctor.recipe_fit import check_fit, check_volumes
from notellm2.recipe import Recipe
from tests.unit.quality.small_data import sound, write

GIT_LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("fit") / "data", sound()).path


def recipe(data: Path, data_section: dict[str, Any] | None = None, **sections: Any) -> Recipe:
    quality = {"min_notes": 100, "min_interactions": 1000}
    read = {"dir": data, **(data_section or {})}
    return Recipe.model_validate({"name": "r", "data": read, "quality": quality, **sections})


def by_name(checks: list[Check]) -> dict[str, Check]:
    assert len({check.name for check in checks}) == len(checks)
    return {check.name: check for check in checks}


def test_what_fits_is_ok_and_says_what_was_found(data: Path) -> None:
    checks = by_name(check_fit(recipe(data)))
    assert {check.status for check in checks.values()} == {"ok"}
    assert checks["data"].found.endswith("120 notes, 120 with an image; 1,200 interactions")
    assert check_volumes(recipe(data)).status == "ok"


def test_data_that_are_not_there_are_named(tmp_path: Path) -> None:
    missing = by_name(check_fit(recipe(tmp_path / "none")))["data"]
    assert missing.status == "failed"
    assert "neither data.export nor data.sample" in missing.found
    named = by_name(check_fit(recipe(tmp_path / "none"), tmp_path))["data"]
    assert named.found.startswith(f"--data {tmp_path}: neither a data set")


def test_what_is_made_first_is_no_failure(tmp_path: Path) -> None:
    (tmp_path / "notes.csv").write_text("note_id\n")
    to_import = recipe(tmp_path / "data", {"export": tmp_path})
    assert by_name(check_fit(to_import))["data"] == Check(
        "data", "ok", f"{tmp_path} is an export; it is imported and judged first"
    )
    assert check_volumes(to_import).status == "ok"
    generated = recipe(tmp_path / "data", {"sample": {"notes": 50}})
    assert by_name(check_fit(generated))["data"].status == "ok"


def test_notes_without_images_cannot_teach_a_tiny_encoder(tmp_path: Path) -> None:
    raw = sound()
    for note in raw.notes:
        note["image"] = None
    path = write(tmp_path / "data", raw).path
    refused = by_name(check_fit(recipe(path)))["data"]
    assert refused.status == "failed"
    assert "no note has an image" in refused.found
    assert (
        "0.0% of the notes have an image, and quality.min_share_with_image is 0.5" in check_volumes(recipe(path)).found
    )


def test_too_little_is_told_with_the_field(data: Path) -> None:
    refused = check_volumes(recipe(data, quality={"min_notes": 500, "min_interactions": 1000}))
    assert refused.status == "failed"
    assert "120 notes, and quality.min_notes is 500; bring more" in refused.found


def test_notes_without_any_text_are_seen_in_the_footers(tmp_path: Path) -> None:
    raw = sound()
    for note in raw.notes:
        note.update(title="", topics=[], content="")
    silent = write(tmp_path / "silent", raw).path
    assert "no note has text" in check_volumes(recipe(silent)).found
    raw.notes[100]["topics"] = ["tea"]
    assert check_volumes(recipe(write(tmp_path / "one", raw).path)).status == "ok"


def backbone(path: Path, weights: str = "x" * 10, config: str = "{}") -> Path:
    path.mkdir()
    (path / "config.json").write_text(config)
    if weights:
        (path / "model.safetensors").write_text(weights)
    return path


@pytest.mark.parametrize(
    ("weights", "said"),
    [(GIT_LFS, "model.safetensors is a Git LFS pointer; run `git lfs pull`"), ("", "no weights")],
)
def test_a_backbone_that_cannot_be_loaded_is_named(data: Path, tmp_path: Path, weights: str, said: str) -> None:
    folder = backbone(tmp_path / "llm", weights)
    checks = by_name(check_fit(recipe(data, backbones={"llm": str(folder)})))
    assert checks["backbones.llm"].status == "failed"
    assert said in checks["backbones.llm"].line()
    assert "backbones.vision" not in checks, "a tiny one is built"


def test_a_folder_that_is_not_there_and_a_whole_one(data: Path, tmp_path: Path) -> None:
    named = {"llm": str(backbone(tmp_path / "llm")), "vision": str(tmp_path / "gone")}
    checks = by_name(check_fit(recipe(data, backbones=named)))
    assert checks["backbones.llm"].status == "ok"
    assert checks["backbones.vision"].line().startswith(f"failed   backbones.vision: {tmp_path}/gone: no such folder")


def test_a_hub_name_that_is_not_cached_needs_a_network(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    check = by_name(check_fit(recipe(data, backbones={"llm": "nobody/nothing@main"})))["backbones.llm"]
    assert (check.status, check.advice) == ("warning", "it is downloaded first, which needs a network")


def test_expectations_and_the_window_are_read(data: Path, tmp_path: Path) -> None:
    (tmp_path / "torn.json").write_text("{")
    torn = recipe(data, quality={"suites": [str(tmp_path / "torn.json")]})
    assert "torn.json: not JSON" in by_name(check_fit(torn))["expectations"].found
    turned = recipe(data, quality={"earliest": "2024-02-01", "latest": "2024-01-01"})
    assert "is not before" in by_name(check_fit(turned))["expectations"].found


def test_approval_needs_a_server(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = recipe(data, gate={"mode": "approval"})
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    assert by_name(check_fit(asked))["gate"].status == "failed"
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:4200/api")
    assert by_name(check_fit(asked))["gate"].status == "ok"
