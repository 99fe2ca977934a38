from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from flows.project import commit


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A repository with a pin of data, a recipe, and a folder of code."""
    (tmp_path / "flows").mkdir()
    for name in ("data.dvc", "recipe.yaml", "flows/code.py"):
        (tmp_path / name).write_text("before\n")
    for command in ("init -q", "add .", "-c user.name=a -c user.email=a@b commit -qm first"):
        subprocess.run(["git", *command.split()], cwd=tmp_path, check=True)
    return tmp_path / "flows"


def test_a_new_pin_of_data_leaves_the_commit_clean_and_a_change_of_code_does_not(checkout: Path) -> None:
    clean = commit(folder=checkout)
    assert clean is not None
    assert len(clean) == 40
    (checkout.parent / "data.dvc").write_text("after an ingest\n")
    (checkout.parent / "untracked").write_text("as git describe has it\n")
    assert commit(folder=checkout) == clean
    (checkout.parent / "recipe.yaml").write_text("after\n")
    assert commit(folder=checkout) == f"{clean}-dirty"
    assert commit(12, checkout) == f"{clean[:12]}-dirty"


def test_without_a_repository_an_image_says_what_it_was_built_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    monkeypatch.setenv("NOTELLM2_COMMIT", "abc")
    assert commit(folder=tmp_path) == "abc"
    monkeypatch.delenv("NOTELLM2_COMMIT")
    assert commit(folder=tmp_path) is None
