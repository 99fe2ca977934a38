"""Which data set a run reads, and with which version of it the checks compare; no flow is run."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from flows.runtime.job import Job, open_job
from flows.tasks.datasets import data_folder, previous_version, remember_version
from notellm2.notes.dataset import Dataset, DatasetInfo
from notellm2.recipe import SampleConfig, load_recipe
from notellm2.sample.generate import write_sample
from tests.flows.running import RECIPE


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("export") / "posts"
    write_sample(folder, SampleConfig(notes=60, users=60))
    return folder


@pytest.fixture
def export(sample: Path, tmp_path: Path) -> Path:
    return shutil.copytree(sample, tmp_path / "posts")


@pytest.fixture
def job(tmp_path: Path) -> Job:
    return open_job(load_recipe(RECIPE), tmp_path / "store")


def info(notes: int, name: str = "posts") -> DatasetInfo:
    return DatasetInfo(
        name=name, licence="", source="", notes=notes, notes_with_image=0, interactions=0,
        first_interaction=None, last_interaction=None,
    )  # fmt: skip


def test_an_export_given_by_data_is_imported_into_the_store_once(export: Path, job: Job) -> None:
    imported = f"imported from {export}"
    folder, origin = data_folder(job, export)
    assert folder.parent == job.root / "_data"
    assert origin == imported
    assert Dataset.open(folder).info.name == "posts"
    assert data_folder(job, export) == (folder, "imported before")
    older = (export / "notes.parquet").stat().st_mtime - 1000
    os.utime(export / "notes.parquet", (older, older))
    assert data_folder(job, export)[1] == imported, "another notes.parquet, even if it is an older one"
    assert data_folder(job, folder) == (folder, "as given")
    assert list(job.store.artifacts()) == []


def test_other_bounds_on_images_import_again(export: Path, job: Job) -> None:
    folder, _ = data_folder(job, export)
    assert Dataset.open(folder).info.notes_with_image > 0
    narrow = open_job(load_recipe(RECIPE, ("data.images.max_pixels=10",)), job.root)
    assert data_folder(narrow, export) == (folder, f"imported from {export}")
    assert Dataset.open(folder).info.notes_with_image == 0


def test_two_exports_of_one_name_are_two_data_sets(sample: Path, export: Path, job: Job) -> None:
    assert sample.name == export.name
    one, _ = data_folder(job, sample)
    other, origin = data_folder(job, export)
    assert one != other
    assert origin == f"imported from {export}"


def test_a_data_set_made_of_something_else_is_not_taken_for_the_export(export: Path, job: Job, tmp_path: Path) -> None:
    settings = (f"data.export={export}", f"data.dir={tmp_path / 'data'}")
    named = open_job(load_recipe(RECIPE, settings), job.root)
    folder, origin = data_folder(named, None)
    assert (folder, origin) == (tmp_path / "data", f"imported from {export}")
    assert data_folder(named, None)[1] == "imported before"
    description = folder / "dataset.json"
    description.write_text(description.read_text().replace('"posts"', '"others"'))
    assert data_folder(named, None)[1] == f"imported from {export}"
    assert Dataset.open(folder).info.name == "posts"


def test_an_export_with_a_link_that_leads_nowhere_is_imported(export: Path, job: Job) -> None:
    (export / "images" / "gone.jpg").symlink_to(export / "nowhere.jpg")
    data_folder(job, export)
    assert data_folder(job, export)[1] == "imported before"


def test_a_version_is_compared_with_the_last_one_that_passed(job: Job) -> None:
    assert previous_version(job, "a", info(1000)) is None
    remember_version(job, "a", info(1000))
    assert previous_version(job, "a", info(1000)) is None, "the same answer as before it passed"
    for failed in ("b", "c"):
        previous = previous_version(job, failed, info(10))
        assert previous is not None
        assert previous.notes == 1000, "a version that failed is no measure for the next"
    remember_version(job, "d", info(900))
    remember_version(job, "a", info(1000))
    remember_version(job, "x", info(5, name="other"))
    last = previous_version(job, "e", info(800))
    assert last is not None
    assert last.notes == 900
