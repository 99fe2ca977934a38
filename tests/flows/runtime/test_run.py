"""When two retrainings share an MLflow run, and when figures compare."""

from __future__ import annotations

import contextlib
import types
from pathlib import Path
from typing import Any

import pytest
from prefect.exceptions import Pause

from flows.handoffs import DataVersion
from flows.runtime.job import open_job
from flows.runtime.run import open_run, run_key
from flows.tasks.registration import test_set as digest_of_test_set
from notellm2.artifacts import Artifact, Store
from notellm2.recipe import load_recipe
from tests.flows.running import RECIPE


def test_recipe_data_and_code_of_the_stages_make_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = open_job(load_recipe(RECIPE), tmp_path)
    key = run_key(job, "md5")
    assert run_key(open_job(load_recipe(RECIPE), tmp_path / "elsewhere"), "md5") == key
    assert run_key(job.about(git_commit="0" * 40), "md5") == key, "where it comes from is no part of what it is"
    assert run_key(job, "other") != key
    assert run_key(open_job(load_recipe(RECIPE, ("training.steps=13",)), tmp_path), "md5") != key
    monkeypatch.setattr("notellm2.training.training_stage.VERSION", 99)
    assert run_key(job, "md5") != key, "its curves would be added to those of the old training"


def test_figures_compare_on_equal_pairs_of_equal_notes_measured_alike(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def mined(data: str = "md5", version: int = 1, **changed: str) -> Artifact:
        texts = {"test": "a b", "pool": "b c", "train": "d e"} | changed

        def write(folder: Path) -> dict[str, Any]:
            for name, text in texts.items():
                (folder / f"{name}.parquet").write_text(text)
            return {}

        return Store(tmp_path).build("pairs", version, texts, {"data": data}, write)

    known = digest_of_test_set(mined())
    assert digest_of_test_set(mined(version=2, train="d f")) == known
    assert digest_of_test_set(mined(test="a c")) != known
    assert digest_of_test_set(mined(pool="b d")) != known
    assert digest_of_test_set(mined("other")) != known, "the notes may have other texts and images"
    monkeypatch.setattr("notellm2.evaluation.evaluation_stage.EVALUATION_VERSION", 99)
    assert digest_of_test_set(mined()) != known


@pytest.mark.parametrize(
    ("ended_by", "calls"), [(None, ["exit None"]), (ValueError, ["exit ValueError"]), (Pause, ["suspend"])]
)
def test_a_run_that_is_suspended_until_a_person_decides_has_not_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ended_by: type[BaseException] | None, calls: list[str]
) -> None:
    from notellm2.registry import runs

    seen: list[str] = []

    class FakeRun:
        """Writes down how it ends."""

        run_id = "r"

        def __getattr__(self, name: str) -> Any:
            return lambda *_, **__: None

        def __enter__(self) -> FakeRun:
            return self

        def __exit__(self, kind: type[BaseException] | None, *_: Any) -> None:
            seen.append(f"exit {kind and kind.__name__}")

        def suspend(self) -> None:
            seen.append("suspend")

    dataset = types.SimpleNamespace(info=types.SimpleNamespace(name="notes", notes=5, interactions=9))
    monkeypatch.setattr("flows.runtime.show.mlflow_run", lambda run: None)  # there is no flow run that could show it
    monkeypatch.setattr(runs.Run, "open", lambda *_, **__: FakeRun())
    monkeypatch.setattr("flows.handoffs.Dataset", types.SimpleNamespace(open=lambda _: dataset))
    with contextlib.ExitStack() as stack:
        if ended_by is not None:
            stack.enter_context(pytest.raises(ended_by))
        with open_run(open_job(load_recipe(RECIPE), tmp_path), DataVersion(path=tmp_path, md5="0a.dir")):
            if ended_by is not None:
                raise ended_by
    assert seen == calls
