"""The whole stack for real, once a session: PostgreSQL, MLflow, Prefect, a worker, the serving, and moto as S3."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from notellm2.errors import InputError
from notellm2.stack import postgres
from notellm2.stack.native import Stack
from notellm2.stack.settings import Settings, write_secrets
from tests.conftest import ROOT, free_ports
from tests.stack.outage import MODEL, Retraining, retrain_through_an_outage
from tests.unit.publication import s3_server

_OF_SERVICES = re.compile(r"(MLFLOW|PREFECT|AWS|NOTELLM2|POSTGRES|S3|PG)[A-Z0-9_]*")
IDENTITIES = ("admin", "trainer", "promoter", "reader")


@dataclass(frozen=True)
class RunningStack:
    """A stack that is up, as a test's client sees it. Tests leave it usable: what they stop, they start."""

    native: Stack
    settings: Settings
    env_file: Path
    root: Path

    @property
    def mlflow_url(self) -> str:
        return self.native.url("mlflow")

    @property
    def prefect_url(self) -> str:
        """Prefect's API."""
        return self.native.url("prefect-server") + "/api"

    @property
    def serving_url(self) -> str:
        return self.native.url("serving")

    @property
    def s3_url(self) -> str:
        return self.settings.variables["S3_ENDPOINT_URL"]

    @property
    def bucket(self) -> str:
        return self.settings.variables["S3_BUCKET"]

    @property
    def home(self) -> Path:
        """The worker's folder, where paths of a deployment begin; its recipes are a copy, for tests to add to."""
        return Path(self.native.environment("worker")["NOTELLM2_HOME"])

    @property
    def store(self) -> Path:
        """The store of the deployments."""
        return self.home / "store"

    def password(self, identity: str) -> str:
        return self.settings.variables[f"MLFLOW_{identity.upper()}_PASSWORD"]

    def env(self, identity: str) -> dict[str, str]:
        """The whole environment of a client process: a worker's, but as this MLflow user, who cannot promote beside."""
        assert identity in IDENTITIES
        own = {name: value for name, value in os.environ.items() if not _OF_SERVICES.fullmatch(name)}
        theirs = dict(self.native.environment("worker"))
        for name in ("NOTELLM2_PROMOTER_USERNAME", "NOTELLM2_PROMOTER_PASSWORD"):
            theirs.pop(name, None)
        home = self.root / "clients" / identity
        home.mkdir(parents=True, exist_ok=True)
        return {
            **own,
            **theirs,
            "MLFLOW_TRACKING_USERNAME": identity,
            "MLFLOW_TRACKING_PASSWORD": self.password(identity),
            "PREFECT_HOME": str(home),
        }

    def restart(self, name: str) -> None:
        """Stop a service, start it, wait until it is well."""
        self.native.restart(name)

    def pid(self, name: str) -> int:
        return self.native.pid(name)

    def log(self, name: str) -> str:
        return self.native.log_path(name).read_text(errors="replace")


def write_env(folder: Path, **values: object) -> Path:
    """An env file with secrets of its own, free ports, and these values."""
    ports = ("POSTGRES_PORT", "PREFECT_PORT", "MLFLOW_PORT", "SERVING_PORT", "WORKER_HEALTH_PORT")
    chosen = {**dict(zip(ports, free_ports(len(ports)), strict=True)), "MLFLOW_WORKERS": 1, **values}
    env_file = folder / ".env"
    write_secrets(env_file, ROOT / ".env.example")
    lines = [line for line in env_file.read_text().splitlines() if line.split("=")[0] not in chosen]
    env_file.write_text("\n".join([*lines, *(f"{name}={value}" for name, value in chosen.items())]) + "\n")
    return env_file


@pytest.fixture(scope="session")
def stack_folder() -> Iterator[Callable[[], Path]]:
    """Makes folders that PostgreSQL's own system user can pass through, which pytest's are not."""
    try:
        postgres.programs()
        postgres.system_user("postgres")
    except InputError as missing:
        pytest.skip(str(missing))
    with ExitStack() as stack:

        def make() -> Path:
            folder = Path(tempfile.mkdtemp(prefix="notellm2-stack-"))
            folder.chmod(0o711)
            stack.callback(shutil.rmtree, folder, ignore_errors=True)
            return folder

        yield make


@pytest.fixture(scope="session")
def stack(stack_folder: Callable[[], Path]) -> Iterator[RunningStack]:
    """All servers, up and well, on free ports, with an object store."""
    root = stack_folder()
    with s3_server.serving() as s3:
        shutil.copytree(ROOT / "recipes", root / "home" / "recipes")
        (root / "home" / "flows").symlink_to(ROOT / "flows")
        env_file = write_env(root, S3_ENDPOINT_URL=s3, NOTELLM2_HOME=root / "home")
        settings = Settings.load(env_file)
        native = Stack(settings, ROOT / "docker-compose.yml", root / "state")
        try:
            # Without the deployments: their schedules would begin runs in the middle of a test.
            native.up([name for name in native.names() if name != "deployments"])
            yield RunningStack(native, settings, env_file, root)
        finally:
            native.down()


@pytest.fixture(scope="session")
def through_outage(stack: RunningStack, tmp_path_factory: pytest.TempPathFactory) -> Retraining:
    """A retraining by a trainer while the servers went away, then its promotion: refused as trainer, then done."""
    place = retrain_through_an_outage(stack, tmp_path_factory.mktemp("outage"))
    command = ("-m", "notellm2", "promote", "1", "--model", MODEL, "--store", "store", "--reason", "the tests say so")
    place.run("promote as trainer", *command, user="trainer")
    place.run("promote", *command, user="trainer", promoting=True)
    place.run("history", "-m", "notellm2", "history", "--store", "store", user="reader")
    return place
