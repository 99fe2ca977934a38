"""One PostgreSQL of its own for the tests that need one, with two databases of their own for each test."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from notellm2.errors import InputError
from notellm2.publication import s3
from notellm2.publication.s3 import s3_client
from notellm2.stack import postgres
from notellm2.stack.backup import storage
from notellm2.stack.backup.databases import Server
from notellm2.stack.backup.scope import DATABASES
from tests.conftest import free_ports
from tests.unit.publication import s3_server
from tests.unit.stack.backup.world import OWNER, World, sql

PASSWORD = uuid.uuid4().hex


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    """A cluster on loopback; not under pytest's own folder, which other users may not enter."""
    try:
        programs, user = postgres.programs(), postgres.system_user("postgres")
    except InputError as missing:
        pytest.skip(str(missing))
    folder = Path(tempfile.mkdtemp(prefix="notellm2-pg-"))
    folder.chmod(0o711)
    data, port = folder / "data", free_ports(1)[0]
    options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories= -c fsync=off"

    def control(*arguments: str) -> None:
        command = [str(programs / "pg_ctl"), f"--pgdata={data}", "--wait", *arguments]
        # Not captured: the server would keep the pipe open.
        subprocess.run(command, user=user or None, cwd="/", stdout=subprocess.DEVNULL, check=True)

    try:
        postgres.prepare_data(data, programs, user, PASSWORD)
        control(f"--log={data}/log", f"--options={options}", "start")
        try:
            server = Server("127.0.0.1", port, "postgres", PASSWORD, programs)
            # One pair for all tests, each of which begins with both empty: a database takes PostgreSQL 0.1 s to make.
            sql(server, "postgres", f"CREATE ROLE {OWNER} LOGIN")
            for database in DATABASES:
                sql(server, "postgres", f"CREATE DATABASE {database} OWNER {OWNER}")
            yield server
        finally:
            control("--mode=immediate", "stop")
    finally:
        shutil.rmtree(folder)


@pytest.fixture(scope="session")
def objects(s3_endpoint: str) -> Any:
    """One client of the object store for all tests: each costs boto3 0.2 s."""
    with pytest.MonkeyPatch.context() as patch:
        s3_server.use(patch, s3_endpoint)
        return s3_client()


@pytest.fixture
def world(server: Server, tmp_path: Path, s3_endpoint: str, objects: Any, monkeypatch: pytest.MonkeyPatch) -> World:
    """A set-up with a store, a bucket and two databases, all with something in them."""
    s3_server.use(monkeypatch, s3_endpoint)
    for module in (s3, storage):
        monkeypatch.setattr(module, "s3_client", lambda: objects)
    monkeypatch.setenv("NOTELLM2_CACHE", str(tmp_path / "cache"))
    return World.make(server, tmp_path)
