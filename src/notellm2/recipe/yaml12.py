"""YAML as version 1.2 means it, for recipes: plain words stay words, and a key that is there twice is an error.

PyYAML follows version 1.1, in which ``yes`` and ``on`` are booleans, ``010`` is 8, ``2024-12-31`` is no text, and the
first of two equal keys is dropped without a word.
"""

from __future__ import annotations

import re
from collections.abc import Hashable
from typing import Any

import yaml

_STR = "tag:yaml.org,2002:str"


class _Loader(yaml.SafeLoader):
    """A safe loader with the core schema of YAML 1.2."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012 (PyYAML's own form)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        lines: dict[str, int] = {}
        for key, _ in node.value:
            name, line = str(key.value), key.start_mark.line + 1
            if isinstance(key, yaml.ScalarNode) and name in lines:
                raise yaml.constructor.ConstructorError(
                    None, None, f"{name!r} is there twice, in lines {lines[name]} and {line}; keep one", None
                )
            lines[name] = line
        return super().construct_mapping(node, deep)

    def construct_number(self, node: yaml.ScalarNode) -> int:
        text = str(self.construct_scalar(node))
        return int(text, {"0o": 8, "0x": 16}.get(text[:2], 10))


_CORE = (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", "-+0123456789"),
    (
        "float",
        r"[-+]?(\.[0-9]+|[0-9]+\.[0-9]*|[0-9]+(?=[eE]))([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        "-+.0123456789",
    ),
    ("null", r"~|null|Null|NULL|", "~nN\0"),
    ("merge", r"<<", "<"),
)
for _name, _pattern, _first in _CORE:
    _Loader.add_implicit_resolver(
        f"tag:yaml.org,2002:{_name}",
        re.compile(rf"(?:{_pattern})\Z"),
        ["" if character == "\0" else character for character in _first],
    )
_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_number)


def load_yaml(text: str) -> Any:
    """Read one YAML document.

    Raises:
        yaml.YAMLError: it is none, or a key is there twice; names the line.
    """
    return yaml.load(text, _Loader)  # noqa: S506 (a safe loader)


def line_of(text: str, path: tuple[int | str, ...]) -> int | None:
    """Find the line (from 1) of a field by its path in a document that `load_yaml` reads; None: it is not there."""
    node = yaml.compose(text, _Loader)
    line: int | None = None
    for part in path:
        if isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
            line = node.start_mark.line + 1
            continue
        pairs = node.value if isinstance(node, yaml.MappingNode) else []
        pair = next(((key, value) for key, value in pairs if key.value == str(part)), None)
        if pair is None:
            return line
        key, node = pair
        line = key.start_mark.line + 1
    return line
