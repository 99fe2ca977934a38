"""Back up the running stack, lose databases, bucket and store, and bring all of it back."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import pytest
import requests
from mlflow.server.auth.client import AuthServiceClient

from notellm2.access.people import put_user, roles_by_user
from notellm2.artifacts import Store
from notellm2.registry.tracking import Tracking
from notellm2.stack.backup.archive import Archive
from tests.conftest import ROOT
from tests.stack.conftest import RunningStack
from tests.unit.index.examples import note_ids
from tests.unit.registry.world import A, B, World, index_of

MODEL = "backed-up"
USER, PASSWORD = "somebody", "a-password-of-somebody"


@dataclass(frozen=True)
class Team:
    """A model of its own in the stack: published beside the others', with a user of its own."""

    stack: RunningStack
    world: World
    store: Path
    run_id: str

    @property
    def variables(self) -> dict[str, str]:
        """As a container of the service `backup` has them."""
        own = {"NOTELLM2_STORE": str(self.store), "NOTELLM2_PUBLISHED": str(self.world.published)}
        return {**self.stack.env("admin"), **self.stack.native.environment("backup"), **own}

    def ask(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "notellm2", *arguments]
        environment = {**self.variables, "PYTHONPATH": str(ROOT)}
        return subprocess.run(
            command, cwd=self.store.parent, env=environment, capture_output=True, text=True, check=False
        )

    def seen(self) -> dict[str, Any]:
        """What a team sees of its model: champion, history, curves, who may do what, and the answer to a query."""
        client = self.world.tracking.client
        history = client.get_metric_history(self.run_id, "loss")
        return {
            "in use": self.world.in_use(),
            "history": self.ask("history", "--store", str(self.store), "--json").stdout,
            "curve": [(point.step, point.value, point.timestamp) for point in history],
            "file": client.download_artifacts(self.run_id, "report.html", str(self.store.parent)),
            "similar": self.ask("similar", note_ids(40)[5], "--store", str(self.store), "--json").stdout,
            "permissions": self.permissions(),
            "variable": self.prefect("GET", "variables/name/of_the_team")["value"],
            "artifacts": sorted(str(artifact.path) for artifact in Store(self.store).artifacts()),
        }

    def permissions(self) -> tuple[dict[str, list[str]], int, int]:
        """Everybody's roles; whether one whom the stack does not make may read the run, and move the champion."""
        api, auth = f"{self.stack.mlflow_url}/api/2.0/mlflow", (USER, PASSWORD)
        read = requests.get(f"{api}/runs/get", params={"run_id": self.run_id}, auth=auth, timeout=30)
        alias = {"name": MODEL, "alias": "champion", "version": "1"}
        moved = requests.post(f"{api}/registered-models/alias", json=alias, auth=auth, timeout=30)
        return roles_by_user(AuthServiceClient(self.stack.mlflow_url)), read.status_code, moved.status_code

    def prefect(self, method: str, path: str, content: Any = None) -> Any:
        user, _, password = self.stack.settings.variables["PREFECT_AUTH"].partition(":")
        url = f"{self.stack.prefect_url}/{path}"
        answer = requests.request(method, url, json=content, auth=(user, password), timeout=30)
        assert answer.ok, answer.text
        return answer.json()


@pytest.fixture(scope="module")
def team(stack: RunningStack, stack_folder: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Two versions promoted one after the other, a run with a curve and a file, a user, and something in Prefect."""
    store = tmp_path_factory.mktemp("team") / "store"
    with pytest.MonkeyPatch.context() as patch:
        for name, value in stack.env("admin").items():
            patch.setenv(name, value)
        tracking = Tracking(stack.mlflow_url, MODEL, MODEL, None, store.parent / "locks")
        world = World(tracking, f"s3://{stack.settings.variables['S3_BUCKET']}/of-the-team/published")
        run = tracking.client.create_run(tracking.experiment_id())
        for step in range(20):
            tracking.client.log_metric(run.info.run_id, "loss", 1.0 / (step + 1), step=step)
        tracking.client.log_text(run.info.run_id, "<p>report</p>", "report.html")
        made = Team(stack, world, store, run.info.run_id)
        put_user(AuthServiceClient(stack.mlflow_url), USER, PASSWORD, ["trainer"])
        made.prefect("POST", "variables/", {"name": "of_the_team", "value": {"a": 1}})
        first, second = world.register(A), world.register(B)
        world.promote(first, index_of(Store(store), A), expected=None)
        world.promote(second, index_of(Store(store), B, 1), expected=first)
        yield made


def test_back_up_wipe_and_restore(team: Team, tmp_path: Path) -> None:
    before, place = team.seen(), str(tmp_path / "backups")
    roles, reading, promoting = before["permissions"]
    assert (roles[USER], reading, promoting) == (["trainer"], 200, 403)
    assert len(before["curve"]) == 20
    assert len(json.loads(before["similar"])["similar"]) == 10
    made = team.ask("stack", "backup", place, "--json")
    assert made.returncode == 0, made.stderr
    assert json.loads(made.stdout)["champion"] == team.world.in_use() == "2"
    refused = team.ask("stack", "restore", place)
    assert refused.returncode == 2
    assert "is in use by" in refused.stderr

    team.stack.native.down()
    try:
        wipe(team)
        team.stack.native.up(["databases", "bucket"])
        damaged = refuse_damage(team, tmp_path / "backups")
        assert "its bytes are not those that were written" in damaged
        done = team.ask("stack", "restore", place)
        assert done.returncode == 0, done.stderr
    finally:
        # As in the fixture: schedules would begin runs in the middle of a later test.
        team.stack.native.up([name for name in team.stack.native.names() if name != "deployments"])
    assert team.seen() == before


def wipe(team: Team) -> None:
    """Lose all that a backup is for."""
    shutil.rmtree(team.stack.native.state.volumes / "postgres")
    shutil.rmtree(team.store)
    bucket = boto3.resource("s3", endpoint_url=team.stack.s3_url).Bucket(team.stack.bucket)
    bucket.objects.all().delete()
    bucket.delete()


def refuse_damage(team: Team, backups: Path) -> str:
    """What a restore of a copy with one flipped bit says; nothing comes back."""
    copy = backups.with_name("damaged")
    shutil.copytree(backups, copy)
    blob = max(copy.glob("blobs/*/*"), key=lambda path: path.stat().st_size)
    content = bytearray(blob.read_bytes())
    content[-1] ^= 1
    blob.write_bytes(content)
    refused = team.ask("stack", "restore", str(copy))
    assert refused.returncode == 2
    assert not team.store.exists()
    return refused.stderr


def test_the_settings_file_describes_the_same_set_up(team: Team, tmp_path: Path) -> None:
    """From .env and docker-compose.yml, as on a machine without containers."""
    options = ("--env", str(team.stack.env_file), "--compose", str(ROOT / "docker-compose.yml"))
    made = team.ask("stack", "backup", str(tmp_path), *options, "--state", str(team.stack.native.state.root))
    assert made.returncode == 0, made.stderr
    archive = Archive(tmp_path)
    manifest = archive.manifest(archive.choose())
    bucket = team.stack.bucket
    assert manifest.places["bucket"].where == f"s3://{bucket}"
    assert manifest.places["published"].where == f"s3://{bucket}/published"
    assert manifest.places["store"].where == str(team.stack.store)
    assert {dump.database for dump in manifest.databases} == {"prefect", "mlflow"}
