"""What every stage of a retraining is given, and what makes a library function a Prefect task of this project."""

from __future__ import annotations

import contextlib
import functools
import logging
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Concatenate, ParamSpec

from prefect import Task, get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.runtime import deployment, flow_run
from prefect.states import Completed
from pydantic import BaseModel, ConfigDict

from flows import project
from flows.parameters import RecipeSettings
from notellm2.artifacts import MANIFEST, Artifact, Store, digest_json
from notellm2.errors import InputError
from notellm2.recipe import Recipe, load_recipe
from notellm2.workspace import Workspace

P = ParamSpec("P")
Facts = dict[str, Any]
"""What tasks hand each other: plain JSON of a few hundred bytes."""

MINUTE = 60.0
HOUR = 60 * MINUTE
TURN_S = 10 * MINUTE
"""Longest wait of a run of a deployment for whoever holds its store, seconds."""


class Job(BaseModel):
    """One retraining: its recipe, where its files go, and what its artifacts say about their origin."""

    model_config = ConfigDict(frozen=True)

    recipe: Recipe
    root: Path
    provenance: dict[str, str] = {}
    run: str | None = None
    """Id of the flow run if it is one of a deployment: such a run may be taken up again by another process."""

    @property
    def workspace(self) -> Workspace:
        """The folder everything is kept in."""
        return Workspace.at(self.root)

    @property
    def store(self) -> Store:
        """The artifacts; new ones carry this job's provenance."""
        return Store(self.workspace.root, self.provenance)

    def about(self, **facts: str | None) -> Job:
        """This job with more provenance; what is None is left out."""
        known = {name: value for name, value in facts.items() if value is not None}
        return self.model_copy(update={"provenance": {**self.provenance, **known}})


def stage(
    name: str, *, timeout_s: float, retries: int = 0
) -> Callable[[Callable[Concatenate[Job, P], Artifact | Mapping[str, Any]]], Task[Concatenate[Job, P], Facts]]:
    """Make a function a task that answers with JSON: the artifact's reference, its seconds, and whether it was reused.

    No Prefect cache and no persisted results: the content-addressed store is the truth.

    Args:
        name: as shown everywhere.
        timeout_s: seconds until it is given up.
        retries: for stages that talk to disks or servers; wrong input, and a promotion that was refused, are never
            tried again.
    """

    def decorate(
        function: Callable[Concatenate[Job, P], Artifact | Mapping[str, Any]],
    ) -> Task[Concatenate[Job, P], Facts]:
        @functools.wraps(function)
        def timed(job: Job, *args: P.args, **kwargs: P.kwargs) -> Facts:
            before = _stamps(job.store)
            started = time.monotonic()
            outcome = function(job, *args, **kwargs)
            seconds = round(time.monotonic() - started, 2)
            if isinstance(outcome, Artifact):
                reused = before.get(outcome.path) == _stamp(outcome.path)
                facts: Facts = {**outcome.reference(), "reused": reused}
                get_run_logger().info("%s %s/%s", "reused" if reused else "made", outcome.stage, outcome.key)
            else:
                facts = {"reused": False, **outcome}
            return {**facts, "name": name, "seconds": seconds}

        return task(
            name=name,
            task_run_name=name,
            retries=retries,
            retry_delay_seconds=[2.0 * 2**i for i in range(retries)] or None,
            retry_condition_fn=_worth_retrying,
            timeout_seconds=timeout_s,
            cache_policy=NO_CACHE,
            persist_result=False,
            result_serializer="json",
        )(timed)

    return decorate


def open_job(recipe: Path, overrides: tuple[str, ...], store: Path) -> Job:
    """The job a recipe describes.

    Raises:
        InputError: the recipe or an override is wrong.
    """
    from notellm2.registry.recipes import recipe_digest

    loaded = load_recipe(recipe, overrides)
    calm_logs()
    job = Job(recipe=loaded, root=store.absolute(), provenance={"recipe": loaded.name})
    return job.about(recipe_digest=recipe_digest(loaded), flow_run=flow_run.get_id())


def begin(settings: RecipeSettings) -> Job:
    """The job of the flow run that calls this.

    Raises:
        InputError: the recipe or an override is wrong.
    """
    return begun(open_job(Path(settings.recipe), tuple(settings.overrides), Path(settings.store)))


def begun(job: Job) -> Job:
    """A job with the flow run that calls this."""
    run = flow_run.get_id() if deployment.get_id() is not None else None
    return job.model_copy(update={"run": run}).about(git_commit=project.commit())


def recipe_name() -> str:
    """Name of a flow run: its recipe's file name."""
    settings = flow_run.parameters["settings"]
    given = settings["recipe"] if isinstance(settings, Mapping) else settings.recipe
    return Path(given).stem if given else "of-the-champion"


@contextlib.contextmanager
def turn(job: Job, purpose: str, workspace: Workspace | None = None) -> Iterator[None]:
    """Hold the workspace for a run of a deployment; one of the command line holds it already.

    Two runs of one deployment exclude each other in Prefect, before they start. This is for what Prefect cannot know:
    a run at a terminal, and a run whose process lives although Prefect believes that it crashed.

    Args:
        job: whose workspace it is.
        purpose: what it is held for, as others are told.
        workspace: another one instead.

    Raises:
        InputError: another process has held it for `TURN_S` seconds.
    """
    if job.run is None:
        yield
        return
    with (workspace or job.workspace).exclusive(purpose, wait_s=TURN_S):
        yield


def nothing_yet(reason: str) -> State[Any] | None:
    """How a run of a schedule ends that finds nothing to work on yet: well, and saying so; None at a terminal.

    A schedule begins before the first export and the first promotion: an alert each hour would teach people to look
    away. Who starts a flow by hand is told the error.

    Args:
        reason: in a sentence.
    """
    if deployment.get_id() is None:
        return None
    get_run_logger().warning("skipped: %s", reason)
    return Completed(name="Skipped", message=reason)


def no_export(given: str | None) -> str | None:
    """What to say of a folder of new notes that is not there; None: it is there, or none is named."""
    if given is None or Path(given).exists():
        return None
    return f"{given}: no export here yet"


def artifact(facts: Facts) -> Artifact:
    """The artifact a stage's answer refers to."""
    return Artifact.from_reference(facts)


def test_set(mined: Artifact) -> str:
    """Digest of the data, the test pairs, their pool and the way they are measured.

    Figures compare only where it is equal: the same pairs of notes whose text or images changed are another test.
    """
    from notellm2.evaluation.evaluation_stage import EVALUATION_VERSION

    manifest = mined.manifest
    files = [manifest["files"][name]["sha256"] for name in ("test.parquet", "pool.parquet")]
    return digest_json([manifest["inputs"]["data"], files, EVALUATION_VERSION])[:20]


class _OneTraceback(logging.Filter):
    """Wrong input needs its message, not our call stack; a failure needs its call stack once, not at every level."""

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        if error is not None:
            if isinstance(error, InputError) or getattr(error, "_notellm2_logged", False):
                record.exc_info = None
            else:
                error._notellm2_logged = True  # type: ignore[attr-defined]
        return True


def calm_logs() -> None:
    """Show what the library logs; tracebacks not for wrong input, and every other one only once."""
    logging.getLogger("notellm2").setLevel(logging.INFO)
    # What a pinned library will change in its next release is no news to who runs a flow.
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"transformers\.")
    for name in ("prefect.task_runs", "prefect.flow_runs"):
        logger = logging.getLogger(name)
        if not any(isinstance(f, _OneTraceback) for f in logger.filters):
            logger.addFilter(_OneTraceback())


def _worth_retrying(_task: Task[..., Any], _run: TaskRun, state: State[Any]) -> bool:
    from notellm2.promotion.transaction import Refused

    error = state.result(raise_on_failure=False)
    return not isinstance(error, InputError | Refused)


def _stamps(store: Store) -> dict[Path, int]:
    return {found.path: _stamp(found.path) for found in store.artifacts()}


def _stamp(path: Path) -> int:
    # A damaged artifact is made again at the same address: its manifest is then a new file.
    return (path / MANIFEST).stat().st_mtime_ns
