"""Where runs and versions are recorded, and how MLflow is made to behave before it is first imported.

The default store is one SQLite file in the workspace with its artifacts beside it; ``MLFLOW_TRACKING_URI`` names
another (a database or a server). Nothing here sets MLflow's global state: every call goes through a client that
knows its store, so two workspaces in one process cannot mix, and no stray ``mlruns`` or ``mlflow.db`` appears in the
current folder.

Measured (2 cores, MLflow 3.17): importing mlflow 1.4-1.9 s, making a new SQLite store 1.6-1.8 s on an idle machine
(5-9 s on a busy one), opening an old one 0.1 s.
"""

from __future__ import annotations

import logging
import os
import re
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from notellm2.credentials import redacted
from notellm2.errors import InputError
from notellm2.recipe import RegistryConfig
from notellm2.registry import identities, relocation
from notellm2.workspace import Workspace, file_lock

if TYPE_CHECKING:
    from mlflow import MlflowClient

URI_VARIABLE = "MLFLOW_TRACKING_URI"
PAGES_VARIABLE = "NOTELLM2_MLFLOW_URL"
"""Where people open MLflow's pages, if that is not where this process finds its server (another network, a proxy)."""
_LOCAL_PAGES = "http://127.0.0.1:5000"  # of `make ui`

SETTINGS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    # Models are code and safetensors; a pickle in the registry is somebody else's.
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    # A server that is away for some ten minutes fails no run: MLflow waits 4, 8, ... up to 120 s between its tries.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "10",
}
"""Set, where the environment does not say otherwise, before mlflow is imported: it reads them at import."""

_SERVERS = ("http://", "https://")
# Opens the experiment in the "Model training" pages of MLflow's interface, not in those for chat applications.
_EXPERIMENT_TAGS = {
    "mlflow.experimentKind": "custom_model_development",
    "mlflow.note.content": (
        "Retrainings of NoteLLM-2, one run a recipe and data version; sweeps (`notellm2 ablate`) have a run below them "
        "for each cell.\n\n"
        "A run's description says what came of it: the verdict, what to be careful about, figures with intervals, and "
        "links to its report and its version. To compare two runs, tick both and press *Compare*: `recall_at_10/…` and "
        "`comparison/…` are the figures to look at, the table `evaluation/queries.json` has every query."
    ),
}


@dataclass(frozen=True)
class Tracking:
    """One MLflow store, one experiment and one registered model in it.

    Attributes:
        uri: of the store: a database or a server.
        experiment: name of the experiment that holds the runs.
        model_name: name of the registered model that holds the versions.
        artifacts: folder of runs' and models' files; None where a server decides.
        locks: folder of lock files, which exclude other processes on this machine.
    """

    uri: str
    experiment: str
    model_name: str
    artifacts: Path | None
    locks: Path

    @classmethod
    def at(cls, workspace: Workspace, config: RegistryConfig | None = None) -> Tracking:
        """Return the store of a workspace, or the one that ``MLFLOW_TRACKING_URI`` names. Touches no file.

        Raises:
            InputError: the variable names a store that MLflow no longer has or that depends on the current
                folder, or a server with a password in its address, or the registered model's name has characters
                that MLflow refuses.
        """
        config = config or RegistryConfig()
        if re.search(r"[/:]", config.model_name):
            raise InputError(f"registry.model_name {config.model_name!r}: expected a name without '/' and ':'")
        uri = _checked(os.environ.get(URI_VARIABLE) or workspace.tracking_uri)
        served = uri.startswith(_SERVERS)
        return cls(
            uri=uri,
            experiment=config.experiment,
            model_name=config.model_name,
            artifacts=None if served else workspace.mlflow_artifacts,
            locks=workspace.root / "_mlflow" / "locks",
        )

    @property
    def client(self) -> MlflowClient:
        """A client of this store; makes the SQLite file if there is none, and follows a store that was moved."""
        if self.uri.startswith("sqlite:////"):
            database = Path(self.uri.removeprefix("sqlite:///"))
            database.parent.mkdir(parents=True, exist_ok=True)
            if self.artifacts is not None:
                relocation.follow_move(database, self.artifacts)
        return _client(self.uri)

    @property
    def served(self) -> bool:
        """Whether a server stands before the store, which knows users; a database does not."""
        return self.uri.startswith(_SERVERS)

    @property
    def promoting(self) -> identities.Registrar:
        """The client that moves the champion: as the promoter whose credentials are set, else as `client`.

        Raises:
            InputError: only half of the promoter's credentials is set.
        """
        credentials = identities.promoter() if self.served else None
        return self.client if credentials is None else identities.registrar(self.uri, *credentials)

    @property
    def shown_uri(self) -> str:
        """The URI without its password, for people and logs."""
        return redacted(self.uri)

    def page(self, path: str) -> str:
        """Return the address of one of MLflow's pages, as a person's browser has it.

        MLflow has others, for chat applications, and shows them to whoever has chosen nothing yet.

        Args:
            path: as MLflow names it after ``#``: ``/experiments/0/runs/...``.
        """
        pages = os.environ.get(PAGES_VARIABLE) or (self.uri if self.served else _LOCAL_PAGES)
        return f"{pages.rstrip('/')}/#{path}?workflowType=machine_learning"

    def run_page(self, run_id: str, tab: str | None = None) -> str:
        """Return the address of a run's page, or of one of its tabs: ``artifacts/report.html``."""
        experiment = self.client.get_run(run_id).info.experiment_id
        return self.page(f"/experiments/{experiment}/runs/{run_id}{'' if tab is None else f'/{tab}'}")

    def version_page(self, version: str, model: str | None = None) -> str:
        """Return the address of a version's page; of another registered model where one is named."""
        return self.page(f"/models/{quote(model or self.model_name, safe='')}/versions/{version}")

    @property
    def exists(self) -> bool:
        """Whether there may be something recorded; false only for a SQLite file that is not there yet."""
        return not self.uri.startswith("sqlite:////") or Path(self.uri.removeprefix("sqlite:///")).is_file()

    def experiment_id(self) -> str:
        """Return the experiment's id; makes it on first use.

        Raises:
            InputError: the experiment was deleted in MLflow; says how to go on.
        """
        experiment = self.client.get_experiment_by_name(self.experiment)
        if experiment is None:
            with self.lock("experiment"):
                experiment = self.client.get_experiment_by_name(self.experiment)
                if experiment is None:
                    location = None if self.artifacts is None else self.artifacts.as_uri()
                    return self.client.create_experiment(self.experiment, location, _EXPERIMENT_TAGS)
        if experiment.lifecycle_stage != "active":
            raise InputError(
                f"MLflow experiment {self.experiment!r} in {self.shown_uri} is deleted: restore it with "
                f"`mlflow experiments restore -x {experiment.experiment_id}`, or name another in the recipe "
                "(registry.experiment)"
            )
        return str(experiment.experiment_id)

    def describe_experiment(self) -> None:
        """Give an experiment that was made without a description its own; one that has one keeps it."""
        experiment = self.client.get_experiment(self.experiment_id())
        if "mlflow.note.content" not in experiment.tags:
            for name, value in _EXPERIMENT_TAGS.items():
                self.client.set_experiment_tag(experiment.experiment_id, name, value)

    def lock(self, name: str, *, timeout_s: float = 60.0) -> AbstractContextManager[None]:
        """Exclude every other process on this machine that asks for the same name; a killed holder's lock is free.

        Raises:
            Locked: another process held it for `timeout_s` seconds.
        """
        return file_lock(self.locks / f"{name}.lock", f"the registry's {name}", timeout_s=timeout_s)


def _checked(uri: str) -> str:
    scheme = uri.partition(":")[0]
    if "://" not in uri or scheme == "file" or re.match(r"sqlite:///(?!/)", uri):
        raise InputError(
            f"{URI_VARIABLE} {redacted(uri)!r}: expected a server (http://...), a database (postgresql://...) or an "
            "absolute SQLite file (sqlite:////folder/mlflow.db, four slashes); plain folders are no store of MLflow "
            "any more, and a relative file would depend on the current folder. Unset it to use the workspace's own"
        )
    if uri.startswith(_SERVERS) and "@" in uri.split("/")[2]:
        # MLflow would show it in every error.
        raise InputError(
            f"{URI_VARIABLE} {redacted(uri)!r}: expected no user and password in a server's address; set "
            f"{' and '.join(identities.OWN)} (or {identities.OWN[1]}_FILE)"
        )
    return uri


@cache
def _client(uri: str) -> MlflowClient:
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    identities.read_own()
    from mlflow import MlflowClient

    # A new store is migrated step by step, and alembic tells every one of some sixty steps.
    logging.getLogger("alembic").setLevel(logging.WARNING)
    return MlflowClient(uri, uri)
