from __future__ import annotations

from pathlib import Path

import pytest

from notellm2.errors import InputError
from notellm2.stack.backup.described import DATABASES, described, remotes
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
    found = described(environment)
    assert found.server.port == 5432
    assert {name: str(place) for name, place in found.places.items()} == {
        "store": environment["NOTELLM2_STORE"],
        "mlflow": environment["MLFLOW_ARTIFACTS_DESTINATION"],
        "pins": str(tmp_path),
        "dvc-cache": f"{tmp_path}/.dvc/cache",
    }
    assert found.folder == ("store", "_published/")
    assert str(found.published) == f"{environment['NOTELLM2_STORE']}/_published"
    for name in ("v1/index.faiss", "current.json"):
        path = tmp_path / "store" / "_published" / ("versions/" + name if "/" in name else name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
    (tmp_path / "store" / "_vision").mkdir()
    (tmp_path / "store" / "_vision" / "features").write_text("x")
    listed = [(entry.name, entry.group) for entry in found.places["store"].listed()]
    assert listed == [("_published/versions/v1/index.faiss", "_published/versions/v1")]


@pytest.mark.usefixtures("s3_endpoint")
def test_a_set_up_with_a_bucket(environment: dict[str, str], tmp_path: Path):
    given = {
        **environment,
        "PGPORT": "5433",
        "S3_BUCKET": "one",
        "NOTELLM2_PUBLISHED": "s3://one/published",
        "MLFLOW_ARTIFACTS_DESTINATION": "s3://one/mlflow",
    }
    found = described(given)
    assert found.server.port == 5433
    assert {name: str(place) for name, place in found.places.items() if name not in OF_HOME} == {"bucket": "s3://one"}
    assert found.folder == ("bucket", "published/")
    elsewhere = described({**given, "NOTELLM2_PUBLISHED": "s3://two/a/b"})
    assert {name: str(place) for name, place in elsewhere.places.items() if name not in OF_HOME} == {
        "bucket": "s3://one",
        "indexes": "s3://two/a/b",
    }
    assert elsewhere.folder == ("indexes", "")


def test_remotes_of_dvc_are_places_or_are_told(environment: dict[str, str], tmp_path: Path):
    settings = tmp_path / ".dvc"
    settings.mkdir()
    cached = settings / "cache" / "files" / "md5" / "aa" / "bb"
    for path in (cached, settings / "config", tmp_path / "data.dvc", tmp_path / "data" / "notes.parquet"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
    found = described(environment)
    assert [entry.name for entry in found.places["dvc-cache"].listed()] == ["files/md5/aa/bb"]
    assert [entry.name for entry in found.places["pins"].listed()] == ["data.dvc", ".dvc/config"]
    (settings / "config").write_text(
        "[core]\n    remote = near\n['remote \"near\"']\n    url = ../dvc\n['remote \"far\"']\n    url = ssh://far/x\n"
    )
    (settings / "config.local").write_text(f"['remote \"other\"']\n    url = {tmp_path}/other\n")
    assert [(r.name, r.url) for r in remotes(tmp_path)] == [
        ("near", str(tmp_path / "dvc")),
        ("far", "ssh://far/x"),
        ("other", str(tmp_path / "other")),
    ]
    found = described(environment)
    assert "dvc-cache" not in found.places
    assert str(found.places["dvc-near"]) == str(tmp_path / "dvc")
    assert [line for line in found.left_out if line.startswith("DVC")] == [
        "DVC: remote 'far' is elsewhere; back it up where it is"
    ]
    (settings / "config").write_text("no settings")
    with pytest.raises(InputError, match="not readable as DVC's settings"):
        remotes(tmp_path)


def test_what_is_missing_is_named(environment: dict[str, str], tmp_path: Path):
    del environment["PGPASSWORD"]
    with pytest.raises(InputError, match=r"^PGPASSWORD: not set.*docker compose run --rm backup"):
        described(environment)


def test_the_databases_are_those_that_the_stack_makes():
    script = (ROOT / "deploy" / "postgres" / "databases.sh").read_text()
    assert f"for name in {' '.join(DATABASES)}; do" in script
