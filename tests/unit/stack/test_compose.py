"""The compose file as the native stack reads it: variables, services, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from notellm2.errors import InputError
from notellm2.stack.compose import fill_in, read_compose

VARIABLES = {"PORT": "5000", "EMPTY": "", "HOST": "here", "TRICKY": "${PORT}"}


@pytest.mark.parametrize(
    ("text", "filled"),
    [
        ("plain", "plain"),
        ("${PORT}", "5000"),
        ("a${PORT}b${HOST}.c", "a5000bhere.c"),
        ("${NONE}", ""),
        ("${NONE:-other}", "other"),
        ("${EMPTY:-other}", "other"),
        ("${PORT:-other}", "5000"),
        ("${NONE:-http://${HOST}:${PORT}}/x", "http://here:5000/x"),
        ("${NONE:-${EMPTY:-deep}}", "deep"),
        ("${TRICKY}", "${PORT}"),
        ("${NONE:-}", ""),
        ("${PORT:?never said}", "5000"),
    ],
)
def test_variables_are_filled_in_as_the_specification_has_it(text: str, filled: str) -> None:
    assert fill_in(text, VARIABLES) == filled


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("${EMPTY:?is empty, run make secrets}", "^EMPTY is empty, run make secrets"),
        ("${NONE:?}", "^NONE must be set"),
        *[(text, "are read here") for text in ("${PORT", "${}", "${PORT!x}", "${PORT+x}", "$PORT", "$$PORT", "5$ ")],
    ],
)
def test_what_cannot_be_filled_in_is_refused(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        fill_in(text, VARIABLES)


SERVICES = """
x-shared: &shared
  A: "1"
services:
  base:
    command: ["python", "-m", "some thing"]
    environment:
      <<: *shared
      B: ${PORT}
      C: true
      D:
    volumes: ["data:/data", "./here:/there:ro", "/abs:/mnt"]
    ports: ["127.0.0.2:${PORT}:5000"]
    healthcheck: {test: ["CMD", "true"], interval: 10s, retries: 3, start_period: 1m30s, timeout: 5s}
    restart: unless-stopped
    stop_signal: SIGINT
    stop_grace_period: 1m
    x-native: {port: "${PORT:-1}", environment: {E: x}}
  once:
    command: ["sh", "-c", "exit 0"]
    restart: "no"
    depends_on: {base: {condition: service_healthy}}
  plain:
    command: ["sleep", 5]
    depends_on: {once: {condition: service_completed_successfully}}
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "docker-compose.yml"
    path.write_text(text)
    return path


def test_services_are_read(tmp_path: Path) -> None:
    services = read_compose(write(tmp_path, SERVICES), VARIABLES)
    base = services["base"]
    assert base.command == ("python", "-m", "some thing")
    assert base.environment == {"A": "1", "B": "5000", "C": "true", "D": ""}
    assert base.mounts == {"/data": "data", "/there": "./here", "/mnt": "/abs"}
    assert base.healthcheck is not None
    assert base.healthcheck.test == ("true",)
    assert (base.healthcheck.timeout, base.healthcheck.limit_s) == (5.0, 120.0)
    assert (base.one_shot, base.stop_signal, base.stop_grace_period) == (False, "SIGINT", 60.0)
    assert (base.native.port, base.native.port_setting) == ("5000", "PORT")
    assert base.native.environment == {"E": "x"}
    assert (base.ports, services["once"].ports) == (("127.0.0.2:5000:5000",), ())
    assert services["once"].one_shot
    assert list(services["once"].depends_on) == ["base"]
    assert services["plain"].command == ("sleep", "5")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("services: [", "no YAML"),
        ("other: 1", "has no `services:`"),
        ("services: {a: {command: [x], environment: [A=1]}}", "service a: environment: .*dictionary"),
        (
            "services: {a: {command: [x], depends_on: {b: {condition: service_healthy}}}}",
            "service a: depends_on names no service: b",
        ),
        (
            "services: {a: {command: [x], depends_on: {a: {condition: soon}}}}",
            "a: depends_on.a.condition: .*service_healthy",
        ),
        (
            "services: {a: {command: [x], healthcheck: {test: [CMD-SHELL, curl localhost]}}}",
            "a: healthcheck.test.*CMD",
        ),
        ("services: {a: {command: [x], stop_grace_period: soon}}", "'soon' is no duration"),
        ("services: {a: {command: [x], x-native: {prot: A}}}", "service a: .*prot"),
        ("services: {a: {command: ['${NONE:?is empty}']}}", "service a: NONE is empty"),
        ("services: {a: {command: python -m x}}", "service a: command: .*tuple"),
        ("services: {a: {command: [x], volumes: [{type: tmpfs, target: /run}]}}", "service a: volumes.0: .*string"),
    ],
)
def test_an_unfit_file_is_refused_by_service_and_key(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        read_compose(write(tmp_path, text), VARIABLES)


def test_no_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--compose"):
        read_compose(tmp_path / "docker-compose.yml", {})
