"""Deploy: work pool, queues, deployments, alert blocks and automations of one Prefect server, as the files say.

    PREFECT_API_URL=http://127.0.0.1:4200/api PREFECT_API_AUTH_STRING=user:password notellm2 deploy

What is there already is brought up to date, so run it after every change of prefect.yaml, deploy/ or the recipe's
`alerts`. What somebody paused or switched off in Prefect's pages stays so.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

import yaml

from flows.deploy import alerts
from flows.runtime import environment
from notellm2.errors import InputError
from notellm2.recipe import load_recipe

if TYPE_CHECKING:
    from prefect.blocks.core import Block
    from prefect.client.orchestration import PrefectClient
    from prefect.events.schemas.automations import Automation, AutomationCore

POOL = "notellm2"
QUEUES: Mapping[str, int | None] = {"training": 1, "light": None}
"""Queues of the pool, and how many runs of each go on at once; None: as many as the workers take."""
TEMPLATES = Path("deploy") / "work-pools"
_ANY = UUID(int=0)


@dataclass(frozen=True)
class Project:
    """What the files of a project say.

    Attributes:
        deployments: FLOW/DEPLOYMENT of each.
        recipe: path of the one that `retrain` follows.
        automations: as they stand in their file.
        notify: blocks that get every alert.
    """

    deployments: list[str]
    recipe: str
    automations: list[dict[str, Any]]
    notify: tuple[str, ...]


def deploy(file: Path, automations: Path, pool_type: str, *, check_only: bool = False) -> int:
    """Make or update everything on the server that ``PREFECT_API_URL`` names.

    Args:
        file: a prefect.yaml.
        automations: a deploy/automations.yaml.
        pool_type: process, docker or kubernetes.
        check_only: read the files, and change nothing.

    Returns:
        The exit status: 0, or 1 where Prefect refused a deployment; its words are on stderr.

    Raises:
        InputError: a file is wrong, or there is no server that takes it.
    """
    for name, value in environment.QUIET.items():
        os.environ.setdefault(name, value)
    project = read_project(file, automations)
    blocks = alerts.blocks_from_environment()
    template = None if pool_type == "process" else json.loads((TEMPLATES / f"{pool_type}.json").read_text())
    if check_only:
        count = len(project.automations)
        sys.stdout.write(f"{file}: {', '.join(project.deployments)}\n{automations}: {count} automations\n")
        return 0
    if environment.uses_embedded_server():
        raise InputError("PREFECT_API_URL is not set: there is no Prefect server to deploy to")
    with _server_problems():
        asyncio.run(_make_pool(pool_type, template))
        command = [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all", "--prefect-file", str(file)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            sys.stderr.write(f"{done.stdout}{done.stderr}\nfailed: prefect deploy ended with {done.returncode}\n")
            return 1
        lines = asyncio.run(_make_automations(project, blocks))
    sys.stdout.write(f"Work pool:    {POOL} ({pool_type})")
    sys.stdout.write("".join(f"\nDeployment:   {name}" for name in project.deployments))
    sys.stdout.write("\n" + "\n".join(lines) + "\n")
    return 0


def read_project(file: Path, automations: Path) -> Project:
    """Read the project's files; what is wrong in one is known before anything is changed.

    Raises:
        InputError: a file is missing or wrong.
    """
    specifications = alerts.load_specifications(automations)
    names, recipe = named_deployments(file)
    for one in specifications:  # with any ids
        alerts.build(one, dict.fromkeys(names, _ANY), dict.fromkeys(alerts.block_variables(), _ANY))
    return Project(names, recipe, specifications, tuple(load_recipe(Path(recipe)).alerts.notify))


@contextlib.contextmanager
def _server_problems() -> Iterator[None]:
    """Say in a sentence what a server that does not answer, or refuses us, needs."""
    from httpx import ConnectError, HTTPStatusError
    from prefect.exceptions import PrefectHTTPStatusError

    try:
        yield
    except ConnectError:
        raise InputError(f"PREFECT_API_URL {os.environ['PREFECT_API_URL']}: no server answers there") from None
    except (HTTPStatusError, PrefectHTTPStatusError) as error:
        if error.response.status_code != 401:
            raise
        raise InputError("the Prefect server wants a password: set PREFECT_API_AUTH_STRING=user:password") from None


def named_deployments(file: Path) -> tuple[list[str], str]:
    """List every deployment of a prefect.yaml as FLOW/DEPLOYMENT, and the recipe that `retrain` follows.

    Raises:
        InputError: the file is missing or is not as expected.
    """
    try:
        tree = yaml.safe_load(file.read_text())
        by_name = {one["name"]: one for one in tree["deployments"]}
        recipe = by_name["retrain"]["parameters"]["settings"]["recipe"]
        flows = [str(one["entrypoint"]).rpartition(":")[2].replace("_", "-") for one in by_name.values()]
    except FileNotFoundError:
        raise InputError(f"{file}: no such file; run this in the project's folder") from None
    except (yaml.YAMLError, KeyError, TypeError) as error:
        raise InputError(f"{file}: no deployments as expected, with a recipe for `retrain` ({error!r})") from None
    return [f"{flow}/{name}" for flow, name in zip(flows, by_name, strict=True)], recipe


async def _make_pool(kind: str, template: dict[str, Any] | None) -> None:
    from prefect.client.orchestration import get_client
    from prefect.workers.utilities import get_default_base_job_template_for_infrastructure_type

    template = template or await get_default_base_job_template_for_infrastructure_type(kind) or {}
    async with get_client() as client:
        await _make_pool_and_queues(client, kind, template)


async def _make_pool_and_queues(client: PrefectClient, kind: str, template: dict[str, Any]) -> None:
    from prefect.client.schemas.actions import WorkPoolCreate, WorkPoolUpdate
    from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound

    try:
        pool = await client.read_work_pool(POOL)
    except ObjectNotFound:
        try:
            pool = await client.create_work_pool(WorkPoolCreate(name=POOL, type=kind, base_job_template=template))
        except ObjectAlreadyExists:  # A worker that starts at the same moment makes it too.
            pool = await client.read_work_pool(POOL)
    if pool.type != kind:
        raise InputError(
            f"work pool {POOL} is of type {pool.type}: deploy with --pool-type {pool.type}, or remove it first "
            f"(prefect work-pool delete {POOL})"
        )
    if kind != "process":
        await client.update_work_pool(POOL, WorkPoolUpdate(base_job_template=template))
    for name, limit in QUEUES.items():
        try:
            queue = await client.read_work_queue_by_name(name, POOL)
        except ObjectNotFound:
            await client.create_work_queue(name, work_pool_name=POOL, concurrency_limit=limit)
        else:
            await client.update_work_queue(queue.id, concurrency_limit=limit)


async def _make_automations(project: Project, blocks: Mapping[str, Block]) -> list[str]:
    from prefect.client.orchestration import get_client

    for name, block in blocks.items():
        await block.save(name.partition("/")[2], overwrite=True)
    async with get_client() as client:
        deployments = {name: (await client.read_deployment_by_name(name)).id for name in project.deployments}
        there = await _blocks_there(client, project.notify)
        problem = alerts.missing_blocks(project.notify, there, project.recipe)
        if problem is not None:
            raise problem
        known = await _our_automations(client)
        lines = [f"Alerts go to: {', '.join(project.notify) or 'nobody (alerts.notify of the recipe is empty)'}"]
        for one in project.automations:
            made, before = alerts.build(one, deployments, there), known.pop(one["name"], None)
            if made is None:
                if before is not None:
                    await client.delete_automation(before.id)
                continue
            if before is None:
                await client.create_automation(made)
            elif (update := automation_update(before, made)) is not None:
                await client.update_automation(before.id, update)
            lines.append(f"Automation:   {made.name.removeprefix(alerts.PREFIX)}")
        for name, gone in known.items():
            await client.delete_automation(gone.id)
            lines.append(f"Removed:      {name.removeprefix(alerts.PREFIX)}")
    return lines


def automation_update(before: Automation, made: AutomationCore) -> AutomationCore | None:
    """Compute what an automation is to become; None: it is so already (an update would forget whom it waits for).

    On or off as somebody has left it. Every field is set, as an update wants them, but the owner, which it refuses.
    """
    fields = made.model_dump(exclude={"owner_resource"}) | {"enabled": before.enabled}
    if fields == before.model_dump(exclude={"owner_resource", "id"}):
        return None
    return type(made).model_validate(fields)


async def _our_automations(client: PrefectClient) -> dict[str, Automation]:
    by_id: dict[str, Automation] = {}
    while page := await client.read_automations(limit=100, offset=len(by_id)):
        by_id |= {str(one.id): one for one in page}
    return {one.name: one for one in by_id.values() if one.name.startswith(alerts.PREFIX)}


async def _blocks_there(client: PrefectClient, wanted: Sequence[str]) -> dict[str, UUID]:
    from prefect.exceptions import ObjectNotFound

    there = {}
    for slug in wanted:
        kind, _, name = slug.partition("/")
        try:
            there[slug] = (await client.read_block_document_by_name(name, kind)).id
        except ObjectNotFound:
            continue
    return there
