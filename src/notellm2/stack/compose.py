"""``docker-compose.yml`` as the native stack reads it: services with their variables filled in.

What is read is the part of the Compose specification that our file uses; anything else of that part raises, so that a
change to the file cannot be silently ignored here. The keys under ``x-native`` are ours: Docker passes over them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from notellm2.errors import InputError

HEALTHY = "service_healthy"
COMPLETED = "service_completed_successfully"
LOOPBACK = "127.0.0.1"

_VARIABLE = re.compile(r"\$\{(\w+)(?::-((?:[^{}]|\$\{[^{}]*\})*)|:\?([^{}]*))?\}")
_DURATION = re.compile(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?")


@dataclass(frozen=True)
class Health:
    """A health check.

    Attributes:
        test: the command; status 0 says healthy.
        timeout_s: seconds one check may take.
        limit_s: seconds from the start after which Docker calls the service unhealthy, and we give it up.
    """

    test: tuple[str, ...]
    timeout_s: float
    limit_s: float


@dataclass(frozen=True)
class Native:
    """What ``x-native`` says of a service.

    Attributes:
        skip: why the service has no native form; empty: it has one.
        port: the port it listens on, as ``${SETTING:-default}``; empty: none.
        port_setting: name of the setting that holds the port.
        user: system user it runs as where we are root; empty: ours.
        needs_objects: whether it is left out where no object store is named.
        stop_alone: whether only its first process gets the signal to stop, and then stops the others.
        environment: variables added or replaced.
        without_objects: variables added or replaced where no object store is named.
    """

    skip: str = ""
    port: str = ""
    port_setting: str = ""
    user: str = ""
    needs_objects: bool = False
    stop_alone: bool = False
    environment: Mapping[str, str] = field(default_factory=dict)
    without_objects: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Service:
    """One service, its variables filled in, as containers see it.

    Attributes:
        name: the service's name, and its host name in the containers' networks.
        command: program and arguments.
        environment: variables.
        volumes: where a volume or folder is mounted → its name, or its path.
        address: of this machine, that its port is published on; loopback where it is not published.
        depends_on: services that must be healthy or completed first.
        health: its health check, if any.
        one_shot: whether it is to end, rather than to be restarted when it ends.
        working_dir: the folder it starts in; empty: the image's.
        stop_signal: name of the signal that stops it.
        stop_s: seconds between that signal and the kill.
        profiles: profiles that the service belongs to; none: it always starts.
        native: what ``x-native`` says.
    """

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str]
    volumes: Mapping[str, str]
    address: str
    depends_on: tuple[str, ...]
    health: Health | None
    one_shot: bool
    working_dir: str
    stop_signal: str
    stop_s: float
    profiles: tuple[str, ...]
    native: Native


def read_compose(path: Path, variables: Mapping[str, str]) -> dict[str, Service]:
    """Read the services of a compose file.

    Args:
        path: the file.
        variables: what fills in ``${NAME}``.

    Returns:
        Services by name, in the file's order.

    Raises:
        InputError: the file is missing, no YAML, lacks what every service needs, or a required variable is empty;
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
        try:
            setting = _VARIABLE.fullmatch(entry.get("x-native", {}).get("port", ""))
            services[name] = _service(name, _filled(entry, variables), setting.group(1) if setting else "")
        except (TypeError, ValueError, AttributeError, KeyError) as error:
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


def _service(name: str, entry: dict[str, Any], port_setting: str) -> Service:
    native = {"environment": None, "without_objects": None, **entry.get("x-native", {})}
    for key in ("environment", "without_objects"):
        native[key] = _environment(native[key], f"x-native.{key}")
    ports = entry.get("ports", [])
    return Service(
        name=name,
        command=_texts(entry.get("command", []), "command"),
        environment=_environment(entry.get("environment"), "environment"),
        volumes={target: source for source, target, *_ in (_mount(mount) for mount in entry.get("volumes", []))},
        address=ports[0].split(":")[0] if ports else LOOPBACK,
        depends_on=_depends_on(entry.get("depends_on", {})),
        health=_health(entry["healthcheck"]) if "healthcheck" in entry else None,
        one_shot=str(entry.get("restart", "no")) == "no",
        working_dir=entry.get("working_dir", ""),
        stop_signal=entry.get("stop_signal", "SIGTERM").removeprefix("SIG"),
        stop_s=_seconds(entry.get("stop_grace_period", "10s")),
        profiles=tuple(entry.get("profiles", ())),
        native=Native(**native, port_setting=port_setting),
    )


def _texts(entry: Any, key: str) -> tuple[str, ...]:
    if not isinstance(entry, list):
        raise TypeError(f"{key} is no list, the form that this project's file uses")
    return tuple(str(part) for part in entry)


def _environment(entry: Any, key: str) -> dict[str, str]:
    if not isinstance(entry or {}, dict):
        raise TypeError(f"{key} is no mapping of names to values, the form that this project's file uses")
    texts = {True: "true", False: "false", None: ""}
    return {str(name): texts.get(value, str(value)) for name, value in (entry or {}).items()}


def _mount(entry: Any) -> list[str]:
    if not isinstance(entry, str):
        raise TypeError("volumes are not written SOURCE:TARGET, the form that this project's file uses")
    return entry.split(":")


def _depends_on(entry: Any) -> tuple[str, ...]:
    for name, details in entry.items():
        if details["condition"] not in (HEALTHY, COMPLETED):
            raise ValueError(f"depends_on {name}: unknown condition {details['condition']}")
    return tuple(entry)


def _health(entry: dict[str, Any]) -> Health:
    test = _texts(entry["test"], "healthcheck.test")
    if test[:1] != ("CMD",):
        raise ValueError("healthcheck.test is no list that begins with CMD, which needs no shell")
    start_s, every_s = _seconds(entry.get("start_period", "0s")), _seconds(entry.get("interval", "30s"))
    return Health(
        test=test[1:],
        timeout_s=_seconds(entry.get("timeout", "30s")),
        limit_s=start_s + every_s * int(entry.get("retries", 3)),
    )


def _seconds(text: Any) -> float:
    match = _DURATION.fullmatch(str(text))
    if match is None or not any(match.groups()):
        raise ValueError(f"{text!r} is no duration such as 90s or 2m")
    hours, minutes, seconds = (int(part or 0) for part in match.groups())
    return float(hours * 3600 + minutes * 60 + seconds)
