from __future__ import annotations

import multiprocessing
import subprocess
import sys
from pathlib import Path

import pytest

from notellm2.errors import InputError
from notellm2.recipe import RegistryConfig
from notellm2.registry.tracking import PAGES_VARIABLE, URI_VARIABLE, Tracking
from notellm2.workspace import Workspace


@pytest.fixture(autouse=True)
def no_uri(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(URI_VARIABLE, raising=False)


def test_the_default_is_an_absolute_sqlite_file_that_is_not_made_by_looking(tmp_path: Path) -> None:
    tracking = Tracking.at(Workspace.at(tmp_path / "store"))
    assert tracking.uri == f"sqlite:///{tmp_path}/store/_mlflow/mlflow.db"
    assert not tracking.exists
    assert list(tmp_path.iterdir()) == []


def test_the_variable_names_another_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(URI_VARIABLE, "http://127.0.0.1:5000")
    tracking = Tracking.at(Workspace.at(tmp_path))
    assert tracking.uri == "http://127.0.0.1:5000"
    assert tracking.artifacts is None
    assert tracking.exists


@pytest.mark.parametrize("uri", ["./mlruns", "/var/mlruns", "file:///var/mlruns", "sqlite:///mlflow.db", "mlruns"])
def test_stores_that_mlflow_lost_or_that_move_with_the_folder_are_refused(
    uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(URI_VARIABLE, uri)
    with pytest.raises(InputError, match=r"MLFLOW_TRACKING_URI.*expected"):
        Tracking.at(Workspace.at(tmp_path))


def test_passwords_are_not_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(URI_VARIABLE, "postgresql://mlflow:secret@db:5432/mlflow")
    assert Tracking.at(Workspace.at(tmp_path)).shown_uri == "postgresql://mlflow:***@db:5432/mlflow"


@pytest.mark.parametrize(
    ("uri", "pages", "expected"),
    [
        (None, None, "http://127.0.0.1:5000/#/models/notes"),
        ("http://mlflow:5000/", None, "http://mlflow:5000/#/models/notes"),
        ("https://mlflow.example", None, "https://mlflow.example/#/models/notes"),
        ("http://mlflow:5000", "https://ml.example/mlflow/", "https://ml.example/mlflow/#/models/notes"),
    ],
)
def test_pages_are_where_a_person_opens_them(
    uri: str | None, pages: str | None, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in ((URI_VARIABLE, uri), (PAGES_VARIABLE, pages)):
        monkeypatch.delenv(name, raising=False)
        if value is not None:
            monkeypatch.setenv(name, value)
    assert Tracking.at(Workspace.at(tmp_path)).page("/models/notes") == f"{expected}?workflowType=machine_learning"


def test_a_model_name_that_mlflow_refuses_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="model_name"):
        Tracking.at(Workspace.at(tmp_path), RegistryConfig(model_name="a/b"))


def test_the_experiment_is_made_once_with_its_files_in_the_workspace(tracking: Tracking, store_root: Path) -> None:
    first = tracking.experiment_id()
    assert tracking.experiment_id() == first
    experiment = tracking.client.get_experiment(first)
    assert experiment.artifact_location == (store_root / "_mlflow" / "artifacts").as_uri()


def test_a_deleted_experiment_says_how_to_go_on(tracking: Tracking) -> None:
    tracking.client.delete_experiment(tracking.experiment_id())
    with pytest.raises(InputError, match="mlflow experiments restore"):
        tracking.experiment_id()


def _hold(tracking: Tracking, held: multiprocessing.synchronize.Event) -> None:
    with tracking.lock("x"):
        held.set()
        multiprocessing.Event().wait()


def test_a_lock_excludes_other_processes_and_dies_with_its_holder(tmp_path: Path) -> None:
    tracking = Tracking.at(Workspace.at(tmp_path))
    context = multiprocessing.get_context("fork")
    held = context.Event()
    holder = context.Process(target=_hold, args=(tracking, held), daemon=True)
    holder.start()
    assert held.wait(10)
    with pytest.raises(TimeoutError, match=r"x\.lock"), tracking.lock("x", timeout_s=0.1):
        pass
    with tracking.lock("y", timeout_s=0.1):
        pass
    holder.kill()
    holder.join()
    with tracking.lock("x", timeout_s=5):
        pass


def test_importing_the_room_imports_neither_mlflow_nor_torch() -> None:
    code = (
        "import sys, notellm2.promotion.status, notellm2.registry.versions, notellm2.promotion.gate\n"
        "heavy = {'mlflow', 'torch', 'pandas', 'faiss', 'transformers'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_an_experiment_has_a_description_and_keeps_one_that_people_wrote(tracking: Tracking) -> None:
    client, note = tracking.client, "mlflow.note.content"
    number = tracking.experiment_id()
    assert "figures with intervals" in client.get_experiment(number).tags[note]
    client.set_experiment_tag(number, note, "our own words")
    tracking.describe_experiment()
    assert client.get_experiment(number).tags[note] == "our own words"


def test_an_experiment_of_before_gets_a_description(tracking: Tracking) -> None:
    tracking.client.create_experiment(tracking.experiment)
    tracking.describe_experiment()
    assert "Retrainings" in tracking.client.get_experiment(tracking.experiment_id()).tags["mlflow.note.content"]
