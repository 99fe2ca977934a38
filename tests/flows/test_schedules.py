"""What a schedule finds before the first export and the first promotion: nothing to do yet, which is no failure."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prefect.client.schemas.objects import State
from prefect.logging import disable_run_logger

from flows.ingest import ingest
from flows.parameters import IngestSettings, RefreshSettings
from flows.refresh_index import refresh_index
from notellm2.errors import InputError
from tests.flows.running import RECIPE


@pytest.fixture
def scheduled(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As in a run of a deployment."""
    monkeypatch.setattr("prefect.runtime.deployment.get_id", lambda: "a-deployment")
    with disable_run_logger():
        yield


def refreshed(folder: Path) -> Any:
    return refresh_index.fn(RefreshSettings(store=str(folder / "store"), data=str(folder / "exports" / "latest")))


def skipped(outcome: Any) -> str:
    assert isinstance(outcome, State)
    assert (outcome.name, outcome.is_completed()) == ("Skipped", True)
    return str(outcome.message)


def test_an_hourly_refresh_waits_for_the_first_export_and_the_first_promotion(scheduled: None, tmp_path: Path) -> None:
    assert skipped(refreshed(tmp_path)) == f"{tmp_path}/exports/latest: no export here yet"
    (tmp_path / "exports" / "latest").mkdir(parents=True)
    assert "nothing" in skipped(refreshed(tmp_path)).lower()


def test_a_nightly_ingest_waits_for_the_first_export(scheduled: None, tmp_path: Path) -> None:
    settings = IngestSettings(recipe=str(RECIPE), store=str(tmp_path / "store"), data=str(tmp_path / "latest"))
    assert skipped(ingest.fn(settings)) == f"{tmp_path}/latest: no export here yet"
    assert not (tmp_path / "store").exists()


def test_at_a_terminal_it_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "exports" / "latest").mkdir(parents=True)
    with pytest.raises(InputError, match="published"):
        refreshed(tmp_path)
