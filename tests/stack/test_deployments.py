"""The deployments on the real stack: deployed, started by an event and by the clock, killed, approved, told of.

A project of its own with the tiny recipe stands in for the checkout; everything else is as in production: the worker's
process, PostgreSQL behind Prefect, MLflow as the trainer and the promoter, the published place on S3.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from uuid import UUID

import psutil
import pytest
import yaml
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterDeploymentId
from prefect.client.schemas.objects import FlowRun
from prefect.client.schemas.schedules import IntervalSchedule
from prefect.flow_runs import resume_flow_run
from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings

from notellm2.artifacts import Store
from notellm2.notes.versions import data_md5, status
from notellm2.recipe import SampleConfig
from notellm2.sample.generate import write_sample
from tests.conftest import ROOT
from tests.flows.running import RECIPE
from tests.stack.conftest import RunningStack

PATIENCE_S = 240.0
SILENT_S = 60
ANSWER = {"decision": "approve", "name": "Kim", "reason": "reads well"}


def wait_until(holds: Callable[[], Any], what: str) -> Any:
    """What `holds` says once it is true of the servers; asked twice a second."""
    deadline = time.monotonic() + PATIENCE_S
    while not (found := holds()):
        assert time.monotonic() < deadline, f"not within {PATIENCE_S:.0f} s: {what}"
        time.sleep(0.5)
    return found


@contextmanager
def listening() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """A webhook's other end: its address, and what was posted there."""
    posted: list[dict[str, Any]] = []

    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            posted.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/planted-in-the-address", posted
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@dataclass
class Team:
    """A deployed project."""

    stack: RunningStack
    home: Path
    client: SyncPrefectClient
    hook: str
    posted: list[dict[str, Any]] = field(default_factory=list)

    @property
    def store(self) -> Path:
        return self.home / "store"

    def deploy(self) -> str:
        environment = {**self.stack.env("trainer"), "NOTELLM2_ALERT_WEBHOOK_URL": self.hook}
        done = subprocess.run(
            [sys.executable, "-m", "notellm2", "deploy"],
            cwd=self.home, env=environment, capture_output=True, text=True, timeout=300, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-4000:]
        return done.stdout

    def deployment(self, name: str) -> UUID:
        return self.client.read_deployment_by_name(name).id

    def runs(self, name: str) -> list[FlowRun]:
        of = FlowRunFilter(deployment_id=FlowRunFilterDeploymentId(any_=[self.deployment(name)]))
        return self.client.read_flow_runs(flow_run_filter=of)

    def state(self, run: UUID) -> str:
        found = self.client.read_flow_run(run).state
        return "" if found is None else found.name

    def wait_for(self, run: UUID, *states: str) -> None:
        bad = {"Failed", "Cancelled"} - set(states)

        def there() -> bool:
            found = self.state(run)
            assert found not in bad, (found, self.client.read_flow_run(run).state, self.stack.log("worker")[-4000:])
            return found in states

        wait_until(there, f"run {run} is {' or '.join(states)}, it is {self.state(run)}")

    def history(self, run: UUID) -> list[str]:
        return [str(state.name) for state in self.client.read_flow_run_states(run)]


def project(home: Path) -> None:
    """A checkout with the tiny recipe, no schedules (a test must not meet the full hour), and a short silence."""
    (home / "recipes").mkdir(parents=True)
    (home / "flows").symlink_to(ROOT / "flows")
    shutil.copytree(ROOT / "deploy", home / "deploy")
    tree = yaml.safe_load(RECIPE.read_text())
    tree |= {"name": "team", "alerts": {"notify": ["webhook/notellm2"]}}
    # A dozen steps lose to nobody's champion, should another test have made one.
    tree["gate"] |= {"mode": "approval", "max_drop": 1.0}
    (home / "recipes" / "team.yaml").write_text(yaml.safe_dump(tree))
    deployments = yaml.safe_load((ROOT / "prefect.yaml").read_text())
    for one in deployments["deployments"]:
        one["schedules"][0]["active"] = False
        env = one["work_pool"]["job_variables"]["env"]
        one["work_pool"]["job_variables"]["env"] = {**env, "NOTELLM2_HOME": str(home), "OMP_NUM_THREADS": "1"}
    (home / "prefect.yaml").write_text(yaml.safe_dump(deployments))
    path = home / "deploy" / "automations.yaml"
    automations = yaml.safe_load(path.read_text())
    for one in automations["automations"]:
        if one["name"] == "notellm2: silent run":
            one["trigger"]["within"] = SILENT_S
    path.write_text(yaml.safe_dump(automations))
    write_sample(home / "exports" / "latest", SampleConfig(notes=150, users=200))


@pytest.fixture(scope="module")
def team(stack: RunningStack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Team]:
    home = tmp_path_factory.mktemp("team") / "project"
    project(home)
    secret = stack.settings.variables["PREFECT_AUTH"]
    servers = {PREFECT_API_URL: stack.prefect_url, PREFECT_API_AUTH_STRING: secret}
    with listening() as (hook, posted), temporary_settings(servers), get_client(sync_client=True) as client:
        made = Team(stack, home, client, hook, posted)
        made.deploy()
        yield made
    done = subprocess.run(
        [sys.executable, "-m", "notellm2", "deploy"],
        cwd=ROOT,
        env=stack.env("trainer"),
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, "the deployments are as they were"


@dataclass(frozen=True)
class Story:
    """What happened between a new export and a promoted model."""

    run: UUID
    made_before_the_kill: dict[Path, int]


def finished(store: Path) -> dict[Path, int]:
    return {a.path: (a.path / "manifest.json").stat().st_mtime_ns for a in Store(store).artifacts()}


@pytest.fixture(scope="module")
def story(team: Team) -> Story:
    """New data → a retraining starts by itself → its worker is killed → it is taken up again → a person approves."""
    ingest = team.client.create_flow_run_from_deployment(team.deployment("ingest/ingest"))
    team.wait_for(ingest.id, "Completed")
    there = set(finished(team.store))
    run = wait_until(lambda: team.runs("retrain/retrain"), "the event has started a retraining")[0].id
    wait_until(lambda: backbones(team.store) - there, "backbones are made")
    worker = psutil.Process(team.stack.pid("worker"))
    for process in [worker, *worker.children(recursive=True)]:
        process.kill()
    before = finished(team.store)
    assert team.state(run) == "Running", "nobody has told Prefect"
    team.wait_for(run, "Suspended")
    resume_flow_run(run, run_input=ANSWER)
    team.wait_for(run, "Completed")
    return Story(run, {path: before[path] for path in set(before) - there})


def backbones(store: Path) -> set[Path]:
    return {path for path in finished(store) if path.parent.name == "backbones"}


def test_new_data_starts_a_retraining_of_that_very_version(team: Team, story: Story) -> None:
    (run,) = team.runs("retrain/retrain")
    assert run.created_by is not None
    assert run.created_by.type == "AUTOMATION"
    version = data_md5(team.home / "data")
    assert status(team.home / "data").clean, "recorded with DVC"
    artifact = next(a for a in Store(team.store).artifacts() if a.path in story.made_before_the_kill)
    assert artifact.manifest["provenance"]["data_md5"] == version


def test_a_killed_worker_is_noticed_and_its_run_goes_on_where_it_was(team: Team, story: Story) -> None:
    told = team.history(story.run)
    crashed = told.index("Crashed")
    assert told[crashed - 1] == "Running"
    assert told[crashed + 1] == "AwaitingRetry"
    assert told[-1] == "Completed"
    assert {path.parent.name for path in story.made_before_the_kill} >= {"pairs", "backbones"}
    now = finished(team.store)
    assert {path: now[path] for path in story.made_before_the_kill} == story.made_before_the_kill, (
        "nothing is done twice"
    )


def test_what_a_person_approved_is_champion_and_published_on_s3(team: Team, story: Story) -> None:
    code = """
import json, os
from pathlib import Path
from notellm2.publication import Published
from notellm2.registry import versions
from notellm2.promotion.ledger import Ledger
from notellm2.publication.location import Location
from notellm2.publication.opening import open_location
from notellm2.registry.tracking import Tracking
from notellm2.workspace import Workspace

champion = versions.champion(Tracking.at(Workspace.at(Path(os.environ["STORE"]))))
place = os.environ["NOTELLM2_PUBLISHED"]
entry = Ledger(open_location(place)).entries()[-1]
with Published(place) as published:
    found = published.current.publication
    similar = published.similar("n00004", k=5)
print(json.dumps([champion.version, found.model_version, found.count, len(similar), entry.by, entry.mode, place]))
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**team.stack.env("reader"), "STORE": str(team.store)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    champion, published, count, similar, by, mode, place = json.loads(done.stdout)
    assert champion == published
    assert (count, similar, by, mode) == (150, 5, "Kim", "approval")
    assert place.startswith("s3://")


def test_alerts_reach_the_webhook(team: Team, story: Story) -> None:
    wanted = {"notellm2.approval.waiting", "prefect.flow-run.Crashed", "notellm2.model.promoted"}
    wait_until(lambda: wanted <= {one["event"] for one in team.posted}, f"of {wanted}, {team.posted} came")
    waiting = [one for one in team.posted if one["event"] == "notellm2.approval.waiting"]
    assert len(waiting) == 1, "a run that comes back with the answer does not ask again"
    assert str(story.run) in waiting[0]["text"]
    (promoted,) = [one for one in team.posted if one["event"] == "notellm2.model.promoted"]
    assert "by Kim: reads well" in promoted["text"]


def test_a_scheduled_retraining_runs_by_itself_and_does_nothing_twice(team: Team, story: Story) -> None:
    before, known = finished(team.store), {run.id for run in team.runs("retrain/retrain")}
    # The server looks for schedules once a minute: some time within the next two comes up, whenever it looks.
    often = IntervalSchedule(interval=timedelta(seconds=45), anchor_date=datetime.now(UTC))
    (made,) = team.client.create_deployment_schedules(team.deployment("retrain/retrain"), [(often, True)])

    def begun() -> FlowRun | None:
        new = [run for run in team.runs("retrain/retrain") if run.id not in known]
        return next((run for run in new if run.state and not run.state.is_scheduled()), None)

    run = wait_until(begun, "a scheduled run has begun")
    team.client.delete_deployment_schedule(team.deployment("retrain/retrain"), made.id)
    team.wait_for(run.id, "Completed")
    assert run.auto_scheduled
    assert finished(team.store) == before
    assert "Suspended" not in team.history(run.id), "the version in use asks nobody again"


def test_a_wrong_recipe_is_a_clear_error_before_any_work(team: Team) -> None:
    settings = {"settings": {"recipe": "recipes/nowhere.yaml"}}
    run = team.client.create_flow_run_from_deployment(team.deployment("retrain/retrain"), parameters=settings)
    team.wait_for(run.id, "Failed")
    found = team.client.read_flow_run(run.id).state
    assert found is not None
    assert "recipe recipes/nowhere.yaml: no such file" in str(found.message)
    told = "notellm2.retrain.failed"
    wait_until(lambda: any(one["event"] == told for one in team.posted), f"{told} came to the webhook")


def test_a_cleanup_by_the_worker_leaves_what_is_in_use(team: Team, story: Story) -> None:
    before = finished(team.store)
    run = team.client.create_flow_run_from_deployment(team.deployment("cleanup/cleanup"))
    team.wait_for(run.id, "Completed")
    assert finished(team.store) == before
    log = team.stack.log("worker")
    for told in ("artifacts: 0 folder(s)", "flow runs: 0", "MLflow: nothing, as mlflow_days is empty", "days old"):
        assert told in log


def test_old_runs_go_by_an_administrator_and_not_by_a_trainer(team: Team, story: Story) -> None:
    code = """
import os, sys
from pathlib import Path
from notellm2.errors import InputError
from notellm2.registry.tracking import Tracking
from notellm2.promotion.retention import expire, purge
from notellm2.workspace import Workspace

workspace = Workspace.at(Path(os.environ["STORE"]))
tracking = Tracking.at(workspace)
made = tracking.client.create_run(tracking.experiment_id()).info.run_id
tracking.client.set_terminated(made)
try:
    gone = expire(tracking, workspace, older_than_s=-60)
    print(made in gone.runs, gone.versions, purge(tracking, older_than_days=30))
except InputError as refused:
    print(refused)
"""

    def told(identity: str) -> str:
        environment = {**team.stack.env(identity), "STORE": str(team.store)}
        done = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120, check=False
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout

    assert "MLflow does not let this user delete runs and versions" in told("trainer")
    assert "True [] deleted runs stay until `mlflow gc --older-than 30d`" in told("admin")


def test_deploying_again_changes_nothing(team: Team) -> None:
    before = {one.name: one for one in team.client.read_automations()}
    assert "Removed" not in team.deploy()
    after = {one.name: one for one in team.client.read_automations()}
    assert after == before
    assert len([name for name in after if name.startswith("notellm2: ")]) == 14


def test_no_address_of_an_alert_is_shown_anywhere(team: Team) -> None:
    automations = json.dumps([one.model_dump(mode="json") for one in team.client.read_automations()])
    for text in (automations, team.stack.log("worker"), team.stack.log("prefect-server")):
        assert "planted-in-the-address" not in text
