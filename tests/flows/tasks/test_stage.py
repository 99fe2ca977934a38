from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest
from prefect.states import Failed

from flows.handoffs import HandOff
from flows.runtime.job import Job
from flows.tasks import stage
from notellm2.artifacts import Store
from notellm2.errors import InputError
from notellm2.promotion.journal import LeaseTaken
from notellm2.promotion.transaction import ChampionMoved
from notellm2.recipe import load_recipe
from tests.flows.running import RECIPE


@pytest.mark.parametrize(
    ("error", "again"),
    [
        (OSError("the server does not answer"), True),
        (LeaseTaken("another promotion is under way"), True),
        (InputError("no such version"), False),
        (ChampionMoved("there is another champion by now"), False),
    ],
    ids=lambda value: type(value).__name__,
)
def test_only_what_may_end_otherwise_is_tried_again(error: Exception, again: bool) -> None:
    nothing: Any = None
    assert stage._worth_retrying(nothing, nothing, Failed(data=error)) is again


@pytest.mark.parametrize("named", [True, False])
def test_a_full_disk_is_told_with_stage_folder_and_what_the_stage_takes(tmp_path: Path, named: bool) -> None:
    def write(folder: Path) -> None:
        (folder / "both.npy").write_bytes(b"0" * 20_000_000)

    Store(tmp_path).build("vectors", 1, {}, {}, write)
    target = tmp_path / "vectors" / "new" / "both.npy"

    @stage.stage("vectors", timeout_s=stage.HOUR)
    def embed(_job: Job) -> HandOff:
        raise OSError(errno.ENOSPC, "No space left on device", str(target) if named else None)

    with pytest.raises(OSError, match="No space left on device: stage vectors, disk of") as full:
        embed.fn(Job(recipe=load_recipe(RECIPE), root=tmp_path))
    assert full.value.errno == errno.ENOSPC
    said = str(full.value)
    assert f"disk of {tmp_path}" in said
    assert "GB are free; its largest artifact so far takes 0.02 GB; make room" in said
    assert (str(target) in said) is named


def test_another_error_of_a_disk_stays_as_it_is(tmp_path: Path) -> None:
    @stage.stage("vectors", timeout_s=stage.HOUR)
    def embed(_job: Job) -> HandOff:
        raise PermissionError(errno.EACCES, "Permission denied", "x")

    with pytest.raises(PermissionError, match="Permission denied: 'x'"):
        embed.fn(Job(recipe=load_recipe(RECIPE), root=tmp_path))
