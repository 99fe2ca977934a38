"""The command line as Markdown, from the typer application: what `--help` says, on one page."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import click
import typer

from notellm2.cli import app


def commands() -> Iterator[tuple[str, click.Command]]:
    """Every command by its whole name, such as `notellm2 data pin`, and every group before its commands."""
    root: Any = typer.main.get_command(app)
    yield from _walk("notellm2", root)


def commands_markdown() -> str:
    """A heading for each command, its explanation, its example, and a table of what it takes."""
    parts: list[str] = []
    for name, command in commands():
        if name == "notellm2" or command.hidden:
            continue
        depth = "##" if name.count(" ") == 1 else "###"
        parts += [f"\n{depth} `{name}` {{ #{name.removeprefix('notellm2 ').replace(' ', '-')} }}\n"]
        parts += [_prose(command.help), _prose(command.epilog)]
        if not hasattr(command, "commands"):
            parts += [f"```text\n{name} {' '.join(_usage(command))}\n```\n", *_table(command)]
    return "\n".join(parts)


def _walk(name: str, command: Any) -> Iterator[tuple[str, click.Command]]:
    yield name, command
    for part, inner in getattr(command, "commands", {}).items():
        yield from _walk(f"{name} {part}", inner)


def _prose(text: str | None) -> str:
    lines = _plain(inspect.cleandoc(text or "").replace("\b", "").replace("\f", "")).splitlines()
    return "\n".join(_example(line) for line in lines) + "\n"


def _plain(text: str) -> str:
    """Text as it is, where Markdown would read it otherwise."""
    return text.replace("<", "&lt;").replace("*", r"\*").replace("|", r"\|")


def _example(line: str) -> str:
    """The command of a line such as `Example: notellm2 status` as code."""
    before, colon, command = line.partition(": notellm2 ")
    return f"{before}: `notellm2 {command}`" if colon and before.lower().startswith("example") else line


def _usage(command: click.Command) -> Iterator[str]:
    for parameter in command.params:
        if isinstance(parameter, click.Argument) or type(parameter).__name__ == "TyperArgument":
            shown = (parameter.metavar or str(parameter.name)).upper() + ("…" if parameter.nargs == -1 else "")
            yield shown if parameter.required else f"[{shown}]"
        elif parameter.required:
            yield f"{parameter.opts[0]} {str(parameter.name).upper()}"
    yield "[OPTIONS]"


def _table(command: click.Command) -> list[str]:
    rows = ["| argument or option | meaning | default |", "| --- | --- | --- |"]
    for parameter in command.params:
        names = [*parameter.opts, *parameter.secondary_opts]
        shown = ", ".join(f"`{name}`" for name in names)
        if parameter.param_type_name == "argument":
            shown = f"`{(parameter.metavar or str(parameter.name)).upper()}`"
        about = " ".join(_plain(getattr(parameter, "help", None) or "").split())
        rows.append(f"| {shown} | {about} | {_default(parameter)} |")
    return [*rows, ""] if len(rows) > 2 else []


def _default(parameter: Any) -> str:
    value = parameter.default
    if parameter.required:
        return "must be given"
    if value is None or value in ("", [], ()) or callable(value) or isinstance(value, bool):
        return ""
    text = str(value)
    return "" if "UNSET" in text.upper() else f"`{text}`"
