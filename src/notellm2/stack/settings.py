"""The settings of the stack, read from ``.env``: ports, names, secrets. Unfit secrets are refused by name."""

from __future__ import annotations

import io
import ipaddress
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

from dotenv import dotenv_values
from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator, model_validator

from notellm2.artifacts import write_atomic
from notellm2.errors import InputError
from notellm2.stack import passwords

Port = Annotated[int, Field(ge=1, le=65535)]


class Settings(BaseModel):
    """One stack's settings. Field aliases are the variables' names in ``.env``; secrets never show in text."""

    model_config = ConfigDict(frozen=True, hide_input_in_errors=True, extra="forbid")

    bind: str = Field("127.0.0.1", alias="NOTELLM2_BIND", description="IPv4 address of pages and APIs")
    postgres_port: Port = Field(5432, alias="POSTGRES_PORT", description="PostgreSQL, natively on loopback only")
    postgres_system_user: str = Field(
        "postgres", alias="POSTGRES_SYSTEM_USER", description="as whom PostgreSQL runs natively where we are root"
    )
    prefect_port: Port = Field(4200, alias="PREFECT_PORT", description="Prefect's pages and API")
    mlflow_port: Port = Field(5000, alias="MLFLOW_PORT", description="MLflow's pages and API")
    serving_port: Port = Field(8080, alias="SERVING_PORT", description="similar notes over HTTP")
    worker_health_port: Port = Field(8081, alias="WORKER_HEALTH_PORT", description="a worker's health, on loopback")
    mlflow_allowed_hosts: str = Field(
        "localhost,localhost:*,127.0.0.1,127.0.0.1:*",
        alias="MLFLOW_ALLOWED_HOSTS",
        description="Host headers that MLflow answers, with and without port, comma-separated",
    )
    s3_endpoint_url: str = Field(
        "",
        alias="S3_ENDPOINT_URL",
        description="the object store; empty: compose's own, natively plain folders in the state folder",
    )
    s3_bucket: str = Field("notellm2", alias="S3_BUCKET", description="bucket of MLflow's files and published indexes")
    home: str = Field(
        "",
        alias="NOTELLM2_HOME",
        description="folder of the workers: recipes, store, data; empty: a volume, natively the project's folder",
    )

    postgres_password: SecretStr = Field(alias="POSTGRES_PASSWORD")
    prefect_db_password: SecretStr = Field(alias="PREFECT_DB_PASSWORD")
    mlflow_db_password: SecretStr = Field(alias="MLFLOW_DB_PASSWORD")
    prefect_auth: SecretStr = Field(alias="PREFECT_AUTH")
    mlflow_flask_server_secret_key: SecretStr = Field(alias="MLFLOW_FLASK_SERVER_SECRET_KEY")
    mlflow_admin_password: SecretStr = Field(alias="MLFLOW_ADMIN_PASSWORD")
    mlflow_trainer_password: SecretStr = Field(alias="MLFLOW_TRAINER_PASSWORD")
    mlflow_promoter_password: SecretStr = Field(alias="MLFLOW_PROMOTER_PASSWORD")
    mlflow_reader_password: SecretStr = Field(alias="MLFLOW_READER_PASSWORD")
    s3_access_key: SecretStr = Field(alias="S3_ACCESS_KEY")
    s3_secret_key: SecretStr = Field(alias="S3_SECRET_KEY")

    others: dict[str, str] = Field(
        default_factory=dict, repr=False, description="further variables that docker-compose.yml may name"
    )

    @field_validator("bind")
    @classmethod
    def _an_address(cls, value: str) -> str:
        ipaddress.IPv4Address(value)
        return value

    @field_validator("s3_endpoint_url")
    @classmethod
    def _a_url(cls, value: str) -> str:
        if value and not re.fullmatch(r"https?://[^\s/@]+/?", value):
            raise ValueError("is no http:// or https:// URL without a path")
        return value.rstrip("/")

    @field_validator("home")
    @classmethod
    def _a_path(cls, value: str) -> str:
        if value and not Path(value).is_absolute():
            raise ValueError("is no absolute path: it begins with /")
        return value

    @field_validator("s3_bucket")
    @classmethod
    def _a_bucket(cls, value: str) -> str:
        if not re.fullmatch(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]", value):
            raise ValueError("is no bucket's name: 3 to 63 of a-z, 0-9, dot and hyphen")
        return value

    @model_validator(mode="after")
    def _ports_differ(self) -> Settings:
        ports = {field.alias: getattr(self, name) for name, field in type(self).model_fields.items() if "port" in name}
        if len(set(ports.values())) < len(ports):
            raise ValueError(f"{', '.join(str(name) for name in ports)} must differ")
        return self

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
        known = {field.alias for field in cls.model_fields.values() if field.alias}
        file_forms = {f"{name}_FILE" for name in passwords.SECRETS}
        for name in (known | file_forms | values.keys()) & os.environ.keys():
            values[name] = os.environ[name]
            if name in passwords.SECRETS:
                values.pop(f"{name}_FILE", None)
        values = passwords.read_file_forms(values, env_file.absolute().parent)
        passwords.refuse_unfit(values)
        if env_file.stat().st_mode & 0o007:
            raise InputError(f"{env_file}: every user of this machine may read it; run `chmod 600 {env_file}`")
        given = {name: value for name, value in values.items() if name in known and value}
        others = {name: value for name, value in values.items() if name not in known}
        try:
            return cls.model_validate({**given, "others": others})
        except ValidationError as error:
            raise InputError(f"{env_file}: {'; '.join(_faults(error))}") from None

    def variables(self) -> dict[str, str]:
        """Every variable by name, secrets in clear, as docker-compose.yml is filled in with them."""
        found = dict(self.others)
        for name, field in type(self).model_fields.items():
            if field.alias:
                value = getattr(self, name)
                found[field.alias] = value.get_secret_value() if isinstance(value, SecretStr) else str(value)
        return found


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
    made = [name for name in passwords.SECRETS if not (values.get(name) or values.get(f"{name}_FILE"))]
    for name in made:
        line = f"{name}={passwords.generate(name)}"
        where = [i for i, text in enumerate(lines) if re.match(rf"\s*(export\s+)?{name}\s*(=|$)", text)]
        if where:
            lines[where[-1]] = line
        else:
            lines.append(line)
    if made or source != target:
        # Nobody else may read it at any moment, so the mode comes from the mask, not from a chmod that follows.
        before = os.umask(0o077)
        try:
            write_atomic(target, "\n".join(lines) + "\n")
        finally:
            os.umask(before)
    target.chmod(0o600)
    return made


def _read(path: Path) -> dict[str, str]:
    try:
        text = path.read_text()
    except FileNotFoundError:
        raise InputError(f"{path}: not there; run `make secrets`, which makes it") from None
    except UnicodeDecodeError:
        raise InputError(f"{path}: no text file") from None
    return {name: value or "" for name, value in dotenv_values(stream=io.StringIO(text)).items()}


def _faults(error: ValidationError) -> Iterable[str]:
    for problem in error.errors(include_input=False, include_url=False):
        where = ".".join(str(part) for part in problem["loc"])
        message = problem["msg"].removeprefix("Value error, ")
        yield f"{where}: {message}" if where else message
