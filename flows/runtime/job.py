"""The context of a flow run: its recipe, where its files go, what its artifacts say of their origin."""

from __future__ import annotations

import contextlib
import functools
import logging
import re
import warnings
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from prefect import get_run_logger
from prefect.client.schemas.objects import State
from prefect.runtime import deployment, flow_run
from prefect.states import Completed
from pydantic import BaseModel, ConfigDict

from flows import project
from notellm2.artifacts import Store
from notellm2.errors import InputError
from notellm2.recipe import Recipe
from notellm2.workspace import Workspace

_OWN_NAME = re.compile(r".+ · \d{4}-\d\d-\d\d \d\d:\d\d")
WAIT_S = 10 * 60.0
"""Longest wait of a run of a deployment for whoever holds its store, seconds."""


class Job(BaseModel):
    """What one run works on.

    Attributes:
        recipe: loaded once, when the run begins.
        root: the store, absolute.
        provenance: what new artifacts say of their origin.
        flow_run: id of the flow run if it is one of a deployment, which another process may take up again.
        mlflow_run: id of the MLflow run that is open; None: none is.
    """

    model_config = ConfigDict(frozen=True)

    recipe: Recipe
    root: Path
    provenance: dict[str, str] = {}
    flow_run: str | None = None
    mlflow_run: str | None = None

    @property
    def workspace(self) -> Workspace:
        """The folder everything is kept in."""
        return Workspace.at(self.root)

    @property
    def store(self) -> Store:
        """The artifacts; new ones carry this job's provenance."""
        return Store(self.workspace.root, self.provenance)

    def about(self, **facts: str | None) -> Job:
        """Return this job with more provenance; what is None is left out."""
        known = {name: value for name, value in facts.items() if value is not None}
        return self.model_copy(update={"provenance": {**self.provenance, **known}})


def open_job(recipe: Recipe, store: Path) -> Job:
    """Make the job that a recipe describes, in the flow run that calls this, if one does."""
    from notellm2.registry.recipes import recipe_digest

    calm_logs()
    job = Job(
        recipe=recipe,
        root=store.absolute(),
        flow_run=flow_run.get_id() if deployment.get_id() is not None else None,
    )
    return job.about(
        recipe=recipe.name, recipe_digest=recipe_digest(recipe), flow_run=flow_run.get_id(), git_commit=project.commit()
    )


def chosen_name() -> str | None:
    """Read the name that a person gave the flow run, in the form or by the API; None: Prefect or a flow named it."""
    name = flow_run.get_name()
    made_up = not name or _OWN_NAME.fullmatch(name) or all(word in _prefect_words() for word in name.split("-"))
    return None if made_up else name


def recipe_name(form: str = "{}") -> str:
    """Name a flow run by its recipe's file name and when it began, unless a person chose another.

    Args:
        form: what stands around the recipe's name.
    """
    settings = flow_run.parameters["settings"]
    recipe = settings["recipe"] if isinstance(settings, Mapping) else settings.recipe
    own = form.format(Path(recipe).stem if recipe else "of-the-champion")
    return chosen_name() or f"{own} · {datetime.now(UTC):%Y-%m-%d %H:%M}"


@functools.cache
def _prefect_words() -> frozenset[str]:
    """The words of which Prefect makes up a name for a run that nobody named: ``groovy-caterpillar``."""
    from coolname.data import config

    return frozenset(word for part in config.values() if isinstance(part, dict) for word in part.get("words", ()))


@contextlib.contextmanager
def hold(job: Job, purpose: str, workspace: Workspace | None = None) -> Iterator[None]:
    """Hold the workspace for a run of a deployment; one of the command line holds it already.

    Two runs of one deployment exclude each other in Prefect, before they start. This is for what Prefect cannot know:
    a run at a terminal, and a run whose process lives although Prefect believes that it crashed.

    Args:
        job: whose workspace it is.
        purpose: what it is held for; others see it.
        workspace: another one instead.

    Raises:
        InputError: another process has held it for `WAIT_S` seconds.
    """
    if job.flow_run is None:
        yield
        return
    with (workspace or job.workspace).exclusive(purpose, wait_s=WAIT_S):
        yield


def skip_if_scheduled(reason: str | None) -> State[Any] | None:
    """Skip a scheduled run that has no input yet; None: go on.

    A schedule begins before the first export and the first promotion: an alert each hour would teach people to look
    away. Who starts a flow by hand gets the error.

    Args:
        reason: in a sentence; None: there is input.
    """
    if reason is None or deployment.get_id() is None:
        return None
    get_run_logger().warning("skipped: %s", reason)
    return Completed(name="Skipped", message=reason)


def missing_export(folder: str | None) -> str | None:
    """Say that a folder of new notes is not there; None: it is there, or none is named."""
    if folder is None or Path(folder).exists():
        return None
    return f"{folder}: no export here yet"


class _OneTraceback(logging.Filter):
    """Drop the call stack of wrong input, which needs its message alone, and of a failure after its first time.

    Prefect logs one failure of a task twice: for the task and for the flow.
    """

    def __init__(self) -> None:
        super().__init__()
        self._shown: set[tuple[type[BaseException], str]] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        if error is not None:
            known = (type(error), str(error))
            if isinstance(error, InputError) or known in self._shown:
                record.exc_info = None
            self._shown.add(known)
        return True


def calm_logs() -> None:
    """Show what the library logs; tracebacks not for wrong input, and every other one only once a run."""
    logging.getLogger("notellm2").setLevel(logging.INFO)
    # Users need not see what a pinned library will change in its next release.
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"transformers\.")
    once = _OneTraceback()
    for name in ("prefect.task_runs", "prefect.flow_runs"):
        logger = logging.getLogger(name)
        for earlier in [one for one in logger.filters if isinstance(one, _OneTraceback)]:
            logger.removeFilter(earlier)
        logger.addFilter(once)
