"""A small set-up to back up: real PostgreSQL, S3 on loopback, a store with artifacts, and a published index."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from notellm2.artifacts import Artifact, Store
from notellm2.publication import s3
from notellm2.publication.pointer import Publication, read_pointer
from notellm2.publication.publish import point, prepare
from notellm2.stack.backup.archive import Archive
from notellm2.stack.backup.databases import Server
from notellm2.stack.backup.scope import DATABASES, Scope, read_scope
from tests.unit.index.examples import DATA_MD5
from tests.unit.registry.world import A, index_of

OWNER = "owner"
EMPTY = """
SET client_min_messages = warning; DROP SCHEMA public CASCADE; CREATE SCHEMA public AUTHORIZATION pg_database_owner;
"""
REVISION = "c8d5f2a71b3e"
"""Of Prefect's schema, known to the release that is installed."""


def sql(server: Server, database: str, script: str) -> str:
    """Run a script as the superuser; what it printed."""
    psql = ("psql", "--no-psqlrc", "--quiet", "--tuples-only", "--no-align", "--set=ON_ERROR_STOP=1")
    return server.run(*psql, f"--dbname={database}", script=script).stdout.strip()


@dataclass(frozen=True)
class World:
    """The set-up, and the folder it is backed up to.

    Attributes:
        variables: that describe it.
        scope: as they describe it.
        archive: the folder of backups.
    """

    variables: dict[str, str]
    scope: Scope
    archive: Archive

    @classmethod
    def make(cls, server: Server, root: Path) -> World:
        """A full one; its databases are emptied first."""
        for database in DATABASES:
            sql(server, database, EMPTY)
        variables = {
            "PGHOST": server.host,
            "PGPORT": str(server.port),
            "PGUSER": server.user,
            "PGPASSWORD": server.password,
        }
        world = cls.of(variables, root)
        world.fill()
        return world

    @classmethod
    def of(cls, server: Mapping[str, str], root: Path) -> World:
        """One with a store and a bucket of its own, and nothing in them."""
        bucket = f"bucket-{uuid.uuid4().hex}"
        s3.s3_client().create_bucket(Bucket=bucket)
        variables = {
            **server,
            "S3_BUCKET": bucket,
            "NOTELLM2_STORE": str(root / f"store of {bucket}"),
            "NOTELLM2_PUBLISHED": f"s3://{bucket}/published",
            "MLFLOW_ARTIFACTS_DESTINATION": f"s3://{bucket}/mlflow",
        }
        return cls(variables, read_scope(variables), Archive(root / "backups"))

    def fill(self) -> None:
        """An artifact, imported data, an object, rows in both databases, and an index in use."""
        for number, database in enumerate(DATABASES):
            sql(
                self.server,
                database,
                f"SET ROLE {OWNER}; CREATE EXTENSION pg_trgm; CREATE TABLE alembic_version (version_num text);"
                f"INSERT INTO alembic_version VALUES ('{REVISION}');"
                f"CREATE TABLE rows (id int PRIMARY KEY, said text); INSERT INTO rows VALUES (1, 'row of {number}');"
                "CREATE INDEX ON rows USING gin (said gin_trgm_ops);",
            )
        self.artifact("weights", b"w" * 5000)
        data = self.store.root / "_data" / "one" / "notes.parquet"
        data.parent.mkdir(parents=True)
        data.write_bytes(b"notes")
        self.put("mlflow/1/run/artifacts/report.html", b"<p>report</p>", {"sha256": "told", "who": "a test"})
        self.publish(7)

    @property
    def server(self) -> Server:
        return self.scope.server

    @property
    def store(self) -> Store:
        return Store(self.scope.workspace.root)

    def artifact(self, name: str, content: bytes) -> Artifact:
        def write(folder: Path) -> None:
            (folder / "deep").mkdir()
            (folder / "deep" / name).write_bytes(content)

        return self.store.build("training", 1, {"name": name}, {}, write)

    def put(self, key: str, content: bytes, about: dict[str, str] | None = None) -> None:
        bucket = self.variables["S3_BUCKET"]
        s3.s3_client().put_object(Bucket=bucket, Key=key, Body=content, Metadata=about or {}, ContentType="text/html")

    def publish(self, seed: int) -> Publication:
        """Publish an index and point to it."""
        location = self.scope.published
        index = index_of(self.store, A, seed)
        publication = prepare(
            location, index, model_name="notellm2", model_version=str(seed), data_md5=DATA_MD5, bundle=A
        )
        stored = location.read("current.json")
        return point(location, publication, expected=None if stored is None else read_pointer(location).version)

    def rows(self) -> list[str]:
        """What both databases say, with the owners of their tables."""
        query = "SELECT said, (SELECT tableowner FROM pg_tables WHERE tablename = 'rows') FROM rows ORDER BY id"
        return [sql(self.server, database, query) for database in DATABASES]

    def files(self) -> dict[str, bytes]:
        """All files of all storages, and the pointer."""
        contents = {}
        for name, storage in self.scope.storages.items():
            for entry in self.scope.entries(name):
                with storage.open(entry.name) as (stream, _):
                    contents[f"{name}:{entry.name}"] = stream.read()
        stored = self.scope.published.read("current.json")
        return contents if stored is None else {**contents, "pointer": stored.data}

    def seen(self) -> tuple[list[str], dict[str, bytes]]:
        return self.rows(), self.files()

    def wiped(self) -> World:
        """Another, empty set-up with the same databases, emptied, as after a disaster."""
        for database in DATABASES:
            sql(self.server, database, EMPTY)
        server = {name: value for name, value in self.variables.items() if name.startswith("PG")}
        return World.of(server, self.archive.root.parent)
