"""Loading a dump: what PostgreSQL's programs say is told, whichever of them gives up first."""

from __future__ import annotations

from pathlib import Path

import pytest

from notellm2.stack.backup.databases import DatabaseFailed, Server

MANY = "head -c 4000000 /dev/zero"
"""More than a pipe holds."""


@pytest.fixture
def server(tmp_path: Path) -> Server:
    return Server("127.0.0.1", 5432, "postgres", "k7Qd2vXw9LmRz4Ht", programs=tmp_path)


def write(folder: Path, **scripts: str) -> None:
    for name, script in scripts.items():
        (folder / name).write_text(f"#!/bin/sh\n{script}\n")
        (folder / name).chmod(0o755)


@pytest.mark.timeout(60)
def test_a_database_that_gives_up_in_the_middle_is_told_at_once(server: Server, tmp_path: Path) -> None:
    write(tmp_path, psql="head -c 1000 > /dev/null; echo 'role \"gone\" does not exist' >&2; exit 3", pg_restore=MANY)
    with pytest.raises(DatabaseFailed, match="database 'mlflow' is as it was: role \"gone\" does not exist"):
        server.load("mlflow", tmp_path / "mlflow.dump")


def test_a_dump_that_ends_early_is_not_kept(server: Server, tmp_path: Path) -> None:
    write(tmp_path, psql=f"cat > {tmp_path}/script", pg_restore="echo SELECT 1; echo 'unexpected end' >&2; exit 1")
    with pytest.raises(DatabaseFailed, match=r"pg_restore cannot read .*mlflow\.dump: unexpected end"):
        server.load("mlflow", tmp_path / "mlflow.dump")
    assert "COMMIT" not in (tmp_path / "script").read_text()
    write(tmp_path, pg_restore="echo SELECT 1", psql=f"cat > {tmp_path}/script; echo COMMIT")
    server.load("mlflow", tmp_path / "mlflow.dump")
    assert (tmp_path / "script").read_text().endswith("SELECT 1\nCOMMIT;\n")
