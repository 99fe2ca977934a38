"""Dump and load PostgreSQL's databases as of one moment, by PostgreSQL's own programs.

Passwords reach the programs through their environment, never their command line. Each program must be at least as new
as the server.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, cast

from notellm2.errors import InputError

_PSQL = ("psql", "--no-psqlrc", "--no-align", "--tuples-only", "--set=ON_ERROR_STOP=1")
_FACTS = """
SELECT current_setting('server_version_num');
SELECT count(*) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
  WHERE c.relkind IN ('r', 'p') AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema';
SELECT DISTINCT coalesce(nullif(application_name, ''), usename, backend_type) FROM pg_stat_activity
  WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend' ORDER BY 1;
"""
_EMPTY = """
SET client_min_messages = warning;
BEGIN;
DO $empty$
DECLARE schema name;
BEGIN
  FOR schema IN
    SELECT n.nspname FROM pg_namespace n WHERE n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
  LOOP
    EXECUTE format('DROP SCHEMA %I CASCADE', schema);
  END LOOP;
END $empty$;
CREATE SCHEMA public AUTHORIZATION pg_database_owner;
GRANT USAGE ON SCHEMA public TO PUBLIC;
"""
_LOAD = """{ printf '%s' "$EMPTY"; pg_restore --file=- "$DUMP" && echo 'COMMIT;'; } | "$@" """
"""What the database held goes in the transaction that brings the new content: both are seen, or neither. A dump that
ends early is never committed, and psql's end rolls all of it back."""


class DatabaseFailed(OSError):
    """One of PostgreSQL's programs ended with an error; the message has what it said."""


@dataclass(frozen=True)
class Facts:
    """What is known of a database.

    Attributes:
        version: of the server, as a number: 150018 is 15.18.
        tables: number of tables that people made.
        sessions: names of the programs that are connected, this one aside.
    """

    version: int
    tables: int
    sessions: tuple[str, ...]


@dataclass(frozen=True)
class Server:
    """A PostgreSQL server and a role that may read and replace every database of the backup.

    Attributes:
        host: name or address.
        port: number.
        user: the role.
        password: of the role.
        programs: folder of psql, pg_dump and pg_restore; None: found on PATH.
    """

    host: str
    port: int
    user: str
    password: str = field(repr=False)
    programs: Path | None = None

    def __str__(self) -> str:
        return f"PostgreSQL at {self.host}:{self.port}"

    @property
    def environment(self) -> dict[str, str]:
        """The environment of PostgreSQL's programs."""
        path = os.environ.get("PATH", os.defpath)
        return {name: value for name, value in os.environ.items() if not name.startswith("PG")} | {
            "PATH": path if self.programs is None else f"{self.programs}{os.pathsep}{path}",
            "PGHOST": self.host,
            "PGPORT": str(self.port),
            "PGUSER": self.user,
            "PGPASSWORD": self.password,
            "PGCONNECT_TIMEOUT": "10",
            "PGAPPNAME": "notellm2 backup",
        }

    def facts(self, database: str) -> Facts:
        """Collect what is known of a database.

        Raises:
            InputError: the server does not answer, refuses the password, or has no such database.
        """
        try:
            version, tables, *sessions = self.run(*_PSQL, f"--dbname={database}", script=_FACTS).stdout.splitlines()
        except DatabaseFailed as error:
            raise self._closed(database, str(error)) from None
        return Facts(int(version), int(tables), tuple(sessions))

    @contextlib.contextmanager
    def snapshot(self, database: str) -> Iterator[str]:
        """Name what a database holds now, for `dump` to see the same while the block lasts.

        Raises:
            InputError: as `facts`.
        """
        with _named_when_missing(), subprocess.Popen(
            [*_PSQL, "--quiet", f"--dbname={database}"], env=self.environment, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        ) as session:  # fmt: skip
            stdin, stdout, stderr = (cast(IO[str], pipe) for pipe in (session.stdin, session.stdout, session.stderr))
            with contextlib.suppress(BrokenPipeError):
                stdin.write("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SELECT pg_export_snapshot();\n")
                stdin.flush()
            name = stdout.readline().strip()
            if not name:
                raise self._closed(database, stderr.read())
            yield name

    def dump(self, database: str, snapshot: str, path: Path) -> None:
        """Write what a snapshot sees of a database, in PostgreSQL's custom format.

        Raises:
            DatabaseFailed: `pg_dump` failed.
        """
        self.run("pg_dump", "--format=custom", f"--snapshot={snapshot}", f"--file={path}", database)

    def check_dump(self, path: Path) -> None:
        """See that the `pg_restore` here reads a dump.

        Raises:
            DatabaseFailed: it does not: damaged, or written by a newer `pg_dump`.
        """
        self.run("pg_restore", "--list", str(path))

    def load(self, database: str, path: Path) -> None:
        """Replace all that a database holds by a dump, in one transaction; owners and permissions are the dump's.

        Raises:
            DatabaseFailed: a program failed; the database is as it was.
        """
        command = ("sh", "-c", _LOAD, "load", *_PSQL, f"--dbname={database}")
        unchanged = f"{self}: database {database!r} is as it was"
        try:
            done = self.run(*command, variables={"EMPTY": _EMPTY, "DUMP": str(path)})
        except DatabaseFailed as error:
            raise DatabaseFailed(f"{unchanged}: {error}") from None
        if not done.stdout.rstrip().endswith("COMMIT"):
            raise DatabaseFailed(f"{unchanged}: pg_restore cannot read {path}: {done.stderr.strip()[-2000:]}")

    def run(
        self, *command: str, script: str = "", variables: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run one of PostgreSQL's programs.

        Raises:
            InputError: it is not installed.
            DatabaseFailed: it failed; has the end of what it said.
        """
        environment = {**self.environment, **(variables or {})}
        with _named_when_missing():
            done = subprocess.run(command, env=environment, input=script, capture_output=True, text=True, check=False)
        if done.returncode:
            raise DatabaseFailed(done.stderr.strip()[-2000:] or f"{command[0]}: status {done.returncode}")
        return done

    def _closed(self, database: str, said: str) -> InputError:
        why = said.strip().partition("\n")[0] or "psql said nothing"
        return InputError(f"{self}: cannot open database {database!r} as {self.user!r}: {why}")


@contextlib.contextmanager
def _named_when_missing() -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise InputError(
            f"{error.filename}: not found; install PostgreSQL's client programs (postgresql-client)"
        ) from None
