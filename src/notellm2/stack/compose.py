"""``docker-compose.yml`` as the native stack reads it: services with their variables filled in.

What is read is the part of the Compose specification that our file uses; anything else of that part raises, so that a
change to the file cannot be silently ignored here. The keys under ``x-native`` are ours: Docker passes over them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from notellm2.errors import InputError

HEALTHY = "service_healthy"
COMPLETED = "service_completed_successfully"
LOOPBACK = "127.0.0.1"

_VARIABLE = re.compile(r"\$\{(\w+)(?::-((?:[^{}]|\$\{[^{}]*\})*)|:\?([^{}]*))?\}")
_DURATION = re.compile(r"(?=.)(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?")


def _seconds(text: Any) -> float:
    match = _DURATION.fullmatch(str(text))
    if match is None:
        raise ValueError(f"{text!r} is no duration such as 90s or 2m")
    hours, minutes, seconds = (int(part or 0) for part in match.groups())
    return float(hours * 3600 + minutes * 60 + seconds)


def _text(value: Any) -> str:
    return {True: "true", False: "false", None: ""}.get(value, str(value))


def _without_shell(test: tuple[str, ...]) -> tuple[str, ...]:
    if test[:1] != ("CMD",):
        raise ValueError("is no list that begins with CMD, which needs no shell")
    return test[1:]


Seconds = Annotated[float, BeforeValidator(_seconds)]
Text = Annotated[str, BeforeValidator(_text)]
_OF_COMPOSE = ConfigDict(frozen=True, hide_input_in_errors=True)


class HealthCheck(BaseModel):
    """A health check; its command's status 0 says healthy."""

    model_config = _OF_COMPOSE

    test: Annotated[tuple[str, ...], AfterValidator(_without_shell)]
    interval: Seconds = 30.0
    timeout: Seconds = 30.0
    retries: int = 3
    start_period: Seconds = 0.0

    @property
    def limit_s(self) -> float:
        """Seconds from the start after which Docker calls the service unhealthy, and we give it up."""
        return self.start_period + self.interval * self.retries


class Dependency(BaseModel):
    """What a service waits for another one to be."""

    model_config = _OF_COMPOSE

    condition: Literal["service_healthy", "service_completed_successfully"]


class Native(BaseModel):
    """What ``x-native`` says of a service."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    skip: str = Field("", description="why the service has no native form; empty: it has one")
    port: str = Field("", description="the port it listens on, as ${SETTING:-default}; empty: none")
    port_setting: str = Field("", description="name of the setting that holds the port; read from `port`")
    user: str = Field("", description="system user it runs as where we are root; empty: ours")
    needs_objects: bool = Field(default=False, description="left out where no object store is named")
    stop_alone: bool = Field(default=False, description="only its first process gets the signal to stop")
    environment: dict[str, Text] = Field({}, description="variables added or replaced")
    without_objects: dict[str, Text] = Field({}, description="variables for where no object store is named")


class Service(BaseModel):
    """One service as containers see it, its variables filled in; fields are the specification's.

    ``name`` is its host name in the containers' networks too.
    """

    model_config = _OF_COMPOSE

    name: str
    command: tuple[Text, ...] = ()
    environment: dict[str, Text] = {}
    volumes: tuple[str, ...] = ()
    ports: tuple[str, ...] = ()
    depends_on: dict[str, Dependency] = {}
    healthcheck: HealthCheck | None = None
    restart: Literal["no", "unless-stopped"] = "no"
    stop_signal: str = "SIGTERM"
    stop_grace_period: Seconds = 10.0
    profiles: tuple[str, ...] = ()
    native: Native = Field(Native(), alias="x-native")

    @property
    def one_shot(self) -> bool:
        """Whether it is to end, rather than to be restarted when it ends."""
        return self.restart == "no"

    @property
    def mounts(self) -> dict[str, str]:
        """Where a volume or folder is mounted → its name, or its path."""
        return {target: source for source, target, *_ in (volume.split(":") for volume in self.volumes)}


def read_compose(path: Path, variables: Mapping[str, str]) -> dict[str, Service]:
    """Read the services of a compose file.

    Args:
        path: the file.
        variables: what fills in ``${NAME}``.

    Returns:
        Services by name, in the file's order.

    Raises:
        InputError: the file is missing, no YAML, of a form that is not read here, or a required variable is empty;
            names the service and the key.
    """
    try:
        document = yaml.safe_load(path.read_text())
    except FileNotFoundError:
        raise InputError(f"{path}: not there; name the compose file with --compose") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: no YAML ({str(error).splitlines()[0]})") from None
    if not isinstance(document, dict) or not isinstance(document.get("services"), dict):
        raise InputError(f"{path}: has no `services:`")
    services = {}
    for name, entry in document["services"].items():
        native = dict(entry.get("x-native", {}))
        if setting := _VARIABLE.fullmatch(native.get("port", "")):
            native["port_setting"] = setting.group(1)
        try:
            filled = _filled({**entry, "name": name, "x-native": native}, variables)
            services[name] = Service.model_validate(filled)
        except ValidationError as error:
            fault = error.errors()[0]
            key = ".".join(str(part) for part in fault["loc"])
            raise InputError(
                f"{path}: service {name}: {key}: {fault['msg']}; the file has a form that is not read here"
            ) from None
        except ValueError as error:
            raise InputError(f"{path}: service {name}: {error}") from None
        for other in services[name].depends_on:
            if other not in document["services"]:
                raise InputError(f"{path}: service {name}: depends_on names no service: {other}")
    return services


def fill_in(text: str, variables: Mapping[str, str]) -> str:
    """Fill ``${NAME}``, ``${NAME:-default}`` and ``${NAME:?demand}`` into a text as the Compose specification says.

    A default may hold variables itself; an empty variable counts as missing.

    Raises:
        ValueError: a demanded variable is missing, or a dollar sign stands for anything else.
    """
    if "$" in _VARIABLE.sub("", text):
        raise ValueError(f"{text!r}: only ${{NAME}}, ${{NAME:-default}} and ${{NAME:?demand}} are read here")

    def value(match: re.Match[str]) -> str:
        name, default, demand = match.groups()
        if not variables.get(name) and demand is not None:
            raise ValueError(f"{name} {demand or 'must be set'}")
        return variables.get(name) or fill_in(default or "", variables)

    return _VARIABLE.sub(value, text)


def _filled(entry: Any, variables: Mapping[str, str]) -> Any:
    if isinstance(entry, str):
        return fill_in(entry, variables)
    if isinstance(entry, dict):
        return {key: _filled(value, variables) for key, value in entry.items()}
    if isinstance(entry, list):
        return [_filled(value, variables) for value in entry]
    return entry
