"""One raw value of an export to one field of a note or an interaction, or a named problem."""

from __future__ import annotations

import ast
import json
import math
import re
import warnings
from collections.abc import Iterable
from datetime import UTC, date, datetime, timedelta
from typing import Any

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
FIRST_MICROS = (datetime.min.replace(tzinfo=UTC) - EPOCH) // _MICROSECOND
LAST_MICROS = (datetime.max.replace(tzinfo=UTC) - EPOCH) // _MICROSECOND
_TEXT = re.compile(r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"", re.DOTALL)
_SEPARATOR = re.compile(r"[\s,]*")
_MOST_LITERAL = 100_000
"""Longest text that is tried as a list, characters."""
_NUMBER = re.compile(r"[+-]?\d+(\.\d*)?([eE][+-]?\d+)?\Z", re.ASCII)


class FieldProblem(ValueError):
    """A value that cannot be used.

    Attributes:
        reason: missing-id, wrong-type, bad-timestamp or invalid-utf8.
        detail: column, the value, what was expected.
    """

    def __init__(self, reason: str, detail: str):
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


class Micros(int):
    """Microseconds since 1970 (UTC): a timestamp that a typed column gave, beside plain ints, which are seconds."""


def text(value: Any, column: str) -> str:
    """Read a text field; None is the empty text, bytes are UTF-8.

    Raises:
        FieldProblem: another type, or not valid UTF-8.
    """
    if value is None:
        return ""
    try:
        if isinstance(value, bytes):
            return value.decode()
        if isinstance(value, str):
            if not value.isascii():
                value.encode()  # a lone surrogate: undecodable bytes of a CSV, or a JSON escape such as "\ud800"
            return value
    except UnicodeError as error:
        raise FieldProblem("invalid-utf8", f"{column}: {error}") from None
    raise FieldProblem("wrong-type", f"{column}: expected text, found {_shown(value)}")


def identifier(value: Any, column: str) -> str:
    """Read an id: text that is not blank, or a whole number.

    Raises:
        FieldProblem: missing, another type, or not valid UTF-8.
    """
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if value is not None and not isinstance(value, (str, bytes)):
        raise FieldProblem("wrong-type", f"{column}: expected text or a whole number, found {_shown(value)}")
    name = text(value, column)
    if not name or name.isspace():
        raise FieldProblem("missing-id", f"{column}: no value")
    return name


def parse_list(written: str) -> list[str] | None:
    """Read the texts of a list that was written as text (``['a', 'b']``, ``[{'name': 'a'}]``), or None.

    pandas writes a list into a CSV so, in Python's notation; NumPy leaves out the commas.
    """
    body = written.strip()
    if not (body.startswith("[") and body.endswith("]")):
        return None
    parts: Any = _quoted(body[1:-1])
    if parts is None:
        parts = _literal(body)
    if not isinstance(parts, list):
        return None
    names: list[Any] = [part.get("name") if isinstance(part, dict) else part for part in parts]
    return names if all(isinstance(name, str) for name in names) else None


def is_listed(value: Any) -> bool:
    """Return whether a raw value is the text of a list."""
    if isinstance(value, bytes):
        value = value.decode(errors="replace") if value.lstrip().startswith(b"[") else None
    return isinstance(value, str) and parse_list(value) is not None


def _quoted(body: str) -> list[Any] | None:
    """Texts in quotes with blanks or commas between them, and nothing else."""
    texts: list[Any] = []
    position = 0
    while True:
        separator = _SEPARATOR.match(body, position)
        position = separator.end() if separator else position
        if position == len(body):
            return texts
        match = _TEXT.match(body, position)
        if match is None:
            return None
        texts.append(_literal(match[0]) if "\\" in match[0] else match[0][1:-1])
        position = match.end()


def _literal(written: str) -> Any:
    """The value of a Python or JSON literal; None for anything else."""
    if len(written) > _MOST_LITERAL:
        return None
    for parse in (json.loads, ast.literal_eval):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of Python, on unknown escapes such as \\d
                return parse(written)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
    return None


def topics(value: Any, column: str = "topics") -> list[str]:
    """Read topics from a list of texts, the text of such a list, or one text joined by ``|``; blank ones are dropped.

    Raises:
        FieldProblem: another type, or not valid UTF-8.
    """
    if value is None:
        return []
    parts: Iterable[Any] = value
    if not isinstance(value, list):
        written = text(value, column)
        names_listed = parse_list(written)
        parts = written.split("|") if names_listed is None else names_listed
    names = []
    for part in parts:
        if part is None:
            raise FieldProblem("wrong-type", f"{column}: expected a list of texts, found null in it")
        topic = text(part, column).strip()
        if topic:
            names.append(topic)
    return names


def moment(value: Any, column: str) -> int | None:
    """Read a point in time as microseconds since 1970 (UTC), or None when there is no value.

    Numbers, also as text, are Unix seconds; other text is ISO 8601, in UTC unless it names an offset.

    Raises:
        FieldProblem: not a time, or outside the years 1 to 9999.
    """
    if value is None:
        return None
    if isinstance(value, Micros):
        return _within(int(value), value, column)
    if isinstance(value, bool):
        raise FieldProblem("wrong-type", f"{column}: expected a time, found {_shown(value)}")
    if isinstance(value, int):
        return _within(value * 1_000_000, value, column)
    if isinstance(value, float):
        return _from_float(value, column)
    if isinstance(value, date):
        return _from_date(value, column)
    if not isinstance(value, (str, bytes)):
        raise FieldProblem("wrong-type", f"{column}: expected a time, found {_shown(value)}")
    written = text(value, column).strip()
    if not written:
        return None
    if _NUMBER.match(written):
        if len(written) > 40:
            raise FieldProblem("bad-timestamp", f"{column}: {written[:40]!r}... is no Unix time in seconds")
        return moment(int(written) if written.lstrip("+-").isdigit() else float(written), column)
    try:
        return _from_date(datetime.fromisoformat(written), column)
    except ValueError:
        raise FieldProblem(
            "bad-timestamp", f"{column}: {written[:60]!r} is neither Unix seconds nor an ISO 8601 time"
        ) from None


def required_moment(value: Any, column: str) -> int:
    """Read a time as `moment` does, for a column in which a value must be.

    Raises:
        FieldProblem: no value, not a time, or outside the years 1 to 9999.
    """
    micros = moment(value, column)
    if micros is None:
        raise FieldProblem("bad-timestamp", f"{column}: no value")
    return micros


def _from_float(value: float, column: str) -> int:
    if not math.isfinite(value):
        raise FieldProblem("bad-timestamp", f"{column}: {value} is no time")
    return _within(round(value * 1_000_000), value, column)


def _from_date(value: date, column: str) -> int:
    instant = value if isinstance(value, datetime) else datetime(value.year, value.month, value.day)
    if instant.tzinfo is None:
        instant = instant.replace(tzinfo=UTC)
    return _within((instant - EPOCH) // _MICROSECOND, value, column)


def _within(micros: int, value: Any, column: str) -> int:
    if FIRST_MICROS <= micros <= LAST_MICROS:
        return micros
    raise FieldProblem(
        "bad-timestamp", f"{column}: {value} lies outside the years 1 to 9999; numbers are seconds, not milliseconds"
    )


def _shown(value: Any) -> str:
    return f"{type(value).__name__} {str(value)[:40]!r}"
