"""The HTTP interface as Markdown, from the OpenAPI schema that the service itself serves."""

from __future__ import annotations

import tempfile
from typing import Any

from notellm2.publication.location import Location
from notellm2.serving.api import application
from notellm2.serving.pointer_follower import Follower


def http_markdown() -> str:
    """A heading for each route with parameters and answers, then a table for each kind of answer."""
    schema = openapi()
    parts = ["## Routes\n"]
    for path, operations in schema["paths"].items():
        for method, operation in operations.items():
            parts += _operation(f"{method.upper()} {path}", operation)
    parts.append("\n## What is in an answer\n")
    for name, model in schema["components"]["schemas"].items():
        if "properties" in model and not name.endswith("ValidationError"):
            parts += _model(name, model)
    return "\n".join(parts)


def openapi() -> dict[str, Any]:
    """The schema, of a service that serves nothing."""
    with tempfile.TemporaryDirectory() as folder:
        return application(Follower(Location.at(folder))).openapi()


def _operation(title: str, operation: dict[str, Any]) -> list[str]:
    parts = [f"\n### `{title}`\n", operation.get("description", operation.get("summary", "")) + "\n"]
    if operation.get("parameters"):
        parts += ["| parameter | in | type | meaning |", "| --- | --- | --- | --- |"]
        for parameter in operation["parameters"]:
            kind = _kind(parameter["schema"])
            parts.append(f"| `{parameter['name']}` | {parameter['in']} | {kind} | {parameter.get('description', '')} |")
        parts.append("")
    parts += ["| status | answer |", "| --- | --- |"]
    for status, answer in operation["responses"].items():
        content = answer.get("content", {}).get("application/json", {}).get("schema", {})
        parts.append(f"| {status} | {_kind(content) if content else answer['description']} |")
    return [*parts, ""]


def _model(name: str, model: dict[str, Any]) -> list[str]:
    about = model.get("description", "").split("\n\nAttributes:")[0].replace("\n", " ")
    meanings = _attributes(model.get("description", ""))
    parts = [f"\n### {name}\n", about + "\n", "| field | type | meaning |", "| --- | --- | --- |"]
    for field, schema in model["properties"].items():
        parts.append(f"| `{field}` | {_kind(schema)} | {meanings.get(field, '')} |")
    return [*parts, ""]


def _attributes(docstring: str) -> dict[str, str]:
    """What the section `Attributes:` of a docstring says of each field."""
    lines = docstring.partition("Attributes:")[2].splitlines()
    pairs = (line.strip().partition(": ") for line in lines)
    return {name: about for name, colon, about in pairs if colon}


def _kind(schema: dict[str, Any]) -> str:
    if "$ref" in schema:
        name = schema["$ref"].rsplit("/", 1)[1]
        return f"[{name}](#{name.lower()})" if "ValidationError" not in name else "FastAPI's list of what is wrong"
    if "anyOf" in schema:
        return " or ".join(_kind(part) for part in schema["anyOf"])
    if schema.get("type") == "array":
        return f"list of {_kind(schema['items'])}"
    bounds = [f"{schema[key]}" for key in ("minimum", "maximum") if key in schema]
    return schema.get("type", "any") + (f", {' to '.join(bounds)}" if bounds else "")
