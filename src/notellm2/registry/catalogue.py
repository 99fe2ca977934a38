"""All runs and versions that the registry has, as plain data: for lineage and for cleaning up."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict

from notellm2.registry import names
from notellm2.registry.record import origin_of_run, stages_of, version_record
from notellm2.registry.tracking import Tracking

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.entities.model_registry import ModelVersion

_ORIGIN = ("data_md5", "git_commit", "flow_run", "recipe", "recipe_digest")
PAGE = 1000
"""Rows asked for at once, as many as MLflow gives."""


class VersionRecord(BaseModel):
    """A registered version.

    Attributes:
        name: of the registered model.
        number: of the version.
        run_id: of the run that registered it; empty: none did.
        aliases: that name it, sorted.
        registered: when, ISO 8601, UTC.
        bundle: digest of its model bundle; None: not recorded.
        gate: "passed", "refused", or None: no gate has judged it.
        promoted_at: when it became champion, ISO 8601, UTC; None: it never did.
        page: address of its page.
        artifacts: stage to key of what it was made from.
        origin: data_md5, git_commit, flow_run, recipe, recipe_digest, as far as they are known.
    """

    model_config = ConfigDict(frozen=True)

    name: str
    number: str
    run_id: str
    aliases: tuple[str, ...]
    registered: str
    bundle: str | None
    gate: str | None
    promoted_at: str | None
    page: str
    artifacts: Mapping[str, str]
    origin: Mapping[str, str]


class RunRecord(BaseModel):
    """An MLflow run.

    Attributes:
        run_id: MLflow's id.
        name: as the list of runs shows it.
        status: MLflow's word.
        started: when, ISO 8601, UTC.
        page: address of its page.
        artifacts: stage to key of what it made or used.
        origin: as a version's.
        flow_runs: ids of the Prefect flow runs that worked on it, the first one first.
        flow_run_page: address of the last one's page, where it was known.
        published: address of the index that brought its model into use last.
    """

    model_config = ConfigDict(frozen=True)

    run_id: str
    name: str
    status: str
    started: str | None
    page: str
    artifacts: Mapping[str, str]
    origin: Mapping[str, str]
    flow_runs: tuple[str, ...]
    flow_run_page: str | None
    published: str | None


def all_versions(tracking: Tracking) -> list[VersionRecord]:
    """List every version of the registered model, in MLflow's order."""
    client, token = tracking.client, None
    versions: list[ModelVersion] = []
    while True:
        page = client.search_model_versions(f"name = '{tracking.model_name}'", max_results=PAGE, page_token=token)
        versions += page
        token = page.token
        if not token:
            break
    aliases: dict[str, list[str]] = {}
    for alias, number in (client.get_registered_model(tracking.model_name).aliases if versions else {}).items():
        aliases.setdefault(str(number), []).append(alias)
    return [_version(tracking, version, sorted(aliases.get(str(version.version), []))) for version in versions]


def all_runs(tracking: Tracking) -> Iterator[RunRecord]:
    """List every run of the experiment that is not deleted."""
    client, token = tracking.client, None
    experiment = client.get_experiment_by_name(tracking.experiment)
    while experiment is not None:
        page = client.search_runs([experiment.experiment_id], max_results=PAGE, page_token=token)
        for run in page:
            yield _run(tracking, run)
        token = page.token
        if not token:
            break


def run_record(tracking: Tracking, run_id: str) -> RunRecord:
    """Read one run, of whichever experiment.

    Raises:
        MlflowException: there is no such run.
    """
    return _run(tracking, tracking.client.get_run(run_id))


def _version(tracking: Tracking, version: ModelVersion, aliases: list[str]) -> VersionRecord:
    tags, number = version.tags, str(version.version)
    record = version_record(tags)
    return VersionRecord(
        name=version.name,
        number=number,
        run_id=version.run_id or "",
        aliases=tuple(aliases),
        registered=_time(version.creation_timestamp),
        bundle=tags.get(names.BUNDLE),
        gate=tags.get(names.GATE),
        promoted_at=tags.get(names.PROMOTED_AT),
        page=tracking.version_page(number),
        artifacts=record["artifacts"],
        origin={fact: record[fact] for fact in _ORIGIN if record.get(fact)},
    )


def _run(tracking: Tracking, run: Run) -> RunRecord:
    tags, origin = run.data.tags, origin_of_run(run.data.tags)
    return RunRecord(
        run_id=run.info.run_id,
        name=run.info.run_name or "",
        status=run.info.status,
        started=None if run.info.start_time is None else _time(run.info.start_time),
        page=tracking.page(f"/experiments/{run.info.experiment_id}/runs/{run.info.run_id}"),
        artifacts=stages_of(tags).made,
        origin={fact: origin[fact] for fact in _ORIGIN if origin.get(fact)},
        flow_runs=tuple(tags.get(names.FLOW_RUNS, origin.get("flow_run", "")).split()),
        flow_run_page=tags.get(names.FLOW_RUN_URL),
        published=tags.get(names.PUBLISHED),
    )


def _time(milliseconds: int) -> str:
    return datetime.fromtimestamp(milliseconds / 1000, UTC).isoformat(timespec="seconds")
