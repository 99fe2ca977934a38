"""PostgreSQL: a moment that several databases share, dumps of that moment, and putting them back.

Everything is done by PostgreSQL's own programs; passwords reach them through their environment, never their command
line. Each program must be at least as new as the server.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, cast

from notellm2.errors import InputError

if TYPE_CHECKING:
    from sqlalchemy import Connection

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
"""What the database held goes, in the transaction that brings the new content: both are seen, or neither."""


class DatabaseFailed(OSError):
    """One of PostgreSQL's programs ended with an error; the message has what it said."""


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

    @contextlib.contextmanager
    def connected(self, database: str) -> Iterator[Connection]:
        """A connection whose one transaction sees the database as it is at its first query.

        Raises:
            InputError: the server does not answer, refuses the password, or has no such database.
        """
        import sqlalchemy

        url = sqlalchemy.URL.create(
            "postgresql", username=self.user, password=self.password, host=self.host, port=self.port, database=database
        )
        engine = sqlalchemy.create_engine(url, isolation_level="REPEATABLE READ", connect_args={"connect_timeout": 10})
        try:
            try:
                connection = engine.connect()
            except sqlalchemy.exc.OperationalError as error:
                said = str(error.orig).strip().splitlines()[0]
                raise InputError(f"{self}: cannot open database {database!r} as {self.user!r}: {said}") from None
            with connection:
                yield connection
        finally:
            engine.dispose()

    def program(self, name: str, *arguments: str) -> list[str]:
        """The command line of one of PostgreSQL's programs.

        Raises:
            InputError: it is not installed.
        """
        path = shutil.which(name, path=None if self.programs is None else str(self.programs))
        if path is None:
            where = "on PATH" if self.programs is None else f"in {self.programs}"
            raise InputError(f"{name}: not found {where}; install PostgreSQL's client programs (postgresql-client)")
        return [path, *arguments]

    @property
    def environment(self) -> dict[str, str]:
        """What the programs need to know of the server."""
        own = {
            "PGHOST": self.host,
            "PGPORT": str(self.port),
            "PGUSER": self.user,
            "PGPASSWORD": self.password,
            "PGCONNECT_TIMEOUT": "10",
            "PGAPPNAME": "notellm2 backup",
        }
        return {name: value for name, value in os.environ.items() if not name.startswith("PG")} | own


@dataclass(frozen=True)
class Facts:
    """What is known of a database.

    Attributes:
        version: of the server, as a number: 150018 is 15.18.
        owner: role that owns the database.
        schemas: alembic's revisions by the name of the table they are kept in.
        tables: number of tables that people made.
        sessions: names of the programs that are connected, this one aside.
    """

    version: int
    owner: str
    schemas: dict[str, str]
    tables: int
    sessions: tuple[str, ...]


def facts_of(connection: Connection) -> Facts:
    """What is known of the database that is connected to."""
    version = int(_one(connection, "SHOW server_version_num"))
    owner = str(_one(connection, "SELECT pg_get_userbyid(datdba) FROM pg_database WHERE datname = current_database()"))
    tables = _all(
        connection,
        "SELECT n.nspname, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace "
        "WHERE c.relkind IN ('r', 'p') AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'",
    )
    revisions = {}
    for schema, table in tables:
        if str(table).startswith("alembic_version"):
            found = _all(connection, f'SELECT version_num FROM "{schema}"."{table}"')  # noqa: S608  # names from the catalogue
            revisions[str(table)] = ",".join(sorted(str(row[0]) for row in found))
    sessions = _all(
        connection,
        "SELECT coalesce(nullif(application_name, ''), usename, backend_type) FROM pg_stat_activity "
        "WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'",
    )
    return Facts(version, owner, revisions, len(tables), tuple(sorted({str(row[0]) for row in sessions})))


def roles(connection: Connection) -> set[str]:
    """Names of the server's roles."""
    return {str(row[0]) for row in _all(connection, "SELECT rolname FROM pg_roles")}


def export_moment(connection: Connection) -> str:
    """Name of what this connection sees, for others to see the same while it stays open."""
    return str(_one(connection, "SELECT pg_export_snapshot()"))


def dump(server: Server, database: str, moment: str, path: Path) -> None:
    """Write a database as it was at a moment, in PostgreSQL's custom format.

    Raises:
        DatabaseFailed: `pg_dump` failed.
    """
    arguments = ("--format=custom", f"--snapshot={moment}", f"--file={path}", database)
    _run(server, server.program("pg_dump", *arguments))


def check_dump(server: Server, path: Path) -> None:
    """See that the `pg_restore` here reads a dump.

    Raises:
        DatabaseFailed: it does not: damaged, or written by a newer `pg_dump`.
    """
    _run(server, server.program("pg_restore", "--list", str(path)))


def load(server: Server, database: str, path: Path) -> None:
    """Replace all that a database holds by a dump, in one transaction; owners and permissions are the dump's.

    Raises:
        DatabaseFailed: a program failed; the database is as it was.
    """
    psql = server.program("psql", "--no-psqlrc", "--quiet", "--set=ON_ERROR_STOP=1", f"--dbname={database}")
    script = server.program("pg_restore", "--file=-", str(path))
    with tempfile.TemporaryFile() as said, tempfile.TemporaryFile() as complaint:
        with (
            _started(psql, server, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=said) as loading,
            _started(script, server, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=complaint) as reading,
        ):
            script_out, psql_in = cast(IO[bytes], reading.stdout), cast(IO[bytes], loading.stdin)
            # A program that gives up closes the pipe: its message is what matters.
            with contextlib.suppress(BrokenPipeError):
                # Closed whatever happens: pg_restore would wait for a reader for ever.
                with script_out:
                    psql_in.write(_EMPTY.encode())
                    shutil.copyfileobj(script_out, psql_in)
                # Only a script that came to its end is kept; without this line psql's end rolls all back.
                if reading.wait() == 0:
                    psql_in.write(b"\nCOMMIT;\n")
            with contextlib.suppress(BrokenPipeError):
                psql_in.close()
        if reading.returncode and loading.returncode == 0:
            raise DatabaseFailed(f"pg_restore cannot read {path}: {_last_words(complaint)}")
        if loading.returncode:
            raise DatabaseFailed(f"{server}: database {database!r} is as it was: {_last_words(said)}")


@contextlib.contextmanager
def _started(command: Sequence[str], server: Server, **pipes: Any) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(command, env=server.environment, **pipes)
    try:
        yield process
        process.wait()
    finally:
        # On an error nothing is to be finished: psql without its input would wait, pg_restore without a reader too.
        if process.poll() is None:
            process.kill()
            process.wait()


def _run(server: Server, command: Sequence[str]) -> None:
    done = subprocess.run(
        command, env=server.environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise DatabaseFailed(f"{Path(command[0]).name}: {done.stderr.strip() or f'status {done.returncode}'}")


def _last_words(said: IO[bytes]) -> str:
    said.seek(0)
    return said.read().decode(errors="replace").strip()[-2000:] or "it said nothing"


def _one(connection: Connection, query: str) -> Any:
    return _all(connection, query)[0][0]


def _all(connection: Connection, query: str) -> list[Any]:
    import sqlalchemy

    return list(connection.execute(sqlalchemy.text(query)).all())
