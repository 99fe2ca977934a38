"""Secrets: what is refused, in which words, and how one is made."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from notellm2.errors import InputError
from notellm2.stack.passwords import MINIMUM, SECRETS, fault, generate, read_file_forms, refuse_unfit

FIT = "k7Qd2vXw9LmRz4Ht"


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("", "empty"),
        ("k7Qd2vXw9Lm", "shorter than 12"),
        ("change-me", "default"),
        ("CHANGE_ME_please", "default"),
        ("postgres", "default"),
        ("password1234567", "default"),
        ("admin-password-2024", "default"),
        ("minioadmin123456", "default"),
        ("aaaaaaaaaaaaaaaa", "different characters"),
        ("abababababababab", "different characters"),
        ("k7Qd2vXw 9LmRz4Ht", "read in different ways"),
        ("k7Qd2vXw$9LmRz4Ht", "read in different ways"),
        ("k7Qd2vXw#9LmRz4Ht", "read in different ways"),
        ("k7Qd2vXw'9LmRz4Ht", "read in different ways"),
    ],
)
def test_unfit_secrets_are_told_without_their_value(value: str, said: str) -> None:
    found = fault("POSTGRES_PASSWORD", value)
    assert found is not None
    assert said in found
    assert not value or value not in found


def test_a_fit_secret_is_let_through() -> None:
    assert fault("POSTGRES_PASSWORD", FIT) is None
    assert fault("S3_SECRET_KEY", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYzz") is None


@pytest.mark.parametrize("value", [FIT, f":{FIT}", "notellm2:", "notellm2"])
def test_prefects_is_a_user_and_a_password(value: str) -> None:
    assert fault("PREFECT_AUTH", value) is not None


def test_prefects_password_is_looked_at_without_its_user() -> None:
    assert fault("PREFECT_AUTH", f"notellm2:{FIT}") is None
    assert "default" in (fault("PREFECT_AUTH", "a-rather-long-user-name:password") or "")


@pytest.mark.parametrize("name", SECRETS)
def test_what_is_made_is_fit_and_never_twice_the_same(name: str) -> None:
    made = {generate(name) for _ in range(50)}
    assert len(made) == 50
    assert all(fault(name, value) is None for value in made)


def test_all_unfit_ones_are_named_at_once_with_what_to_do() -> None:
    values = {name: generate(name) for name in SECRETS}
    refuse_unfit(values)
    values |= {"S3_SECRET_KEY": "short", "MLFLOW_READER_PASSWORD": ""}
    with pytest.raises(InputError) as refused:
        refuse_unfit(values)
    for part in ("S3_SECRET_KEY", "MLFLOW_READER_PASSWORD", "make secrets", "_FILE"):
        assert part in str(refused.value)
    assert "POSTGRES_PASSWORD" not in str(refused.value)


def test_a_file_form_stands_for_its_secret(tmp_path: Path) -> None:
    (tmp_path / "key").write_text(FIT + "\n")
    found = read_file_forms({"S3_SECRET_KEY_FILE": "key", "S3_SECRET_KEY": "", "MLFLOW_PORT": "1"}, tmp_path)
    assert found == {"S3_SECRET_KEY": FIT, "MLFLOW_PORT": "1"}
    assert read_file_forms({"S3_SECRET_KEY": FIT, "S3_SECRET_KEY_FILE": ""}, tmp_path) == {"S3_SECRET_KEY": FIT}


def test_a_file_form_that_is_wrong_names_its_variable(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="S3_SECRET_KEY_FILE: cannot read"):
        read_file_forms({"S3_SECRET_KEY_FILE": "nowhere"}, tmp_path)
    (tmp_path / "key").write_text(FIT)
    with pytest.raises(InputError, match="both set"):
        read_file_forms({"S3_SECRET_KEY_FILE": "key", "S3_SECRET_KEY": "other"}, tmp_path)


def check(environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """The check as the container runs it."""
    command = [sys.executable, "-m", "notellm2.stack.passwords"]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=30, check=False)


def test_the_containers_check_refuses_by_name() -> None:
    values = {name: generate(name) for name in SECRETS}
    assert check(values).returncode == 0
    refused = check({**values, "MLFLOW_ADMIN_PASSWORD": "password1234"})
    assert refused.returncode == 2
    assert "MLFLOW_ADMIN_PASSWORD is a default" in refused.stderr
    assert "password1234" not in refused.stderr


def test_the_containers_check_needs_the_standard_library_only() -> None:
    script = (
        "import sys, notellm2.stack.passwords, notellm2.stack.health;"
        "print([m for m in ('yaml', 'pydantic', 'psutil', 'dotenv') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout.strip() == "[]"
    assert MINIMUM >= 12, "MLflow takes no shorter password"
