"""The settings of a stack: read, refused, written, never shown."""

from __future__ import annotations

from pathlib import Path

import pytest

from notellm2.errors import InputError
from notellm2.stack.passwords import SECRETS
from notellm2.stack.settings import Settings, write_secrets
from tests.conftest import ROOT

EXAMPLE = ROOT / ".env.example"


@pytest.fixture(autouse=True)
def _no_settings_of_the_surroundings(monkeypatch: pytest.MonkeyPatch) -> None:
    values = [line.partition("=")[0] for line in EXAMPLE.read_text().splitlines()]
    for name in [*values, *(f"{name}_FILE" for name in SECRETS)]:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def env_file(tmp_path: Path) -> Path:
    path = tmp_path / ".env"
    write_secrets(path, EXAMPLE)
    return path


def change(env_file: Path, **values: str) -> None:
    lines = [line for line in env_file.read_text().splitlines() if line.split("=")[0] not in values]
    env_file.write_text("\n".join([*lines, *(f"{name}={value}" for name, value in values.items())]) + "\n")


def test_the_example_holds_no_secret() -> None:
    lines = [line for line in EXAMPLE.read_text().splitlines() if line and not line.startswith("#")]
    values = dict(line.split("=", 1) for line in lines)
    assert all(values[name] == "" for name in SECRETS)
    with pytest.raises(InputError, match="POSTGRES_PASSWORD is empty"):
        Settings.load(EXAMPLE)


def test_made_secrets_are_fit_readable_by_their_owner_alone_and_different(env_file: Path) -> None:
    settings = Settings.load(env_file)
    assert env_file.stat().st_mode & 0o777 == 0o600
    variables = settings.variables
    assert len({variables[name] for name in SECRETS}) == len(SECRETS)
    assert variables["MLFLOW_PORT"] == "5000"


def test_a_set_value_stays(env_file: Path) -> None:
    before = env_file.read_text()
    assert write_secrets(env_file, EXAMPLE) == []
    assert env_file.read_text() == before
    change(env_file, S3_SECRET_KEY="")
    assert write_secrets(env_file, EXAMPLE) == ["S3_SECRET_KEY"]
    kept = [line for line in before.splitlines() if not line.startswith("S3_SECRET_KEY")]
    assert [line for line in env_file.read_text().splitlines() if not line.startswith("S3_SECRET_KEY")] == kept


def test_a_missing_line_is_added_and_a_file_form_is_left_alone(tmp_path: Path) -> None:
    env_file = tmp_path / ".env"
    env_file.write_text("# mine\nexport S3_ACCESS_KEY=\nS3_SECRET_KEY_FILE=/run/secrets/s3")
    made = write_secrets(env_file, EXAMPLE)
    assert set(made) == SECRETS.keys() - {"S3_SECRET_KEY"}
    text = env_file.read_text()
    assert text.startswith("# mine\n")
    assert text.count("S3_ACCESS_KEY=") == 1
    assert "S3_SECRET_KEY_FILE=/run/secrets/s3" in text


def test_a_link_to_a_file_elsewhere_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / ".env").symlink_to(tmp_path / "kept" / "env")
    write_secrets(tmp_path / ".env", EXAMPLE)
    assert (tmp_path / ".env").is_symlink()
    assert (tmp_path / "kept" / "env").stat().st_mode & 0o777 == 0o600


def test_no_secret_shows_in_text(env_file: Path) -> None:
    settings = Settings.load(env_file)
    change(env_file, MY_OWN_TOKEN="zq81-zq82-zq83-zq84")
    with_others = Settings.load(env_file)
    for name in SECRETS:
        value = settings.variables[name]
        assert value not in repr(settings)
        assert value not in str(settings)
    assert "zq81" not in repr(with_others)
    assert with_others.variables["MY_OWN_TOKEN"] == "zq81-zq82-zq83-zq84"


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("NOTELLM2_BIND", "localhost", "NOTELLM2_BIND"),
        ("MLFLOW_PORT", "five", "MLFLOW_PORT"),
        ("MLFLOW_PORT", "70000", "MLFLOW_PORT"),
        ("NOTELLM2_BIND", "1.2.3.256", "NOTELLM2_BIND"),
        ("S3_ENDPOINT_URL", "objects:8333", "S3_ENDPOINT_URL"),
        ("S3_ENDPOINT_URL", "http://user:pass@objects:8333", "S3_ENDPOINT_URL"),
        ("S3_BUCKET", "Has Capitals", "S3_BUCKET"),
        ("NOTELLM2_HOME", "work", "NOTELLM2_HOME: is no absolute path"),
        ("NOTELLM2_HOME", "~/work", "NOTELLM2_HOME: is no absolute path"),
    ],
)
def test_a_wrong_setting_is_named(env_file: Path, name: str, value: str, said: str) -> None:
    change(env_file, **{name: value})
    with pytest.raises(InputError, match=said) as refused:
        Settings.load(env_file)
    assert str(env_file) in str(refused.value)


def test_the_environment_wins_as_with_docker_compose(env_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_PORT", "5999")
    settings = Settings.load(env_file)
    assert settings.variables["MLFLOW_PORT"] == "5999"
    monkeypatch.setenv("S3_SECRET_KEY", "short")
    with pytest.raises(InputError, match="S3_SECRET_KEY is shorter"):
        Settings.load(env_file)


def test_a_file_form_is_read_from_beside_the_env_file(env_file: Path) -> None:
    (env_file.parent / "pg").write_text("k7Qd2vXw9LmRz4Ht\n")
    change(env_file, POSTGRES_PASSWORD="", POSTGRES_PASSWORD_FILE="pg")
    assert Settings.load(env_file).variables["POSTGRES_PASSWORD"] == "k7Qd2vXw9LmRz4Ht"


def test_a_file_that_others_may_read_is_refused(env_file: Path) -> None:
    env_file.chmod(0o644)
    with pytest.raises(InputError, match="chmod 600"):
        Settings.load(env_file)


def test_no_file_names_the_way_to_one(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="make secrets"):
        Settings.load(tmp_path / ".env")
    with pytest.raises(InputError, match="not there"):
        write_secrets(tmp_path / ".env", tmp_path / "no-example")
    assert not list(tmp_path.iterdir())
