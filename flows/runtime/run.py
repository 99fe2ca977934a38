"""The MLflow run of a retraining: opened once the data is known, carried by the job, closed with the outcome."""

from __future__ import annotations

import contextlib
import resource
import sys
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from types import MappingProxyType
from typing import TYPE_CHECKING

from prefect.exceptions import Pause
from prefect.runtime import flow_run

from flows.handoffs import DataVersion, HandOff
from flows.runtime import show
from flows.runtime.job import Job, chosen_name
from notellm2.artifacts import digest_json

if TYPE_CHECKING:
    from notellm2.registry.descriptions import Origin
    from notellm2.registry.runs import Run
    from notellm2.registry.tracking import Tracking

_COSTLY = ("vision-features", "training", "vectors", "evaluation")


@contextlib.contextmanager
def open_run(
    job: Job, data: DataVersion, *, sweep: list[list[str] | list[int]] | None = None, parent: str | None = None
) -> Iterator[Job]:
    """Open one MLflow run for a recipe, a data version and the stages' versions; yields the job with its id.

    It ends FINISHED, FAILED or KILLED with the block, and is SCHEDULED while the flow run is suspended until a person
    decides. The same job again, or resumed, continues the same run. Another version of a stage starts another run: a
    run's curves can be added to, never replaced.

    Args:
        job: whose run it is.
        data: what it reads.
        sweep: variants and seeds, for the run of a sweep.
        parent: run of the sweep that this one is a cell of; distinct from a retraining of the same recipe.
    """
    from notellm2.registry.run_names import run_name
    from notellm2.registry.runs import Run

    key, name, chosen = run_key(job, data.md5), job.recipe.name, chosen_name() if parent is None else None
    if sweep is not None:
        key, name = digest_json([key, sweep])[:20], f"{name}-ablation"
    if parent is not None:
        key = digest_json([key, "below", parent])[:20]
    else:
        name = chosen or run_name(name, data.md5, datetime.now(UTC))
    with contextlib.ExitStack() as stack:
        run = stack.enter_context(Run.open(tracking(job), key, name=name, chosen=chosen is not None))
        if parent is not None:
            run.log_tags({"mlflow.parentRunId": parent})
        else:
            show.mlflow_run(run)
        _log_origin(run, job, data)
        try:
            yield job.model_copy(update={"mlflow_run": run.run_id})
        except Pause:
            stack.pop_all()  # It has not ended.
            run.suspend()
            raise


def _log_origin(run: Run, job: Job, data: DataVersion) -> None:
    from notellm2.registry.descriptions import run_began

    run.log_origin(
        recipe=job.recipe.name,
        data_md5=data.md5,
        git_commit=job.provenance.get("git_commit"),
        flow_run=flow_run.get_id(),
        flow_run_url=show.flow_run_page(),
    )
    run.log_recipe(job.recipe)
    run.log_dataset(data.dataset, data.md5)
    run.describe(run_began(origin(job, data)))


def origin(job: Job, data: DataVersion, links: Mapping[str, str] = MappingProxyType({})) -> Origin:
    """Collect where a run comes from, for descriptions.

    Args:
        job: whose run it is.
        data: what it reads.
        links: text to address, beside that of the flow run.
    """
    from notellm2.registry.descriptions import Origin

    info, page = data.dataset.info, show.flow_run_page()
    about = f"{info.name} {data.md5[:8]} ({info.notes:,} notes, {info.interactions:,} interactions)"
    return Origin(
        recipe=job.recipe.name,
        data=about,
        commit=job.provenance.get("git_commit"),
        begun=f"{flow_run.get_scheduled_start_time():%Y-%m-%d %H:%M} UTC",
        links={**links, **({"Prefect run": page} if page else {})},
    )


def record_costs(job: Job, done: Iterable[HandOff]) -> None:
    """Log what the run cost: seconds of its stages when they were done, and the most memory of one process."""
    seconds = {one.artifact.stage: float(one.artifact.manifest["seconds"]) for one in done if one.artifact is not None}
    shown = {stage: seconds[stage] for stage in _COSTLY if stage in seconds}
    unit = 1 if sys.platform == "darwin" else 1024
    peak = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    attach_run(job).log_costs({**shown, "total": sum(seconds.values())}, round(peak * unit / 1e9, 3))


def run_key(job: Job, md5: str) -> str:
    """Digest what decides a run's model, curves and figures."""
    from notellm2.embedding import vectors_stage as embedding
    from notellm2.evaluation import evaluation_stage as evaluation
    from notellm2.model.backbones import backbones_stage as model
    from notellm2.pairs import pairs_stage as pairs
    from notellm2.training import training_stage as training

    versions = {
        "pairs": pairs.VERSION,
        "backbones": model.VERSION,
        "vision-features": embedding.FEATURES_VERSION,
        "training": training.VERSION,
        "vectors": embedding.VECTORS_VERSION,
        "evaluation": evaluation.EVALUATION_VERSION,
    }
    return digest_json([job.recipe.model_dump(mode="json", exclude={"alerts"}), md5, versions])[:20]


def attach_run(job: Job) -> Run:
    """Attach to the open run of a job, for a task.

    Raises:
        RuntimeError: none is open; a task is called outside `open_run`.
    """
    from notellm2.registry.runs import Run

    if job.mlflow_run is None:
        raise RuntimeError("this task records in an MLflow run, and the job has none open")
    return Run.attach(tracking(job), job.mlflow_run)


def tracking(job: Job) -> Tracking:
    """Return where runs and versions are recorded."""
    from notellm2.registry.tracking import Tracking

    return Tracking.at(job.workspace, job.recipe.registry)
