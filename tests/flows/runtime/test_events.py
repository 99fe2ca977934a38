from __future__ import annotations

import json
import logging
import time
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from prefect.events.clients import AssertingEventsClient
from prefect.events.worker import EventsWorker
from prefect.settings import PREFECT_API_URL, temporary_settings

from flows.runtime import events
from flows.runtime.events import Event, emit, emit_changes, emit_failure, emit_once
from flows.runtime.job import Job, open_job
from notellm2.recipe import load_recipe
from notellm2.registry.decisions import Entry, Pair
from tests.flows.running import RECIPE


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "events.jsonl"
    monkeypatch.setenv(events.LOG_VARIABLE, str(path))
    return path


@pytest.fixture
def job(tmp_path: Path) -> Job:
    return open_job(load_recipe(RECIPE), tmp_path / "store")


@pytest.fixture
def sent() -> Iterator[list[AssertingEventsClient]]:
    """A server that the user names, and what is sent there."""
    AssertingEventsClient.reset()
    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}):
        EventsWorker.set_client_override(AssertingEventsClient)
        yield AssertingEventsClient.all
        EventsWorker.set_client_override(None)
    EventsWorker.drain_all()


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def entry(number: int, action: Any, age: timedelta = timedelta(hours=1)) -> Entry:
    at = (datetime.now(UTC) - age).isoformat()
    pair = Pair(version=str(number), publication=f"v{number}-x")
    return Entry(
        sequence=number, id=f"change-{number}", at=at, action=action, model="notellm2",
        to=pair, over=Pair(version="1", publication="v1-x"), bundle="b", compared_with=None,
        mode="manual", by="kim", reason="why",
    )  # fmt: skip


def test_a_line_of_json_and_a_log_record(log: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="notellm2.events"):
        emit(
            Event.GATE_REFUSED,
            "model",
            "notellm2",
            {"version": "3", "verdict": "refused — by 1 rule", "champion": None},
        )
        emit(Event.PROMOTED, "model", "notellm2", {"version": "4"}, related={"data": "notellm2.data.posts"})
    refused, promoted = lines(log)
    assert (refused["event"], refused["resource"]) == ("notellm2.gate.refused", "notellm2.model.notellm2")
    assert refused["verdict"] == "refused — by 1 rule"
    assert "champion" not in refused, "what is not known is left out"
    assert promoted["related"] == {"data": "notellm2.data.posts"}
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]
    assert [json.loads(record.message) for record in caplog.records] == [refused, promoted]


def test_standard_output(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv(events.LOG_VARIABLE, "-")
    emit(Event.DATA_VERSION, "data", "posts", {"data_md5": "a.dir"})
    assert json.loads(capsys.readouterr().out)["data_md5"] == "a.dir"


def test_prefect_gets_the_same(sent: list[AssertingEventsClient], log: Path) -> None:
    number = uuid.uuid4()
    emit(
        Event.DATA_VERSION, "data", "posts", {"data_md5": "a.dir"}, related={"model": "notellm2.model.m"}, number=number
    )
    EventsWorker.instance().wait_until_empty()
    (event,) = [event for client in sent for event in client.events]
    assert (event.event, event.id, event.resource.id) == ("notellm2.data.version", number, "notellm2.data.posts")
    assert {key: value for key, value in event.payload.items() if key != "time"} == {"data_md5": "a.dir"}
    assert str(event.payload["time"]).endswith(" UTC"), "an alert may arrive late: it says when it was"
    assert [(one.role, one.id) for one in event.related] == [("model", "notellm2.model.m")]
    assert lines(log)[0]["id"] == str(number)


def test_the_embedded_server_is_not_asked(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import prefect.events

    def refused(**_: Any) -> None:
        raise AssertionError("an event was sent")

    monkeypatch.setattr(prefect.events, "emit_event", refused)
    with temporary_settings(restore_defaults={PREFECT_API_URL}):
        emit(Event.MODEL_STALE, "model", "notellm2", {})
    assert len(lines(log)) == 1


def test_once_is_once_for_a_run_that_comes_back(job: Job, log: Path) -> None:
    assert emit_once(job, ["approve-version-3", "run-1"], Event.APPROVAL_WAITING, "model", "notellm2", {"version": "3"})
    assert not emit_once(job, ["approve-version-3", "run-1"], Event.APPROVAL_WAITING, "model", "notellm2", {})
    assert emit_once(job, ["approve-version-3", "run-2"], Event.APPROVAL_WAITING, "model", "notellm2", {})
    assert len(lines(log)) == 2
    assert events.remove_old_marks(job, 60, time.time(), dry_run=False) == []
    assert len(events.remove_old_marks(job, 60, time.time() + 120, dry_run=False)) == 2
    assert emit_once(job, ["approve-version-3", "run-1"], Event.APPROVAL_WAITING, "model", "notellm2", {})


def test_what_could_not_be_told_is_told_by_the_next_try(job: Job, log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as broken:
        broken.setenv(events.LOG_VARIABLE, str(log.parent / "no such folder" / "events.jsonl"))
        with pytest.raises(FileNotFoundError):
            emit_once(job, ["data", "1"], Event.DATA_VERSION, "data", "posts", {})
    assert emit_once(job, ["data", "1"], Event.DATA_VERSION, "data", "posts", {})
    assert len(lines(log)) == 1


def test_changes_at_a_terminal_are_told_by_the_next_flow_that_looks(job: Job, log: Path) -> None:
    old = entry(1, "promote", age=timedelta(days=30))
    ledger = [old, entry(2, "promote"), entry(3, "rollback")]
    emit_changes(job, ledger)
    emit_changes(job, [*ledger, entry(4, "refresh"), entry(5, "mend")])
    assert [(line["event"], line["version"]) for line in lines(log)] == [
        ("notellm2.model.promoted", "2"),
        ("notellm2.model.rolled-back", "3"),
        ("notellm2.index.refreshed", "4"),
        ("notellm2.model.mended", "5"),
    ]
    assert (lines(log)[1]["by"], lines(log)[1]["over"], lines(log)[1]["ledger"]) == ("kim", "1", 3)


def test_a_failed_flow_is_told_with_its_cause(log: Path) -> None:
    from prefect.client.schemas.objects import FlowRun
    from prefect.states import Failed

    from flows.refresh_index import refresh_index

    run = FlowRun(flow_id=uuid.uuid4(), name="refresh", parameters={"settings": {"recipe": "recipes/team.yaml"}})
    emit_failure(refresh_index, run, Failed(message="InputError: data/: no data set here " + "x" * 5000))
    (line,) = lines(log)
    assert (line["event"], line["resource"]) == ("notellm2.refresh-index.failed", "notellm2.flow.refresh-index")
    assert (line["recipe"], line["run_name"]) == ("recipes/team.yaml", "refresh")
    assert line["message"].startswith("InputError: data/: no data set here")
    assert len(line["message"]) <= 2000


def test_a_failure_that_an_event_has_told_is_no_second_alert(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from prefect.client.schemas.objects import FlowRun
    from prefect.runtime import flow_run
    from prefect.states import Failed

    from flows.refresh_index import refresh_index

    explained, another = (FlowRun(flow_id=uuid.uuid4(), name=name) for name in ("a", "b"))
    monkeypatch.setattr(flow_run, "get_id", lambda: str(explained.id), raising=False)
    events.explains_failure()
    for run in (explained, another):
        emit_failure(refresh_index, run, Failed(message="DataRefused: no notes"))
    assert [line["run_name"] for line in lines(log)] == ["b"]
