"""Values and their changes in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def show(value: Any) -> str:
    """Format a value of a summary, for reading."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{str(key).replace('_', ' ')}: {show(part)}" for key, part in value.items()) or "none"
    if isinstance(value, (list, tuple)):
        return ", ".join(show(part) for part in value) or "none"
    return str(value)


def percent(value: float | None) -> str:
    """Format a share in per cent."""
    return "–" if value is None else f"{100 * value:.1f}"


def points(value: float) -> str:
    """Format a difference of shares in points, signed; a true minus sign lines up with plus."""
    return f"{100 * value:+.1f}".replace("-", "−")


def facts(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Format a summary as labelled lines; a mapping of mappings gets a line for each part."""
    lines = []
    for key, value in summary.items():
        label = str(key).replace("_", " ")
        if isinstance(value, Mapping) and any(isinstance(part, Mapping) for part in value.values()):
            lines += [(f"{label}, {part}", show(inner)) for part, inner in value.items()]
        else:
            lines.append((label, show(value)))
    return lines


def flat(tree: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """Flatten a tree to dotted names and values; an empty branch has none."""
    leaves: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            leaves |= flat(value, f"{above}{key}.")
        else:
            leaves[f"{above}{key}"] = value
    return leaves


def recipe_changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """List (field, before, now) of each field that two recipes differ in; one that is missing is "not there"."""
    old, new = flat(before), flat(now)
    return [(name, _known(old, name), _known(new, name)) for name in _different(old, new)]


def data_changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[tuple[str, str, str, str]]:
    """List (fact, before, now, change) of each fact that two data versions differ in; numbers with their change."""
    old, new = flat(before), flat(now)
    return [
        (
            name.replace("_", " ").replace(".", ", "),
            _known(old, name),
            _known(new, name),
            _growth(old.get(name), new.get(name)),
        )
        for name in _different(old, new)
    ]


def _different(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Names whose values differ or that only one side has: those that are gone, then the others in the new order."""
    gone = sorted(old.keys() - new.keys())
    return gone + [name for name, value in new.items() if name not in old or old[name] != value]


def _known(values: Mapping[str, Any], name: str) -> str:
    return show(values[name]) if name in values else "not there"


def _growth(before: Any, now: Any) -> str:
    """The difference of two numbers, and by how much of the first; nothing where either is no number."""
    if not all(isinstance(value, int | float) and not isinstance(value, bool) for value in (before, now)):
        return ""
    difference = now - before
    change = f"{difference:+,}" if isinstance(difference, int) else f"{difference:+.4g}"
    return (change + (f" ({100 * difference / before:+.1f} %)" if before else "")).replace("-", "−")
