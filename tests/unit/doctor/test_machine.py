"""Versions, threads, accelerator and clock, each with a world in which it is wrong."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from notellm2.artifacts import Store
from notellm2.doctor import machine
from notellm2.recipe import Recipe
from notellm2.workspace import Workspace


def test_packages_are_compared_with_their_bounds(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    wanted = ["numpy>=2.1", "torch>=2.6,<3", "duckdb>=1.4", 'boto3>=1.36; extra == "s3"']
    there = {"numpy": "1.26", "torch": "2.13.0+cpu"}
    monkeypatch.setattr(machine, "requires", lambda name: wanted)
    monkeypatch.setattr(machine, "_version", there.get)
    (check,) = machine.check_versions(tmp_path / "none.txt")
    assert check.line() == (
        "failed   packages: numpy 1.26, wanted >=2.1, duckdb is missing, wanted >=1.4; "
        "`pip install -c constraints.txt -e .`"
    )


def test_versions_that_were_not_tested_together_are_a_warning(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(machine, "requires", lambda name: ["numpy>=2.1", "Pillow>=11"])
    monkeypatch.setattr(machine, "_version", {"numpy": "2.5", "pillow": "12.0", "scipy": "0.1"}.get)
    (tmp_path / "constraints.txt").write_text("# tested==1\nnumpy==2.4.6\npillow==12.0\nscipy==1.14\n")
    monkeypatch.setattr(machine, "_version", {"numpy": "2.5", "pillow": "12.0", "Pillow": "12.0", "scipy": "0.1"}.get)
    bounds, tested = machine.check_versions(tmp_path / "constraints.txt")
    assert bounds.status == "ok"
    assert (tested.status, tested.found) == ("warning", "numpy 2.5, tested==2.4.6")


def test_this_installation_is_within_its_bounds() -> None:
    assert machine.check_versions(Path("none.txt"))[0].status == "ok"


def test_torch_is_asked_in_a_process_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_PROBE", 'print(\'{"torch": "2.0", "threads": 1, "cuda": ["H100"]}\')')
    threads, accelerator = machine.check_compute()
    assert "1 threads" in threads.found
    assert (accelerator.status, accelerator.found) == ("ok", "H100")
    monkeypatch.setattr(machine, "_PROBE", "raise OSError('libgomp: cannot allocate')")
    (broken,) = machine.check_compute()
    assert (broken.status, broken.found) == ("failed", "cannot be imported: OSError: libgomp: cannot allocate")


@pytest.mark.parametrize(
    ("environment", "load", "count", "said"),
    [
        ({"OMP_WAIT_POLICY": "ACTIVE"}, 0.0, 1, "unset OMP_WAIT_POLICY"),
        ({"OMP_WAIT_POLICY": "PASSIVE"}, 0.0, 64, "set OMP_NUM_THREADS=2"),
        ({"OMP_WAIT_POLICY": "PASSIVE"}, 7.5, 2, "other work already keeps 7.5 of 2 core(s) busy"),
        ({"OMP_WAIT_POLICY": "PASSIVE"}, 0.5, 2, ""),
    ],
)
def test_threads_that_hinder_each_other_are_a_warning(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], load: float, count: int, said: str
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1})
    monkeypatch.setattr(os, "getloadavg", lambda: (load, load, load))
    check = machine._threads(count, environment)
    assert check.status == ("warning" if said else "ok")
    assert said in check.line()


def test_four_bits_without_an_accelerator_are_a_warning() -> None:
    recipe = Recipe.model_validate({"name": "r", "model": {"base_weights": "nf4"}})
    found = {"torch": "2", "threads": 1, "cuda": []}
    assert machine._accelerator(found, recipe).status == "warning"
    assert machine._accelerator(found, None).status == "ok"


def test_a_clock_that_is_wrong_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    artifact = Store(tmp_path).build("a", 1, {}, {}, lambda into: {})
    assert machine.check_clock(Workspace.at(tmp_path)).status == "ok"
    later = time.time() + 3600
    os.utime(artifact.path / "manifest.json", (later, later))
    check = machine.check_clock(Workspace.at(tmp_path))
    assert check.status == "warning"
    assert "files of 3600 s later" in check.found or "files of 3599 s later" in check.found
    monkeypatch.setattr(time, "time", lambda: 1_000_000.0)
    assert machine.check_clock(Workspace.at(tmp_path / "new")).status == "failed"
