"""The recipe's fields as Markdown, from the pydantic models: name, type, default, and what it means with its unit."""

from __future__ import annotations

import inspect
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from notellm2.recipe import Recipe

PLAIN = {str: "text", int: "whole number", float: "number", bool: "true or false", Path: "path", type(None): "null"}
BOUNDS = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}


def recipe_markdown() -> str:
    """One heading and one table for each section of a recipe, nested sections after the one that holds them."""
    top = {name: field for name, field in Recipe.model_fields.items() if not sections_of(field.annotation)}
    parts = ["## At the top", *_table("", top)]
    for name, field in Recipe.model_fields.items():
        for model in sections_of(field.annotation):
            parts += _section(name, model, depth=2)
    return "\n".join(parts)


def field_names(model: type[BaseModel] = Recipe, prefix: str = "") -> Iterator[str]:
    """Every field of a recipe by its whole name, such as `training.steps`, and every section."""
    for name, field in model.model_fields.items():
        yield prefix + name
        for section in sections_of(field.annotation):
            yield from field_names(section, f"{prefix}{name}.")


def sections_of(annotation: Any) -> list[type[BaseModel]]:
    """The sections that a field may hold: one, or none for plain values."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [section for part in get_args(annotation) for section in sections_of(part)]


def _section(path: str, model: type[BaseModel], depth: int) -> list[str]:
    about = inspect.cleandoc(model.__doc__ or "").replace("\n", " ")
    plain = {n: f for n, f in model.model_fields.items() if not _is_section(f)}
    parts = [f"\n{'#' * depth} `{path}` {{ #{path} }}\n", f"{about}\n", *_table(f"{path}.", plain)]
    for name, field in model.model_fields.items():
        for section in sections_of(field.annotation):
            parts += _section(f"{path}.{name}", section, min(depth + 1, 4))
    return parts


def _is_section(field: FieldInfo) -> bool:
    """Whether a field is a section and nothing else; one that may also be a name stays in the table."""
    return isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)


def _table(prefix: str, fields: dict[str, FieldInfo]) -> list[str]:
    if not fields:
        return []
    rows = ["| field | type | default | meaning |", "| --- | --- | --- | --- |"]
    for name, field in fields.items():
        kind = _type(field.annotation) + _bounds(field.metadata)
        meaning = (field.description or "").replace("|", r"\|").replace("<", "&lt;")
        rows.append(f"| `{name}`{{ #{prefix}{name} }} | {kind} | {_default(field, prefix + name)} | {meaning} |")
    return [*rows, ""]


def _default(field: FieldInfo, path: str) -> str:
    value = field.get_default(call_default_factory=True)
    if value is PydanticUndefined:
        return "must be given"
    if isinstance(value, BaseModel):
        return f"[`{path}`](#{path})"
    if value is None or isinstance(value, bool):
        return f"`{ {None: 'null', True: 'true', False: 'false'}[value] }`"
    if isinstance(value, tuple):
        return f"`[{', '.join(map(str, value))}]`"
    if isinstance(value, int):
        return f"`{value:_}`" if value >= 10_000 else f"`{value}`"
    return f"`{value}`" if str(value) else "empty"


def _type(annotation: Any) -> str:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _type(arguments[0])
    if origin is Literal:
        return ", ".join(f"`{choice}`" for choice in arguments)
    if origin in (Union, types.UnionType):
        return " or ".join(_type(part) for part in arguments)
    if origin is tuple:
        return f"list of: {_type(arguments[0])}"
    if origin is dict:
        return f"mapping of name to {_type(arguments[1])}"
    if sections_of(annotation):
        return "section"
    return PLAIN.get(annotation, getattr(annotation, "__name__", str(annotation)).replace("AwareDatetime", "time"))


def _bounds(metadata: list[Any]) -> str:
    found = [
        f"{sign} {_number(getattr(item, name))}"
        for item in metadata
        for name, sign in BOUNDS.items()
        if getattr(item, name, None) is not None
    ]
    return f"; {', '.join(found)}" if found else ""


def _number(value: float) -> str:
    return f"{value:g}"
