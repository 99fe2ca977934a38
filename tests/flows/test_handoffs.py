"""A type checker finds what would be a wrong figure in production: two stages' outputs in the wrong order."""

from __future__ import annotations

from pathlib import Path

import pytest
from mypy import api

from flows import handoffs
from tests.conftest import ROOT

CALLS = """
from flows.handoffs import Backbones, Canary, Candidate, Features, Incumbent, Mined
from flows.runtime.job import Job
from flows.tasks.gate import judge_candidate
from flows.tasks.training import train_model


def right(job: Job, candidate: Candidate, incumbent: Incumbent, canary: Canary) -> None:
    judge_candidate(job, candidate, incumbent, canary)


def swapped(job: Job, candidate: Candidate, incumbent: Incumbent, canary: Canary) -> None:
    judge_candidate(job, candidate, canary, incumbent)


def features_first(job: Job, mined: Mined, backbones: Backbones, features: Features) -> None:
    train_model(job, mined, features, backbones)
"""


def test_swapped_arguments_of_a_task_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    planted = tmp_path / "planted.py"
    planted.write_text(CALLS)
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("MYPYPATH", f"{ROOT}:{ROOT / 'src'}")
    # With the project's settings and cache; imported modules are read for their types, and only this file is judged.
    output, errors, status = api.run(["--follow-imports=silent", str(planted)])
    assert errors == ""
    assert status == 1
    problems = [line.split(": error: ")[1] for line in output.splitlines() if ": error: " in line]
    assert [problem.partition(";")[0] for problem in problems] == [
        'Argument 3 to "__call__" of "Task" has incompatible type "Canary"',
        'Argument 4 to "__call__" of "Task" has incompatible type "Incumbent"',
        'Argument 3 to "__call__" of "Task" has incompatible type "Features"',
        'Argument 4 to "__call__" of "Task" has incompatible type "Backbones"',
    ]


def test_no_two_stages_share_a_type() -> None:
    """A hand-off is frozen and takes no field that it does not name."""
    kinds = [one for one in vars(handoffs).values() if isinstance(one, type) and issubclass(one, handoffs.HandOff)]
    assert len(kinds) > 20
    for kind in kinds:
        assert kind.model_config["frozen"] is True
        assert kind.model_config["extra"] == "forbid"
