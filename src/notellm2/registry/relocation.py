"""A store that was moved or copied: MLflow's records follow it to its new place.

MLflow writes the absolute address of every run's and model's files into its database, and a new run would write into
the place where the experiment was made: after a move into a folder that is made anew there, and from a copy into the
original. Where the database lies in the store itself, its addresses are therefore those of the store as it is opened.
"""

from __future__ import annotations

import functools
import sqlite3
import urllib.parse
import urllib.request
from contextlib import closing
from pathlib import Path

_LAYOUT = "/_mlflow/artifacts"
_ADDRESSES = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)
"""Tables and columns of MLflow that hold addresses of files."""

_PATHS = (("tags", "value"), ("model_version_tags", "value"))
"""Tables and columns that hold paths of publications within the store."""


@functools.cache
def follow_move(database: Path, artifacts: Path) -> None:
    """Let the records of a store's own database name the store's present place; once a process.

    Args:
        database: MLflow's SQLite file; nothing is done where it is not there yet or lies in another store.
        artifacts: folder of runs' and models' files as the store has it now.
    """
    if not database.is_file() or database.parent != artifacts.parent:
        return
    with closing(sqlite3.connect(database, timeout=60)) as connection:
        try:
            moved = [old for old in _recorded(connection) if not _is_same_place(old, artifacts)]
        except sqlite3.OperationalError:
            raise
        except sqlite3.DatabaseError:
            return  # It is no database, or a damaged one: whoever opens it next says so, with what to do.
        if not moved:
            return
        try:
            with connection:
                for old in moved:
                    _readdress(connection, old, artifacts)
        except sqlite3.OperationalError as error:
            if "readonly" not in str(error):
                raise
            # A store that is only read may lie anywhere: nothing is written through these addresses.


def _recorded(connection: sqlite3.Connection) -> list[str]:
    """Addresses of a store's artifacts that experiments were made with."""
    if not _has(connection, "experiments", "artifact_location"):
        return []
    rows = connection.execute("SELECT DISTINCT artifact_location FROM experiments").fetchall()
    return [uri for (uri,) in rows if uri and uri.startswith("file:") and uri.endswith(_LAYOUT)]


def _is_same_place(uri: str, artifacts: Path) -> bool:
    return uri == artifacts.as_uri() or _path(uri).resolve() == artifacts.resolve()


def _path(uri: str) -> Path:
    return Path(urllib.request.url2pathname(urllib.parse.urlsplit(uri).path))


def _readdress(connection: sqlite3.Connection, old: str, artifacts: Path) -> None:
    replacements = [(table, column, old, artifacts.as_uri()) for table, column in _ADDRESSES]
    before, now = (str(path.parent.parent) + "/" for path in (_path(old), artifacts))
    replacements += [(table, column, before, now) for table, column in _PATHS]
    for table, column, was, becomes in replacements:
        if _has(connection, table, column):
            # Names of tables and columns are those above.
            connection.execute(
                f"UPDATE {table} SET {column} = ? || substr({column}, ?) WHERE substr({column}, 1, ?) = ?",  # noqa: S608
                (becomes, len(was) + 1, len(was), was),
            )


def _has(connection: sqlite3.Connection, table: str, column: str) -> bool:
    return any(row[1] == column for row in connection.execute(f"PRAGMA table_info({table})"))
