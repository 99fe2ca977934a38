"""``docker-compose.yml`` as the native stack reads it: services with their variables filled in.

What is read is the part of the Compose specification that our file uses; anything else of that part raises, so that a
change to the file cannot be silently ignored here. The keys under ``x-native`` are ours: Docker passes over them.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from notellm2.errors import InputError

HEALTHY = "service_healthy"
COMPLETED = "service_completed_successfully"
STARTED = "service_started"

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
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
        port: name of the setting that holds the port it listens on; empty: none.
        user: system user it runs as where we are root; empty: ours.
        needs_objects: whether it is left out where no object store is named.
        stop_alone: whether only its first process is told to stop, which then stops the others.
        environment: variables added or replaced.
        without_objects: variables added or replaced where no object store is named.
    """

    skip: str = ""
    port: str = ""
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
        depends_on: service → condition that it must meet first.
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
    depends_on: Mapping[str, str]
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
        where = f"{path}: service {name}"
        try:
            services[name] = _service(name, _filled(entry, variables))
        except (TypeError, ValueError, AttributeError) as error:
            raise InputError(f"{where}: {error}") from None
    for service in services.values():
        for other in service.depends_on:
            if other not in services:
                raise InputError(f"{path}: service {service.name}: depends_on names no service: {other}")
    return services


def fill_in(text: str, variables: Mapping[str, str]) -> str:
    """Fill variables into a text as the Compose specification says.

    ``$NAME``, ``${NAME}``, and with a default (``:-``, ``-``), a replacement (``:+``, ``+``) or a demand (``:?``,
    ``?``), each of which may hold variables itself; ``$$`` is a dollar sign. With a colon an empty variable counts as
    missing.

    Raises:
        ValueError: a demanded variable is missing, or the text ends inside a brace.
    """
    found, rest = [], text
    while rest:
        before, dollar, rest = rest.partition("$")
        found.append(before)
        if not dollar:
            break
        if rest.startswith("$"):
            found.append("$")
            rest = rest[1:]
        elif rest.startswith("{"):
            inner, rest = _to_closing_brace(rest[1:], text)
            found.append(_value(inner, variables))
        elif name := _NAME.match(rest):
            found.append(variables.get(name.group(), ""))
            rest = rest[name.end() :]
        else:
            raise ValueError(f"a single $ in {text!r}; write $$ for a dollar sign")
    return "".join(found)


def _to_closing_brace(text: str, whole: str) -> tuple[str, str]:
    depth = 1
    for position, character in enumerate(text):
        if character == "}":
            depth -= 1
        elif text.startswith("${", position):
            depth += 1
        if depth == 0:
            return text[:position], text[position + 1 :]
    raise ValueError(f"no closing brace in {whole!r}")


def _value(inner: str, variables: Mapping[str, str]) -> str:
    name = _NAME.match(inner)
    if name is None:
        raise ValueError(f"${{{inner}}} names no variable")
    held, operator = variables.get(name.group()), inner[name.end() :]
    if operator.startswith(":"):
        operator, held = operator[1:], held or None
    kind, argument = operator[:1], operator[1:]
    if kind == "-":
        return fill_in(argument, variables) if held is None else held
    if kind == "+":
        return "" if held is None else fill_in(argument, variables)
    if kind == "?":
        if held is None:
            raise ValueError(f"{name.group()} is empty: {argument or 'it must be set'}")
        return held
    if operator:
        raise ValueError(f"${{{inner}}} has no form that the Compose specification knows")
    return held or ""


def _filled(entry: Any, variables: Mapping[str, str]) -> Any:
    if isinstance(entry, str):
        return fill_in(entry, variables)
    if isinstance(entry, dict):
        return {key: _filled(value, variables) for key, value in entry.items()}
    if isinstance(entry, list):
        return [_filled(value, variables) for value in entry]
    return entry


def _service(name: str, entry: dict[str, Any]) -> Service:
    return Service(
        name=name,
        command=_command(entry.get("command"), "command"),
        environment=_environment(entry.get("environment"), "environment"),
        volumes=dict(_volumes(entry.get("volumes") or [])),
        depends_on=dict(_depends_on(entry.get("depends_on") or {})),
        health=_health(entry.get("healthcheck")),
        one_shot=str(entry.get("restart", "no")) in ("no", "False") or str(entry["restart"]).startswith("on-failure"),
        working_dir=entry.get("working_dir", ""),
        stop_signal=entry.get("stop_signal", "SIGTERM").removeprefix("SIG"),
        stop_s=_seconds(entry.get("stop_grace_period", "10s")),
        profiles=tuple(entry.get("profiles", ())),
        native=_native(entry.get("x-native", {})),
    )


def _native(entry: dict[str, Any]) -> Native:
    environment = _environment(entry.get("environment"), "x-native.environment")
    without_objects = _environment(entry.get("without_objects"), "x-native.without_objects")
    rest = {key: value for key, value in entry.items() if key not in ("environment", "without_objects")}
    return Native(**rest, environment=environment, without_objects=without_objects)


def _command(entry: Any, key: str) -> tuple[str, ...]:
    if isinstance(entry, str):
        return tuple(shlex.split(entry))
    if entry is None:
        return ()
    if not isinstance(entry, list):
        raise TypeError(f"{key} is neither a list nor a text")
    return tuple(str(part) for part in entry)


def _environment(entry: Any, key: str) -> dict[str, str]:
    if entry is None:
        return {}
    if not isinstance(entry, dict):
        raise TypeError(f"{key} is no mapping of names to values, the form that this project's file uses")
    return {str(name): _text(value) for name, value in entry.items()}


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return "" if value is None else str(value)


def _volumes(entries: list[Any]) -> Iterator[tuple[str, str]]:
    for entry in entries:
        if isinstance(entry, dict):
            if entry.get("type") != "tmpfs":
                yield entry["target"], entry["source"]
        else:
            source, target = entry.split(":")[:2]
            yield target, source


def _depends_on(entry: Any) -> Iterator[tuple[str, str]]:
    if isinstance(entry, list):
        yield from ((name, STARTED) for name in entry)
        return
    for name, details in entry.items():
        condition = details.get("condition", STARTED)
        if condition not in (HEALTHY, COMPLETED, STARTED):
            raise ValueError(f"depends_on {name}: unknown condition {condition}")
        yield name, condition


def _health(entry: Any) -> Health | None:
    if not entry or entry.get("disable"):
        return None
    test = _command(entry["test"], "healthcheck.test")
    if not test or test[0] != "CMD":
        raise ValueError("healthcheck.test is no list that begins with CMD, which needs no shell")
    return Health(
        test=test[1:],
        timeout_s=_seconds(entry.get("timeout", "30s")),
        limit_s=_seconds(entry.get("start_period", "0s"))
        + _seconds(entry.get("interval", "30s")) * int(entry.get("retries", 3)),
    )


def _seconds(text: Any) -> float:
    match = _DURATION.fullmatch(str(text))
    if match is None or not any(match.groups()):
        raise ValueError(f"{text!r} is no duration such as 90s or 2m")
    hours, minutes, seconds = (int(part or 0) for part in match.groups())
    return float(hours * 3600 + minutes * 60 + seconds)
