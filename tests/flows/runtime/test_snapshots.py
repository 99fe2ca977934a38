from __future__ import annotations

import os
import shutil
import threading
import time
from pathlib import Path

import pytest

from flows.runtime import snapshots
from flows.runtime.job import Job, open_job
from notellm2.notes import versions
from notellm2.recipe import load_recipe
from tests.flows.running import RECIPE


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return written(tmp_path / "data", "first")


@pytest.fixture
def job(tmp_path: Path) -> Job:
    return open_job(load_recipe(RECIPE), tmp_path / "store").model_copy(update={"flow_run": "run-1"})


def written(folder: Path, text: str) -> Path:
    for number in range(20):
        path = folder / "notes" / f"part-{number:05d}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text} {number}")
    (folder / "dataset.json").write_text(text)
    return folder


def test_a_run_keeps_its_version_whatever_comes_in_its_place(data: Path, job: Job, tmp_path: Path) -> None:
    assert snapshots.data_of_run(job) is None
    first = versions.data_md5(data)
    kept, md5 = snapshots.keep(job, data)
    assert (md5, versions.data_md5(kept)) == (first, first)
    versions.place(written(tmp_path / "new", "second"), data)
    assert versions.data_md5(data) != first
    assert snapshots.data_of_run(job) == kept, "the same run, come back, goes on with what it began with"
    assert versions.data_md5(kept) == first
    other = job.model_copy(update={"flow_run": "run-2"})
    assert snapshots.data_of_run(other) is None
    assert snapshots.keep(other, data)[1] != first


def test_no_bytes_are_copied_and_a_second_run_shares_the_version(data: Path, job: Job) -> None:
    kept, _ = snapshots.keep(job, data)
    assert (kept / "dataset.json").stat().st_ino == (data / "dataset.json").stat().st_ino
    again, _ = snapshots.keep(job.model_copy(update={"flow_run": "run-2"}), data)
    assert again == kept
    assert snapshots.keep(job, kept) == (kept, kept.name), "what is kept already is not kept twice"
    assert [p for p in kept.parent.iterdir() if p.name.startswith(".")] == []


def test_where_links_cannot_be_the_files_are_copied(data: Path, job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object, **__: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refused)
    kept, md5 = snapshots.keep(job, data)
    assert versions.data_md5(kept) == md5 == versions.data_md5(data)
    assert (kept / "dataset.json").stat().st_ino != (data / "dataset.json").stat().st_ino


def test_a_run_of_the_command_line_reads_the_data_set_where_it_is(data: Path, job: Job) -> None:
    plain = job.model_copy(update={"flow_run": None})
    assert snapshots.keep(plain, data) == (data, versions.data_md5(data))
    assert snapshots.data_of_run(plain) is None
    assert not (job.root / "_data").exists()


def test_a_version_is_never_a_mixture_of_two(data: Path, job: Job, tmp_path: Path) -> None:
    """While another process replaces the folder all the time, what is kept is one of the versions, whole."""
    sources = [written(tmp_path / name, name) for name in ("one", "two")]
    whole = {versions.data_md5(source) for source in (data, *sources)}
    stop = threading.Event()

    def replace() -> None:
        while not stop.is_set():
            for source in sources:
                versions.place(source, data)

    thread = threading.Thread(target=replace)
    thread.start()
    try:
        found = set()
        for number in range(15):
            try:
                found.add(snapshots.keep(job.model_copy(update={"flow_run": f"run-{number}"}), data)[1])
            except OSError as error:
                assert "replaced 3 times" in str(error)  # noqa: PT017
    finally:
        stop.set()
        thread.join()
    assert found <= whole


def test_what_no_run_reads_any_more_is_forgotten(data: Path, job: Job, tmp_path: Path) -> None:
    kept, _ = snapshots.keep(job, data)
    now = time.time()
    assert snapshots.remove_old(job, 3600, now, dry_run=False) == []
    (kept.parent / ".new-killed").mkdir()
    later = now + 7200
    assert set(snapshots.remove_old(job, 3600, later, dry_run=True)) > {kept}
    assert kept.is_dir()
    snapshots.remove_old(job, 3600, later, dry_run=False)
    assert list(kept.parent.iterdir()) == []
    assert snapshots.data_of_run(job) is None
    assert data.is_dir()


def test_what_a_run_that_has_not_ended_began_with_stays_whatever_its_age(data: Path, job: Job) -> None:
    kept, md5 = snapshots.keep(job, data)
    ended = job.model_copy(update={"flow_run": "another-run"})
    snapshots.keep(ended, data)
    later = time.time() + 7200
    gone = snapshots.remove_old(job, 3600, later, dry_run=False, unfinished=lambda runs: runs & {str(job.flow_run)})
    assert [path.stem for path in gone] == ["another-run"]
    assert snapshots.data_of_run(job) == kept
    assert kept.name == md5


def test_a_version_that_is_gone_is_read_anew(data: Path, job: Job) -> None:
    kept, _ = snapshots.keep(job, data)
    shutil.rmtree(kept)
    assert snapshots.data_of_run(job) is None


def test_a_run_whose_data_was_refused_reads_it_anew_when_it_is_tried_again(data: Path, job: Job) -> None:
    kept, _ = snapshots.keep(job, data)
    snapshots.release(job)
    assert snapshots.data_of_run(job) is None
    assert kept.is_dir(), "another run may read it"
    snapshots.release(job)
    snapshots.release(job.model_copy(update={"flow_run": None}))
