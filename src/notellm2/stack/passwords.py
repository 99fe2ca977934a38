"""Which settings are secret, what a fit secret is, and how one is made. Standard library only.

``python -m notellm2.stack.passwords`` checks those of the environment: the first service of docker-compose.yml.
"""

from __future__ import annotations

import os
import re
import secrets
import sys
from collections.abc import Mapping
from pathlib import Path

from notellm2.errors import InputError

SECRETS: Mapping[str, str] = {
    "POSTGRES_PASSWORD": "the database superuser `postgres`",
    "PREFECT_DB_PASSWORD": "the role that owns Prefect's database",
    "MLFLOW_DB_PASSWORD": "the role that owns MLflow's database",
    "PREFECT_AUTH": "whoever uses Prefect, written user:password",
    "MLFLOW_FLASK_SERVER_SECRET_KEY": "MLflow's forms against forged requests",
    "MLFLOW_ADMIN_PASSWORD": "MLflow's user admin, who may do everything",
    "MLFLOW_TRAINER_PASSWORD": "MLflow's user trainer: writes runs, registers versions",
    "MLFLOW_PROMOTER_PASSWORD": "MLflow's user promoter: sets aliases",
    "MLFLOW_READER_PASSWORD": "MLflow's user reader",
    "S3_ACCESS_KEY": "the object store's key id",
    "S3_SECRET_KEY": "the object store's key",
}
"""Names of the secret settings and whom each admits."""

MINIMUM = 12
"""Fewest characters of a secret: what MLflow asks of a password too."""
_DISTINCT = 5
_DEFAULTS = (
    "changeme please replaceme password passwd postgresql postgres prefect mlflow notellm minioadmin seaweedfs "
    "trainer promoter reader admin secret default example insecure user test root access key your here my the"
)
_ALLOWED = re.compile(r"[A-Za-z0-9_.,~/+=:@%^*!-]+")


def fault(name: str, value: str) -> str | None:
    """Say what is wrong with a secret's value, in words that never hold it; None where nothing is.

    Args:
        name: the setting's name; ``PREFECT_AUTH`` is checked as ``user:password``.
        value: what it is set to.
    """
    if not value:
        return "is empty"
    if name == "PREFECT_AUTH":
        user, colon, value = value.partition(":")
        if not (user and colon):
            return "is not of the form user:password"
    if not _ALLOWED.fullmatch(value):
        return "has a space, quote, $, # or other character that env files read in different ways"
    if _is_default(value):
        return "is a default that everybody knows"
    if len(value) < MINIMUM:
        return f"is shorter than {MINIMUM} characters"
    if len(set(value)) < _DISTINCT:
        return f"has fewer than {_DISTINCT} different characters"
    return None


def refuse_unfit(values: Mapping[str, str]) -> None:
    """Raise unless each secret is there and fit.

    Args:
        values: settings by name; what is no secret is not looked at.

    Raises:
        InputError: names each unfit variable, what is wrong with it, and ``make secrets``.
    """
    faults = [f"{name} {why}" for name in SECRETS if (why := fault(name, values.get(name, "")))]
    if faults:
        raise InputError(
            f"secrets: {'; '.join(faults)}. Remove what is unfit from .env and run `make secrets`, which fills in "
            "what is empty, or name a file that holds the value by the same name with _FILE behind it"
        )


def read_file_forms(values: Mapping[str, str], folder: Path) -> dict[str, str]:
    """Replace each secret's ``<NAME>_FILE`` in the settings by what that file holds, without its last line end.

    Args:
        values: settings by name.
        folder: where relative paths begin.

    Raises:
        InputError: a file cannot be read, or both forms of one secret are set.
    """
    settings = dict(values)
    for name in SECRETS:
        path = settings.pop(f"{name}_FILE", "")
        if not path:
            continue
        if settings.get(name):
            raise InputError(f"{name} and {name}_FILE are both set: keep one of them")
        try:
            settings[name] = (folder / path).read_text().rstrip("\r\n")
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{name}_FILE: cannot read {folder / path} ({type(error).__name__})") from None
    return settings


def generate(name: str) -> str:
    """Make a new value for a secret: 192 random bits, in letters and digits that readers of env files agree on."""
    value = secrets.token_hex(24)
    if name == "S3_ACCESS_KEY":
        return "N2" + value[:18].upper()
    return f"notellm2:{value}" if name == "PREFECT_AUTH" else value


def _is_default(value: str) -> bool:
    letters = re.sub(r"[^a-z]", "", value.lower())
    for word in _DEFAULTS.split():
        letters = letters.replace(word, "")
    return not letters


def main() -> int:
    """Check the secrets of the environment; 2 where one is unfit, named on standard error."""
    try:
        refuse_unfit(read_file_forms(os.environ, Path.cwd()))
    except InputError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    sys.stdout.write(f"settings: {len(SECRETS)} secrets are there and fit\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
