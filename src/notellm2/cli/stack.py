"""Commands on the team's set-up: its servers, their settings, their state."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from notellm2.cli.options import JsonOption, group, print_json

if TYPE_CHECKING:
    from notellm2.stack.native import Stack

stack_commands = group("The team's servers on this machine: make secrets, start, stop, look after.")

ServicesArgument = Annotated[list[str] | None, typer.Argument(help="Only these, and what they depend on.")]
EnvOption = Annotated[Path, typer.Option("--env", help="File with settings and secrets.")]
ComposeOption = Annotated[Path, typer.Option("--compose", help="File that describes the services.")]
StateOption = Annotated[Path, typer.Option("--state", help="Folder for data, logs and process files.")]
ENV = Path(".env")
COMPOSE = Path("docker-compose.yml")
STATE = Path(".stack")


def open_stack(env: Path, compose: Path, state: Path) -> Stack:
    """Open the stack that these options name; it prints its steps on standard output."""
    from notellm2.stack.native import Stack
    from notellm2.stack.settings import Settings

    return Stack(Settings.load(env), compose, state, say=typer.echo)


@stack_commands.command()
def secrets(
    env: EnvOption = ENV,
    example: Annotated[Path, typer.Option(help="File that a missing one is made from.")] = Path(".env.example"),
) -> None:
    """Fill in the secrets that are empty in .env, which is made where it is missing; none is shown or replaced.

    Example: notellm2 stack secrets
    """
    from notellm2.stack.settings import Settings, write_secrets

    names = write_secrets(env, example)
    typer.echo(f"{env}: made {', '.join(names)}" if names else f"{env}: every secret is set")
    Settings.load(env)


@stack_commands.command()
def up(
    services: ServicesArgument = None,
    env: EnvOption = ENV,
    compose: ComposeOption = COMPOSE,
    state: StateOption = STATE,
) -> None:
    """Start the servers without Docker and wait until all are well; start again what has changed.

    Example: notellm2 stack up
    """
    stack = open_stack(env, compose, state)
    with _failure_shown():
        stack.up(services or None)
    typer.echo("up; `notellm2 stack status` looks again, `notellm2 stack down` ends it")


@stack_commands.command()
def restart(
    service: Annotated[str, typer.Argument(help="The service.")],
    env: EnvOption = ENV,
    compose: ComposeOption = COMPOSE,
    state: StateOption = STATE,
) -> None:
    """Stop one server and start it as it was, then wait until it is well; `up` takes up what .env says otherwise.

    Example: notellm2 stack restart mlflow
    """
    stack = open_stack(env, compose, state)
    with _failure_shown():
        stack.restart(service)


@contextlib.contextmanager
def _failure_shown() -> Iterator[None]:
    from notellm2.stack.native import ServiceFailed

    try:
        yield
    except ServiceFailed as failed:
        for line in failed.tail:
            typer.echo(f"    {line}", err=True)
        typer.echo(f"failed: {failed}; its log is {failed.log}. `notellm2 stack down` ends the others.", err=True)
        raise typer.Exit(1) from None


@stack_commands.command()
def down(state: StateOption = STATE) -> None:
    """Stop the servers, last started first, and whatever a crash left behind. Data stays.

    Example: notellm2 stack down
    """
    from notellm2.stack import native

    left = native.down(state)
    typer.echo(f"down{f'; {left} processes without a supervisor were ended' if left else ''}")


@stack_commands.command()
def status(
    env: EnvOption = ENV,
    compose: ComposeOption = COMPOSE,
    state: StateOption = STATE,
    as_json: JsonOption = False,
) -> None:
    """Show what runs, where, and whether it is well; ends with 1 where something is not.

    Example: notellm2 stack status
    """
    from datetime import UTC, datetime

    rows = open_stack(env, compose, state).status()
    if as_json:
        print_json([row.__dict__ for row in rows])
    else:
        for row in rows:
            since = datetime.fromtimestamp(row.since, UTC).strftime("%Y-%m-%d %H:%M:%SZ") if row.since else ""
            typer.echo(f"{row.name:16s} {row.state:10s} {row.pid or '':>8} {since:20s} {row.where}".rstrip())
    if not all(row.well for row in rows):
        raise typer.Exit(1)


@stack_commands.command()
def logs(
    service: Annotated[str | None, typer.Argument(help="Only this service.")] = None,
    lines: Annotated[int, typer.Option("--lines", "-n", min=1, help="Last lines of each log.")] = 50,
    env: EnvOption = ENV,
    compose: ComposeOption = COMPOSE,
    state: StateOption = STATE,
) -> None:
    """Show the last lines of the servers' logs.

    Example: notellm2 stack logs mlflow --lines 200
    """
    from notellm2.stack.native import last_lines

    stack = open_stack(env, compose, state)
    for name in [service] if service else stack.names():
        path = stack.log_path(name)
        typer.echo(f"== {name}: {path}")
        for line in last_lines(path, lines):
            typer.echo(line)
