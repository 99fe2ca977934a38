from __future__ import annotations

from pathlib import Path

import pytest

from notellm2.errors import InputError
from notellm2.stack.backup.scope import DATABASES, dvc_remotes, read_scope
from tests.conftest import ROOT

GIVEN = {
    "PGHOST": "127.0.0.1",
    "PGUSER": "postgres",
    "PGPASSWORD": "a-password-of-the-superuser",
    "PATH": "/usr/bin",
}


OF_HOME = ("store", "pins", "dvc-cache")


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    return {**GIVEN, "NOTELLM2_STORE": str(tmp_path / "store"), "MLFLOW_ARTIFACTS_DESTINATION": str(tmp_path / "files")}


def test_a_set_up_of_plain_folders(environment: dict[str, str], tmp_path: Path):
    scope = read_scope(environment)
    assert scope.server.port == 5432
    assert {name: str(storage) for name, storage in scope.storages.items()} == {
        "store": environment["NOTELLM2_STORE"],
        "mlflow": environment["MLFLOW_ARTIFACTS_DESTINATION"],
        "pins": str(tmp_path),
        "dvc-cache": f"{tmp_path}/.dvc/cache",
    }
    assert scope.versions == ("store", "_published/")
    assert str(scope.published) == f"{environment['NOTELLM2_STORE']}/_published"
    for name in ("v1/index.faiss", "current.json"):
        path = tmp_path / "store" / "_published" / ("versions/" + name if "/" in name else name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
    (tmp_path / "store" / "_vision").mkdir()
    (tmp_path / "store" / "_vision" / "features").write_text("x")
    assert [entry.name for entry in scope.entries("store")] == ["_published/versions/v1/index.faiss"]


@pytest.mark.usefixtures("s3_endpoint")
def test_a_set_up_with_a_bucket(environment: dict[str, str], tmp_path: Path):
    given = {
        **environment,
        "PGPORT": "5433",
        "S3_BUCKET": "one",
        "NOTELLM2_PUBLISHED": "s3://one/published",
        "MLFLOW_ARTIFACTS_DESTINATION": "s3://one/mlflow",
    }
    scope = read_scope(given)
    assert scope.server.port == 5433
    assert {name: str(storage) for name, storage in scope.storages.items() if name not in OF_HOME} == {
        "bucket": "s3://one"
    }
    assert scope.versions == ("bucket", "published/")
    elsewhere = read_scope({**given, "NOTELLM2_PUBLISHED": "s3://two/a/b"})
    assert {name: str(storage) for name, storage in elsewhere.storages.items() if name not in OF_HOME} == {
        "bucket": "s3://one",
        "indexes": "s3://two/a/b",
    }
    assert elsewhere.versions == ("indexes", "")


def test_remotes_of_dvc_are_backed_up_or_named(environment: dict[str, str], tmp_path: Path):
    settings = tmp_path / ".dvc"
    settings.mkdir()
    cached = settings / "cache" / "files" / "md5" / "aa" / "bb"
    for path in (cached, settings / "config", tmp_path / "data.dvc", tmp_path / "data" / "notes.parquet"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
    scope = read_scope(environment)
    assert [entry.name for entry in scope.storages["dvc-cache"].entries()] == ["files/md5/aa/bb"]
    assert [entry.name for entry in scope.storages["pins"].entries()] == ["data.dvc", ".dvc/config"]
    (settings / "config").write_text(
        "[core]\n    remote = near\n['remote \"near\"']\n    url = ../dvc\n['remote \"far\"']\n    url = ssh://far/x\n"
    )
    (settings / "config.local").write_text(f"['remote \"other\"']\n    url = {tmp_path}/other\n")
    assert list(dvc_remotes(tmp_path).items()) == [
        ("near", str(tmp_path / "dvc")),
        ("far", "ssh://far/x"),
        ("other", str(tmp_path / "other")),
    ]
    scope = read_scope(environment)
    assert "dvc-cache" not in scope.storages
    assert str(scope.storages["dvc-near"]) == str(tmp_path / "dvc")
    assert [line for line in scope.left_out if line.startswith("DVC")] == [
        "DVC: remote 'far' is elsewhere; back it up where it is"
    ]
    (settings / "config").write_text("no settings")
    with pytest.raises(InputError, match="not readable as DVC's settings"):
        dvc_remotes(tmp_path)


def test_what_is_missing_is_named(environment: dict[str, str], tmp_path: Path):
    del environment["PGPASSWORD"]
    with pytest.raises(InputError, match=r"^PGPASSWORD: not set.*docker compose run --rm backup"):
        read_scope(environment)


def test_the_databases_are_those_that_the_stack_makes():
    script = (ROOT / "deploy" / "postgres" / "databases.sh").read_text()
    assert f"for name in {' '.join(DATABASES)}; do" in script
