"""What all tests share: single-threaded numerics for speed on small inputs, and the optional shared data."""

from __future__ import annotations

import os
import socket
import sys
import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest
from hypothesis import settings

from tests import installed

if TYPE_CHECKING:
    from tests.flows.running import Place

# Before any numeric library starts its threads: tests are small, and two busy thread pools on two cores only wait.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TQDM_DISABLE", "1")

# The same examples every time: a failure in CI is one that can be seen again. Machines are slow now and then.
settings.register_profile("fixed", derandomize=True, deadline=None)
settings.load_profile("fixed")

ROOT = Path(__file__).parents[1]
SLOW = {
    **dict.fromkeys(("model", "training", "embedding"), "need torch"),
    **dict.fromkeys(("stack", "access"), "start servers"),
    **dict.fromkeys(("test_cli.py", "test_cli_promotion.py"), "start many processes"),
    **dict.fromkeys(
        (
            "registry",
            "promotion/test_lineage.py",
            "promotion/test_retention.py",
            "promotion/test_status.py",
            "promotion/test_transaction.py",
            "promotion/test_transaction_late.py",
        ),
        "make databases of MLflow",
    ),
    **dict.fromkeys(("quality/test_judge.py", "quality/test_quality_stage.py"), "render Data Docs"),
    "evaluation/report/test_report.py": "draws every plot",
    "sample/test_generate.py": "draws thousands of images",
}
"""What `--fast` leaves out of tests/unit/, and why."""


class _WithoutTorch:
    """Lets nothing import torch: what `--fast` promises is then checked by every run of it."""

    def find_spec(self, name: str, _path: object = None, _target: object = None) -> None:
        if name == "torch":
            raise ModuleNotFoundError(
                "--fast runs without torch: this test belongs to SLOW in tests/conftest.py", name=name
            )


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--fast", action="store_true", help="leave out the unit tests that need torch, servers or databases"
    )


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--fast"):
        sys.meta_path.insert(0, _WithoutTorch())  # type: ignore[arg-type]


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    slow = any(collection_path == ROOT / "tests" / "unit" / name for name in SLOW)
    return True if config.getoption("--fast") and slow else None


# For every process that a test starts too.
os.environ["PYTHONPATH"] = PYTHONPATH = installed.use()


def free_ports(count: int) -> list[int]:
    """Ports that nothing listens on at the moment."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


class Retrained(NamedTuple):
    """A finished run of the flow: where, and what it printed."""

    place: Place
    output: str
    log: str


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with real data and models beside the project, or a skip that says it is missing."""
    path = ROOT.parent / "shared"
    if not (path / "data" / "movielens-posters" / "notes.parquet").exists():
        pytest.skip(f"needs the shared data and models in {path}")
    return path


@pytest.fixture(scope="session")
def retrained(tmp_path_factory: pytest.TempPathFactory) -> Retrained:
    """The tiny recipe run once, for all tests that look at what a run leaves: its place and what it printed."""
    from tests.flows.running import Place

    place = Place(tmp_path_factory.mktemp("retrained"))
    done = place.retrain()
    assert done.returncode == 0, done.stderr[-6000:]
    return Retrained(place, done.stdout, done.stderr)


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    """An S3 server on loopback with a bucket."""
    from tests.unit.publication import s3_server

    with pytest.MonkeyPatch.context() as patch, s3_server.serving() as endpoint:
        s3_server.use(patch, endpoint)
        s3_server.client().create_bucket(Bucket=s3_server.BUCKET)
        yield endpoint


@pytest.fixture
def s3_place(s3_endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URL of an empty place on S3."""
    from tests.unit.publication import s3_server

    s3_server.use(monkeypatch, s3_endpoint)
    monkeypatch.setenv("NOTELLM2_CACHE", str(tmp_path / "cache"))
    return f"s3://{s3_server.BUCKET}/{uuid.uuid4().hex}"
