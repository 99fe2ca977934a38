"""The settings of the stack, read from ``.env``: ports, names, secrets. Unfit secrets are refused by name."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from dotenv import dotenv_values

from notellm2.artifacts import write_atomic
from notellm2.errors import InputError
from notellm2.stack import passwords

_PORT = r"[1-9]\d{0,3}|[1-5]\d{4}|6[0-4]\d{3}|65[0-4]\d\d|655[0-2]\d|6553[0-5]", "is no port: 1 to 65535"
_FORMS = {
    "NOTELLM2_BIND": (r"(25[0-5]|2[0-4]\d|1?\d?\d)(\.(25[0-5]|2[0-4]\d|1?\d?\d)){3}", "is no IPv4 address"),
    "POSTGRES_PORT": _PORT,
    "PREFECT_PORT": _PORT,
    "MLFLOW_PORT": _PORT,
    "SERVING_PORT": _PORT,
    "WORKER_HEALTH_PORT": _PORT,
    "S3_ENDPOINT_URL": (r"https?://[^\s/@]+/?", "is no http:// or https:// URL without a path"),
    "S3_BUCKET": (
        r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]",
        "is no bucket's name: 3 to 63 of a-z, 0-9, dot and hyphen",
    ),
    "NOTELLM2_HOME": (r"/.*", "is no absolute path: it begins with /"),
}
"""What a setting that is not empty must look like, and what is said of one that does not."""


@dataclass(frozen=True)
class Settings:
    """One stack's settings, which never show in text.

    Attributes:
        variables: every variable by name, secrets in clear; docker-compose.yml is filled in with them, and says what
            holds for those that are missing.
    """

    variables: Mapping[str, str] = field(repr=False)

    @classmethod
    def load(cls, env_file: Path) -> Settings:
        """Read an env file; variables of the process's environment win over it, as they do for Docker Compose.

        Args:
            env_file: normally ``.env``; `write_secrets` makes it.

        Raises:
            InputError: there is no such file, others may read it, or a setting is missing or unfit; names the
                variable, never a secret's value.
        """
        values = _read(env_file)
        for name in passwords.SECRETS.keys() & os.environ.keys():
            values.pop(f"{name}_FILE", None)
        values = passwords.read_file_forms({**values, **os.environ}, env_file.absolute().parent)
        passwords.refuse_unfit(values)
        if env_file.stat().st_mode & 0o007:
            raise InputError(f"{env_file}: every user of this machine may read it; run `chmod 600 {env_file}`")
        faults = [f"{name}: {why}" for name, (form, why) in _FORMS.items() if not _fits(values.get(name, ""), form)]
        if faults:
            raise InputError(f"{env_file}: {'; '.join(faults)}")
        return cls(values)


def write_secrets(env_file: Path, example: Path) -> list[str]:
    """Fill in the secrets that are empty or missing in an env file, made from the example where there is none.

    A set value stays, and so does one whose ``_FILE`` form is set. The file ends readable by its owner alone.

    Returns:
        Names of the variables that got a value.
    """
    target = env_file.resolve()
    source = target if target.exists() else example
    values = _read(source)
    lines = source.read_text().splitlines()
    empty = [name for name in passwords.SECRETS if not (values.get(name) or values.get(f"{name}_FILE"))]
    for name in empty:
        line = f"{name}={passwords.generate(name)}"
        present = [i for i, text in enumerate(lines) if re.match(rf"\s*(export\s+)?{name}\s*(=|$)", text)]
        if present:
            lines[present[-1]] = line
        else:
            lines.append(line)
    if empty or source != target:
        write_private(target, "\n".join(lines) + "\n")
    target.chmod(0o600)
    return empty


def write_private(path: Path, text: str) -> None:
    """Replace a file that its owner alone may read, at every moment: by the mask, not by a chmod that follows."""
    before = os.umask(0o077)
    try:
        write_atomic(path, text)
    finally:
        os.umask(before)


def _fits(value: str, form: str) -> bool:
    return not value or re.fullmatch(form, value) is not None


def _read(path: Path) -> dict[str, str]:
    try:
        text = path.read_text()
    except FileNotFoundError:
        raise InputError(f"{path}: not there; run `make secrets`, which makes it") from None
    except UnicodeDecodeError:
        raise InputError(f"{path}: no text file") from None
    return {name: value or "" for name, value in dotenv_values(stream=io.StringIO(text)).items()}
