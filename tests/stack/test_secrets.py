"""The stack's own secrets, which are random texts, looked for in everything a retraining and its servers leave."""

from __future__ import annotations

import base64
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from notellm2.stack import postgres
from tests.stack.conftest import RunningStack
from tests.stack.outage import Retraining, texts
from tests.unit.publication import s3_server

_NAMES = ("PASSWORD", "SECRET", "PREFECT_AUTH", "S3_ACCESS_KEY")


@pytest.fixture(scope="module")
def needles(through_outage: Retraining) -> dict[bytes, str]:
    """Every secret in every form that a header, a URL or a text may have, to the name of its variable."""
    stack = through_outage.stack
    found: dict[bytes, str] = {}
    for name, value in stack.settings.variables.items():
        if not any(part in name for part in _NAMES):
            continue
        users = [name.split("_")[1].lower()] if name.startswith("MLFLOW_") else []
        forms = [value, quote(value, safe=""), value.partition(":")[2]]
        forms += [base64.b64encode(f"{given}".encode()).decode() for given in (value, *(f"{u}:{value}" for u in users))]
        found |= {form.encode(): name for form in forms if form}
    assert len(set(found.values())) >= 10, "the stack has that many secrets"
    assert min(map(len, found)) >= 12, "a shorter one would be found everywhere"
    return found


def leaks(searched: Mapping[Any, bytes], needles: Mapping[bytes, str]) -> list[tuple[str, str]]:
    """Where which secret was found."""
    return sorted({(str(place), needles[form]) for place, text in searched.items() for form in needles if form in text})


def test_the_needles_are_found_where_they_are(through_outage: Retraining, needles: dict[bytes, str]) -> None:
    held = leaks({".env": through_outage.stack.env_file.read_bytes()}, needles)
    assert {name for _, name in held} == set(needles.values())


def test_nothing_that_was_printed_or_written_by_a_client_holds_one(
    through_outage: Retraining, needles: dict[bytes, str]
) -> None:
    said = {name: (done.stdout + done.stderr).encode() for name, done in through_outage.said.items()}
    assert len(b"".join(said.values())) > 1000
    assert leaks(said, needles) == []
    files = texts(through_outage.root, but=lambda path: path == through_outage.root / "secrets")
    assert any(path.name == "manifest.json" for path in files)
    assert any(path.name == "report.html" for path in files)
    assert leaks(files, needles) == []
    clients = texts(through_outage.stack.root / "clients", but=lambda _path: False)
    assert leaks(clients, needles) == []


def test_neither_logs_nor_volumes_of_the_stack_hold_one(through_outage: Retraining, needles: dict[bytes, str]) -> None:
    stack = through_outage.stack
    state = stack.native.state
    assert state.supervisor_file.stat().st_mode & 0o077 == 0, "the programs' environments are their owner's alone"
    database = [folder for folder in state.volumes.iterdir() if "postgres" in folder.name]
    assert database
    left = texts(stack.root, but=lambda path: path in (stack.env_file, state.supervisor_file, *database))
    assert any("mlflow" in path.name for path in left), "logs"
    assert leaks(left, needles) == []


@pytest.mark.parametrize("database", ["mlflow", "prefect"])
def test_neither_database_holds_one(through_outage: Retraining, needles: dict[bytes, str], database: str) -> None:
    """All of MLflow's parameters, tags and users, all of Prefect's parameters, artifacts, logs and events."""
    stack = through_outage.stack
    dump = _dumped(stack, database)
    assert b"through-an-outage" in dump
    assert leaks({database: dump}, needles) == []


def test_no_object_in_the_bucket_holds_one(through_outage: Retraining, needles: dict[bytes, str]) -> None:
    stack = through_outage.stack
    with pytest.MonkeyPatch.context() as patch:
        s3_server.use(patch, stack.s3_url)
        client = s3_server.client()
        pages = client.get_paginator("list_objects_v2").paginate(Bucket=stack.bucket)
        keys = [entry["Key"] for page in pages for entry in page.get("Contents", ())]
        objects = {
            key: client.get_object(Bucket=stack.bucket, Key=key)["Body"].read()
            for key in keys
            if "through-an-outage" in key or key.endswith((".json", ".yaml", ".md", ".html", "MLmodel"))
        }
    assert any(key.endswith("recipe.yaml") for key in objects)
    assert any(key.endswith("current.json") for key in objects)
    assert leaks(objects, needles) == []


def _dumped(stack: RunningStack, database: str) -> bytes:
    variables = stack.settings.variables
    done = subprocess.run(
        [str(Path(postgres.programs()) / "pg_dump"), "--host=127.0.0.1", f"--port={variables['POSTGRES_PORT']}",
         "--username=postgres", "--inserts", database],
        env={"PGPASSWORD": variables["POSTGRES_PASSWORD"], "PATH": "/usr/bin:/bin"},
        capture_output=True,
        timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout
