"""prefect.yaml as a graph: what runs when, of which flow, told what, and what happens when two meet."""

from __future__ import annotations

import asyncio
import importlib
import json
import re
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar, cast

import pytest
import yaml
from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound

from flows import project
from flows.deploy import deployments
from flows.deploy.deployments import POOL, QUEUES, named_deployments
from flows.runtime import environment
from notellm2.recipe import load_recipe
from tests.conftest import ROOT

FILE = ROOT / "prefect.yaml"
DEPLOYMENTS: dict[str, dict[str, Any]] = {one["name"]: one for one in yaml.safe_load(FILE.read_text())["deployments"]}
GRAPH = {
    "ingest": ("flows/ingest.py:ingest", "0 2 * * *", "ENQUEUE", "light"),
    "retrain": ("flows/retrain.py:retrain", "0 4 * * 1", "ENQUEUE", "training"),
    "refresh-index": ("flows/refresh_index.py:refresh_index", "30 * * * *", "CANCEL_NEW", "light"),
    "backtest": ("flows/backtest.py:backtest", "0 6 1 * *", "CANCEL_NEW", "training"),
    "cleanup": ("flows/cleanup.py:cleanup", "15 1 * * *", "CANCEL_NEW", "light"),
}


def test_the_deployments_are_as_they_were() -> None:
    found = {
        name: (
            one["entrypoint"],
            one["schedules"][0]["cron"],
            one["concurrency_limit"]["collision_strategy"],
            one["work_pool"]["work_queue_name"],
        )
        for name, one in DEPLOYMENTS.items()
    }
    assert found == GRAPH


@pytest.mark.parametrize("name", DEPLOYMENTS)
def test_prefect_takes_a_deployment_and_its_parameters_fit_the_flow(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from prefect.cli.deploy._models import DeploymentConfig
    from prefect.client.schemas.schedules import CronSchedule
    from prefect.flows import load_flow_from_entrypoint
    from prefect.utilities.schema_tools.validation import validate

    monkeypatch.chdir(ROOT)
    one = DEPLOYMENTS[name]
    DeploymentConfig.model_validate(one)
    flow = load_flow_from_entrypoint(one["entrypoint"])
    assert flow.name == name
    validate(one["parameters"], flow.parameters.model_dump())
    flow.validate_parameters(one["parameters"])
    (schedule,) = one["schedules"]
    assert schedule["timezone"] == "UTC"
    CronSchedule(cron=schedule["cron"], timezone=schedule["timezone"])
    assert one["concurrency_limit"]["limit"] == 1
    assert one["tags"][0] == "notellm2", "alerts, restarts and retention go by this tag"
    assert one["description"].endswith(".")
    assert one["work_pool"]["name"] == POOL
    assert one["work_pool"]["work_queue_name"] in QUEUES


def test_each_collision_strategy_says_why() -> None:
    lines = FILE.read_text().splitlines()
    for number, line in enumerate(lines):
        if "collision_strategy" in line:
            assert "#" in lines[number - 1]


def test_the_environment_of_a_run_is_the_one_that_flows_environment_says() -> None:
    for one in DEPLOYMENTS.values():
        assert one["work_pool"]["job_variables"]["env"] == environment.DEPLOYED


def test_the_names_that_automations_use_are_those_of_the_flows() -> None:
    names, recipe = named_deployments(FILE)
    for name, one in zip(names, DEPLOYMENTS.values(), strict=True):
        module, _, function = (
            one["entrypoint"].removesuffix(".py").replace("/", ".").replace(".py:", ":").partition(":")
        )
        flow = getattr(importlib.import_module(module), function)
        assert name == f"{flow.name}/{one['name']}"
    team = load_recipe(ROOT / recipe)
    assert team.gate.mode == "approval"
    assert all(one["parameters"]["settings"].get("recipe", recipe) == recipe for one in DEPLOYMENTS.values())


def test_a_worker_goes_to_its_own_copy_of_the_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(project.HOME_VARIABLE, raising=False)
    assert project.enter() == {"directory": str(ROOT)}
    assert Path.cwd() == ROOT
    monkeypatch.setenv(project.HOME_VARIABLE, str(tmp_path))
    with pytest.raises(FileNotFoundError, match="no project here"):
        project.enter()
    (tmp_path / "recipes").mkdir()
    project.enter()
    assert Path.cwd() == tmp_path


def test_the_version_is_the_commit_or_the_package_s(monkeypatch: pytest.MonkeyPatch) -> None:
    assert project.describe()["version"]
    monkeypatch.setenv("PATH", "")
    assert project.describe()["version"].count(".") == 2


@pytest.mark.parametrize("kind", ["docker", "kubernetes"])
def test_work_pool_templates_are_ones_that_prefect_takes(kind: str) -> None:
    """As the server checks them when a pool is made, and as the worker of that kind resolves them."""
    from prefect.server.schemas.actions import WorkPoolCreate
    from prefect.utilities.templating import find_placeholders

    template = json.loads((ROOT / "deploy" / "work-pools" / f"{kind}.json").read_text())
    WorkPoolCreate(name=POOL, type=kind, base_job_template=template)
    used = {found.name for found in find_placeholders(template["job_configuration"])}
    properties = template["variables"]["properties"]
    assert used == set(properties), "each variable is used, each placeholder is a variable"
    assert all(entry["description"].endswith(".") or "[{" in entry["description"] for entry in properties.values())
    with (_views() / "aggregate-worker-metadata.json").open() as file:
        known = {
            worker["type"]: worker["default_base_job_configuration"]
            for collection in json.load(file).values()
            for worker in collection.values()
        }
    # Of Docker's, `container_create_kwargs` is in the worker since prefect-docker 0.5, not in this bundled copy.
    assert set(template["job_configuration"]) - {"container_create_kwargs"} <= set(known[kind]["job_configuration"])


@pytest.mark.parametrize("kind", ["docker", "kubernetes"])
def test_a_container_of_a_pool_is_our_image_with_one_folder_that_outlives_it(kind: str) -> None:
    """Ingest renames data/ in it, which it could not if that were a mount; the image says where the folder is."""
    text = (ROOT / "deploy" / "work-pools" / f"{kind}.json").read_text()
    template, image = json.loads(text), (ROOT / "Dockerfile").read_text()
    home = re.search(r"NOTELLM2_HOME=(\S+)", image)
    assert home is not None
    assert re.search(rf"install -d -o notellm2 -g notellm2 {home.group(1)} ", image), "it is the user's own"
    mounts = set(re.findall(r'"mountPath": "([^"]+)"|"notellm2\w*:([^"]+)"\]', text))
    assert {a or b for a, b in mounts} == {home.group(1)}
    version = re.search(r'^version = "(.+)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert version is not None
    assert template["variables"]["properties"]["image"]["default"] == f"notellm2:{version.group(1)}"


def test_a_worker_that_makes_the_pool_at_the_same_moment_is_no_failure() -> None:
    class Client:
        """A server on which the pool appears between the question and the request."""

        asked = 0
        queues: ClassVar[list[str]] = []

        async def read_work_pool(self, name: str) -> SimpleNamespace:
            self.asked += 1
            if self.asked == 1:
                raise ObjectNotFound(Exception(name))
            return SimpleNamespace(type="process")

        async def create_work_pool(self, pool: object) -> None:
            raise ObjectAlreadyExists(Exception(str(pool)))

        async def read_work_queue_by_name(self, name: str, pool: str) -> None:
            raise ObjectNotFound(Exception(name))

        async def create_work_queue(self, name: str, **_: object) -> None:
            self.queues.append(name)

    asyncio.run(deployments._make_pool_and_queues(cast(Any, Client()), "process", {"variables": {}}))
    assert Client.queues == ["training", "light"]


def _views() -> Path:
    import prefect.server.api.collections as collections

    return Path(collections.__file__).parent / "collections_data" / "views"


def test_the_first_run_of_each_schedule_is_within_a_month() -> None:
    from prefect.client.schemas.schedules import CronSchedule
    from prefect.server.schemas.schedules import CronSchedule as ServerSchedule

    now = datetime(2026, 11, 24, tzinfo=UTC)
    for one in DEPLOYMENTS.values():
        cron = CronSchedule(cron=one["schedules"][0]["cron"], timezone="UTC")
        dates = ServerSchedule.model_validate(cron.model_dump())._get_dates_generator(n=1, start=now)
        assert (next(dates) - now).days <= 31
