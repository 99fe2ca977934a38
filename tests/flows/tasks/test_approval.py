"""Who decides: the flow, nobody yet, or a person in Prefect's pages."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flows.handoffs import Decision, Judged, Registered, Report
from flows.runtime.events import LOG_VARIABLE
from flows.runtime.job import Job
from flows.tasks.promotion import promoter
from notellm2.artifacts import Artifact
from notellm2.promotion.ledger import Ledger
from notellm2.promotion.release import Why
from notellm2.publication.opening import open_location
from notellm2.recipe import load_recipe
from notellm2.registry.decisions import Rule, Verdict
from tests.flows.running import RECIPE

PATIENCE_S = 300.0
"""How long a person waits for the question: a machine may be busy with other work."""

JUDGED = Judged(
    verdict=Verdict(
        passed=True,
        sentence="version 3 passes all required rules",
        rules=(
            Rule(name="canary", passed=True, detail="the canary: passed"),
            Rule(name="both-inputs-text", passed=False, required=False, detail="R@10 0.3 | 0.4"),
        ),
    ),
    champion="2",
    rolled_back=False,
    in_use=False,
)


def job(tmp_path: Path, *overrides: str) -> Job:
    return Job(recipe=load_recipe(RECIPE, overrides), root=tmp_path)


def decided(tmp_path: Path, *overrides: str, **judged: Any) -> Decision:
    from flows.tasks.approval import decide

    registered = Registered(model="notellm2", version="3", bundle="b" * 20, page="http://mlflow/3")
    report = Report(artifact=Artifact("report", "0" * 20, tmp_path))
    return decide(job(tmp_path, *overrides), registered, JUDGED.model_copy(update=judged), report)


def refused(sentence: str = "version 3 is refused by 1 of 15 rules") -> Verdict:
    return JUDGED.verdict.model_copy(update={"passed": False, "sentence": sentence})


def test_automatic_promotes_what_passed(tmp_path: Path) -> None:
    assert decided(tmp_path).promote is True
    assert decided(tmp_path).reason == JUDGED.verdict.sentence
    decision = decided(tmp_path, verdict=refused())
    assert (decision.promote, decision.reason) == (False, "version 3 is refused by 1 of 15 rules")


def test_automatic_never_brings_back_what_a_person_took_out_of_use(tmp_path: Path) -> None:
    decision = decided(tmp_path, rolled_back=True)
    assert decision.promote is False
    assert "version 3 was rolled back; if it is right now: notellm2 promote 3" in decision.reason


@pytest.mark.parametrize("mode", ["manual", "approval"])
def test_what_is_in_use_already_asks_nobody_again(tmp_path: Path, mode: str) -> None:
    assert decided(tmp_path, f"gate.mode={mode}", in_use=True).promote is True
    assert decided(tmp_path, f"gate.mode={mode}", verdict=refused()).promote is False


def lines(tmp_path: Path) -> list[tuple[str, str | None, str]]:
    """The ledger, in short: action, version, who."""
    entries = Ledger(open_location(tmp_path / "_published")).entries()
    return [(entry.action, entry.to.version, entry.by) for entry in entries]


def emitted(log: Path) -> list[str]:
    return [json.loads(line)["event"] for line in log.read_text().splitlines()]


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "events.jsonl"
    monkeypatch.setenv(LOG_VARIABLE, str(path))
    return path


def test_manual_leaves_it_to_a_person_and_says_so_once(tmp_path: Path, log: Path) -> None:
    for _ in range(2):
        waiting = decided(tmp_path, "gate.mode=manual")
        assert (waiting.promote, waiting.reason) == (False, "it waits for a person: notellm2 promote 3")
    assert lines(tmp_path) == [("wait", "3", "flow run without a name")]
    (line,) = log.read_text().splitlines()
    said = json.loads(line)
    assert (said["event"], said["version"], said["link"]) == ("notellm2.model.waiting", "3", "http://mlflow/3")
    decided(tmp_path, "gate.mode=manual", champion="4")
    assert len(lines(tmp_path)) == 2, "compared with another champion it is another question"


@pytest.mark.parametrize("mode", ["automatic", "approval", "manual"])
def test_what_a_person_refused_is_neither_promoted_nor_asked_again(tmp_path: Path, mode: str) -> None:
    from notellm2.promotion.waiting import Notice, record

    record(promoter(job(tmp_path)), "refuse", Notice("3", "b" * 20), Why(by="Kim", reason="a Friday", mode="manual"))
    found = decided(tmp_path, f"gate.mode={mode}")
    assert found.promote is False
    assert found.reason.startswith("Kim refused it on 20")
    assert found.reason.endswith("a Friday; if it is right now: notellm2 promote 3")


def test_a_run_that_comes_back_does_not_say_again_that_it_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flows.tasks import approval

    said: list[str] = []
    monkeypatch.setattr(approval.show, "waiting", lambda version, _: said.append(version))
    monkeypatch.setattr(approval.deployment, "get_id", lambda: "deployment")
    answer = approval.Approval(decision="approve", name="kim")
    monkeypatch.setattr(approval, "suspend_flow_run", lambda **_: answer)
    assert decided(tmp_path, "gate.mode=approval").by == "kim"
    assert decided(tmp_path, "gate.mode=approval").by == "kim"
    assert said == ["3"]


@pytest.fixture(scope="module")
def prefect() -> Iterator[None]:
    from prefect.testing.utilities import prefect_test_harness

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
        with prefect_test_harness(server_startup_timeout=120):
            yield


def in_a_flow(tmp_path: Path, *overrides: str) -> Decision:
    from prefect import flow

    @flow(persist_result=False)
    def deciding() -> Decision:
        return decided(tmp_path, "gate.mode=approval", *overrides)

    decision: Decision = deciding()
    return decision


def answering(given: dict[str, Any], seen: list[Any]) -> threading.Thread:
    """A person who waits for the question, reads it, and answers."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterState, FlowRunFilterStateType
    from prefect.client.schemas.objects import StateType
    from prefect.flow_runs import resume_flow_run

    paused = FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.PAUSED])))

    def answer() -> None:
        with get_client(sync_client=True) as client:
            deadline = time.monotonic() + PATIENCE_S
            while time.monotonic() < deadline:
                runs = client.read_flow_runs(flow_run_filter=paused)
                if runs and runs[0].state.state_details.run_input_keyset:
                    keyset = runs[0].state.state_details.run_input_keyset
                    try:
                        seen.append(json.loads(client.read_flow_run_input(runs[0].id, keyset["description"])))
                    except Exception:  # the run is paused a moment before its question is there
                        continue
                    resume_flow_run(runs[0].id, run_input=given)
                    return

    return threading.Thread(target=answer, daemon=True)


@pytest.mark.parametrize(
    ("given", "promoted", "reason"),
    [
        ({"decision": "approve", "name": "Kim", "reason": "reads well"}, True, "reads well"),
        ({"decision": "approve", "name": "Kim"}, True, "approved in Prefect"),
        ({"decision": "refuse", "name": "Kim", "reason": "not on a Friday"}, False, "refused by Kim: not on a Friday"),
    ],
)
def test_a_person_decides_with_the_verdict_before_them(
    tmp_path: Path,
    prefect: None,
    monkeypatch: pytest.MonkeyPatch,
    log: Path,
    given: dict[str, Any],
    promoted: bool,
    reason: str,
) -> None:
    from flows.tasks import approval

    monkeypatch.setattr(approval, "POLL_S", 1)
    seen: list[Any] = []
    person = answering(given, seen)
    person.start()
    found = in_a_flow(tmp_path)
    person.join(timeout=60)
    assert found == Decision(promote=promoted, by="Kim", reason=reason)
    told = [] if promoted else [("notellm2.model.refused", ("refuse", "3", "Kim"))]
    assert emitted(log) == ["notellm2.approval.waiting", *(event for event, _ in told)]
    assert lines(tmp_path)[1:] == [line for _, line in told]
    (question,) = seen
    for told in ("Promote version 3 over version 2?", JUDGED.verdict.sentence, r"R@10 0.3 \| 0.4", "report.html"):
        assert told in question


def test_nobody_in_time_is_heard_and_the_same_command_asks_again(tmp_path: Path, prefect: None, log: Path) -> None:
    from flows.tasks.approval import NotApproved

    for _ in range(2):
        with pytest.raises(NotApproved, match="nobody approved it within 1 s"):
            in_a_flow(tmp_path, "gate.approval_timeout_s=1")
    assert emitted(log) == ["notellm2.approval.waiting", "notellm2.approval.expired"] * 2
    assert [action for action, _, _ in lines(tmp_path)] == ["wait", "expire"] * 2


@pytest.mark.parametrize("champion", ["2", None], ids=["over-a-champion", "the-first"])
def test_a_run_of_a_deployment_is_suspended_and_comes_back_with_the_answer(
    tmp_path: Path, prefect: None, champion: str | None
) -> None:
    from prefect import flow
    from prefect.client.orchestration import get_client
    from prefect.exceptions import Pause
    from prefect.flow_engine import run_flow
    from prefect.flow_runs import resume_flow_run

    begun: list[str] = []

    @flow(persist_result=False)
    def deployed() -> Decision:
        begun.append("from the start")
        return decided(tmp_path, "gate.mode=approval", champion=champion)

    with get_client(sync_client=True) as client:
        deployment = client.create_deployment(flow_id=client.create_flow(deployed), name=f"nightly-{champion}")
        run = client.create_flow_run_from_deployment(deployment)
        with pytest.raises(Pause):
            run_flow(deployed, flow_run=run)
        suspended = client.read_flow_run(run.id).state
        assert suspended is not None
        assert suspended.is_paused()
        assert begun == ["from the start"], "its process is free to end"
        resume_flow_run(run.id, run_input={"decision": "approve", "name": "Kim", "reason": "reads well"})
        again = client.read_flow_run(run.id)
        assert again.state is not None
        assert again.state.is_scheduled()
        found = run_flow(deployed, flow_run=again)
    assert found == Decision(promote=True, by="Kim", reason="reads well")
    assert len(begun) == 2
