"""A store that was moved or copied writes into itself, and its records name files that it holds."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from notellm2.registry.tracking import URI_VARIABLE, Tracking
from notellm2.workspace import Workspace


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with one run that holds a file, one model version and a published tag (making it takes seconds)."""
    root = tmp_path_factory.mktemp("first place") / "store"
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv(URI_VARIABLE, raising=False)
        tracking = Tracking.at(Workspace.at(root))
        client = tracking.client
        run = client.create_run(tracking.experiment_id(), tags={"published": f"{root}/_published/versions/v1"})
        client.log_text(run.info.run_id, "kept", "note.txt")
        client.create_registered_model(tracking.model_name)
        client.create_model_version(tracking.model_name, f"{run.info.artifact_uri}/model", await_creation_for=0)
    return root


def _opened(root: Path, monkeypatch: pytest.MonkeyPatch) -> Tracking:
    monkeypatch.delenv(URI_VARIABLE, raising=False)
    return Tracking.at(Workspace.at(root))


def test_a_copy_writes_into_itself_and_leaves_the_original_alone(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = Path(shutil.copytree(store, tmp_path / "store 2"))
    before = sorted(path for path in store.rglob("*") if path.is_file())
    tracking = _opened(copy, monkeypatch)
    run = tracking.client.create_run(tracking.experiment_id())
    tracking.client.log_text(run.info.run_id, "new", "note.txt")
    assert run.info.artifact_uri.startswith((copy / "_mlflow" / "artifacts").as_uri())
    assert [path.read_text() for path in copy.rglob(f"{run.info.run_id}/artifacts/note.txt")] == ["new"]
    assert sorted(path for path in store.rglob("*") if path.is_file()) == before
    assert _opened(store, monkeypatch).client.get_experiment("1").artifact_location.startswith(store.parent.as_uri())


def test_the_records_of_a_moved_store_name_its_own_files(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(store, tmp_path / "old")
    _opened(tmp_path / "old", monkeypatch).client.get_experiment("1")
    (tmp_path / "old").rename(moved)
    tracking = _opened(moved, monkeypatch)
    client = tracking.client
    (run,) = client.search_runs([tracking.experiment_id()])
    assert Path(client.download_artifacts(run.info.run_id, "note.txt")).read_text() == "kept"
    assert run.data.tags["published"] == f"{moved}/_published/versions/v1"
    version = client.get_model_version(tracking.model_name, "1")
    assert version.source.startswith((moved / "_mlflow" / "artifacts").as_uri())
    assert not (tmp_path / "old").exists(), "the old place is not made anew"


def test_another_name_of_the_same_place_changes_nothing(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "link").symlink_to(store.parent)
    tracking = _opened(tmp_path / "link" / "store", monkeypatch)
    location = tracking.client.get_experiment(tracking.experiment_id()).artifact_location
    assert location == (store / "_mlflow" / "artifacts").as_uri()


def test_a_database_elsewhere_is_left_as_it_is(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(URI_VARIABLE, f"sqlite:///{store}/_mlflow/mlflow.db")
    tracking = Tracking.at(Workspace.at(tmp_path / "another"))
    assert tracking.client.get_experiment("1").artifact_location == (store / "_mlflow" / "artifacts").as_uri()
