"""Building in a process of its own: result, errors, and that the child never outlives its parent."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from notellm2.artifacts import Artifact, Store
from notellm2.errors import InputError
from notellm2.index import process
from notellm2.index.layout import IndexInvalid
from notellm2.index.process import build_index_in_subprocess
from notellm2.recipe import IndexConfig
from tests.unit.index.examples import clustered, vectors_artifact

SLOW = IndexConfig(kind="hnsw")

PARENT = """
import json, sys
from pathlib import Path
from notellm2.artifacts import Artifact, Store
from notellm2.index.process import build_index_in_subprocess
from notellm2.recipe import IndexConfig
build_index_in_subprocess(
    Store(Path(sys.argv[1])), Artifact.from_reference(json.loads(sys.argv[2])), IndexConfig(kind="hnsw")
)
"""


def slow_vectors(store: Store) -> Artifact:
    """Enough for a graph to take seconds, for tests that stop it."""
    return vectors_artifact(store, clustered(30_000, 32))


def wait_until(condition: str, met: object, seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not met():  # type: ignore[operator]
        assert time.monotonic() < deadline, f"not within {seconds} s: {condition}"
        time.sleep(0.01)


def alive(pid: int) -> bool:
    try:
        # A zombie has ended; whoever adopted it has only not asked yet.
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def builders(store: Store) -> list[int]:
    """Process ids of running builds: the store writes them into the names of temporary directories."""
    return [int(path.name.split("tmp-")[1].split("-")[0]) for path in (store.root / "index").glob(".*.tmp-*")]


def test_the_index_is_built_once_and_found_without_a_process_afterwards(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    vectors = vectors_artifact(store, clustered(200))
    index = build_index_in_subprocess(store, vectors, IndexConfig(sample=20), threads=1, timeout_s=120)
    assert index.manifest["provenance"] == {"recipe": "test"}
    assert store.problems(index) == []

    def refuse(*_args: object, **_kwargs: object) -> None:
        raise AssertionError("a process was started")

    monkeypatch.setattr(subprocess, "Popen", refuse)
    assert build_index_in_subprocess(store, vectors, IndexConfig(sample=20)) == index


def test_the_childs_refusal_is_raised_here_as_what_it_is(store: Store) -> None:
    broken = clustered(50)
    broken[4, 0] = np.nan
    with pytest.raises(IndexInvalid, match=r"note 'n00004' \(row 4\) is not finite"):
        build_index_in_subprocess(store, vectors_artifact(store, broken), IndexConfig())


def test_damaged_vectors_are_named(store: Store) -> None:
    vectors = vectors_artifact(store, clustered(50))
    content = bytearray(vectors.file("both.npy").read_bytes())
    content[-1] ^= 1
    vectors.file("both.npy").write_bytes(content)
    with pytest.raises(InputError, match=r"is damaged, make it again: both\.npy"):
        build_index_in_subprocess(store, vectors, IndexConfig())


def test_any_other_failure_carries_what_the_child_said(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process.sys, "executable", str(store.root / "broken-python"))
    vectors = vectors_artifact(store, clustered(50))
    broken = store.root / "broken-python"
    broken.write_text("#!/bin/sh\necho no such library >&2\nexit 1\n")
    broken.chmod(0o700)
    with pytest.raises(RuntimeError, match=r"ended with 1:\nno such library"):
        build_index_in_subprocess(store, vectors, IndexConfig())


def test_a_build_that_takes_too_long_is_killed(store: Store) -> None:
    vectors = slow_vectors(store)
    with pytest.raises(TimeoutError, match="longer than"):
        build_index_in_subprocess(store, vectors, SLOW, timeout_s=0.7)
    assert not any(alive(pid) for pid in builders(store))
    assert list((store.root / "index").glob("[!.]*")) == []


def test_a_parent_killed_outright_takes_the_build_with_it(store: Store) -> None:
    vectors = slow_vectors(store)
    command = [sys.executable, "-c", PARENT, str(store.root), json.dumps(vectors.reference())]
    with subprocess.Popen(command) as parent:
        wait_until("the build has begun", lambda: builders(store))
        (builder,) = builders(store)
        assert builder != parent.pid
        assert alive(builder)
        os.kill(parent.pid, signal.SIGKILL)
        parent.wait()
        wait_until("the build has ended", lambda: not alive(builder), 5)
    assert list((store.root / "index").glob("[!.]*")) == []


def test_the_command_prints_the_reference_or_the_refusal(store: Store) -> None:
    vectors = vectors_artifact(store, clustered(60))
    command = [sys.executable, "-m", "notellm2.index", "build", "--store", str(store.root), "--vectors"]

    done = subprocess.run(
        [*command, f"vectors/{vectors.key[:6]}", "--config", '{"sample": 5}', "--threads", "1"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    (line,) = done.stdout.splitlines()
    assert Artifact.from_reference(json.loads(line)).summary["queries"] == 5

    refused = subprocess.run(
        [*command, "vectors/0000", "--config", "{}"], capture_output=True, text=True, check=False, timeout=60
    )
    assert refused.returncode == 2
    assert "expected exactly one match" in refused.stderr
    assert json.loads(refused.stdout)["error"] == "InputError"

    wrong = subprocess.run(
        [*command, "vectors/0000", "--config", '{"kind": "pq"}'],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert wrong.returncode == 2
    assert "kind" in wrong.stderr


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("notellm2.index", {"faiss", "torch", "numpy"}),
        ("notellm2.index.process", {"faiss", "torch"}),
        ("notellm2.publication.publish", {"faiss", "torch"}),
        ("notellm2.publication.reader", {"torch", "pydantic", "yaml", "pyarrow", "mlflow"}),
    ],
)
def test_modules_import_only_what_they_need(module: str, absent: set[str]) -> None:
    probe = f"import sys, {module}; print(*sorted(m for m in sys.modules if '.' not in m))"
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True, timeout=60)
    assert absent.isdisjoint(done.stdout.split())
