"""Reads suites of expectations: files in Great Expectations' own JSON, which a team edits and adds its own to.

A file is what Great Expectations stores for a suite: ``name``, ``meta``, ``notes`` and ``expectations`` of ``type``,
``kwargs``, ``severity``, ``description`` and ``meta``. Of a suite's ``meta`` we read ``table`` (`tables.TABLES`) and
``show`` (columns shown beside an unexpected value), of an expectation's ``name``. A value may be
``{"$PARAMETER": "max_title_chars"}``: a field of the recipe's section `quality`, or a sum with one. Nothing here
imports Great Expectations, so a wrong file is refused at once.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from notellm2.artifacts import digest_json
from notellm2.errors import InputError
from notellm2.quality.tables import SUMMARY, TABLES
from notellm2.quality.window import Window
from notellm2.recipe import QualityConfig

Severity = Literal["critical", "warning"]

_SHIPPED = (
    "recipes/suites",
    Path(__file__).parent / "shipped_suites",
    Path(__file__).parents[3] / "recipes" / "suites",
)
"""Where the shipped suites are: in the project's folder, where a team edits them; else in the installed package, or
in the checkout that this code runs from."""

_NAME = r"[A-Za-z0-9_-]{1,64}"
_SUITE_KEYS = {"name", "meta", "notes", "expectations", "id"}
_EXPECTATION_KEYS = {"type", "kwargs", "meta", "notes", "description", "severity", "id", "rendered_content"}

BY_ROW = frozenset(
    f"expect_column_{name}"
    for name in (
        "value_lengths_to_be_between",
        "value_lengths_to_equal",
        "values_to_be_between",
        "values_to_be_dateutil_parseable",
        "values_to_be_in_set",
        "values_to_be_in_type_list",
        "values_to_be_json_parseable",
        "values_to_be_null",
        "values_to_be_of_type",
        "values_to_match_json_schema",
        "values_to_match_regex",
        "values_to_match_regex_list",
        "values_to_match_strftime_format",
        "values_to_not_be_in_set",
        "values_to_not_be_null",
        "values_to_not_match_regex",
        "values_to_not_match_regex_list",
        "pair_values_a_to_be_greater_than_b",
        "pair_values_to_be_equal",
        "pair_values_to_be_in_set",
        "distinct_values_to_be_in_set",
        "to_exist",
    )
) | {
    "expect_multicolumn_sum_to_equal",
    "expect_select_column_values_to_be_unique_within_record",
    "expect_table_column_count_to_be_between",
    "expect_table_column_count_to_equal",
    "expect_table_columns_to_match_ordered_list",
    "expect_table_columns_to_match_set",
}
"""Expectations that hold for a table if they hold for each part of it, or whose counts add up."""


@dataclass(frozen=True)
class Expectation:
    """One expectation of a suite file.

    Attributes:
        name: unique within the suite; ``meta.name``, else made of column and type.
        kind: its type by Great Expectations' name.
        kwargs: its arguments, parameters not yet filled in.
        severity: critical stops the flow, warning is only shown.
        meaning: a plain sentence that says what is expected; fields of the recipe as ``$max_title_chars``.
        notes: what Great Expectations shows beside it.
        source: file and position, for messages.
    """

    name: str
    kind: str
    kwargs: dict[str, Any]
    severity: Severity
    meaning: str
    notes: Any
    source: str

    @property
    def columns(self) -> list[str]:
        """The columns it is about; none if it is about the table."""
        return _columns(self.kwargs)

    @property
    def column(self) -> str:
        """The columns as text, ``*`` if it is about the table."""
        return ", ".join(self.columns) or "*"


@dataclass(frozen=True)
class Suite:
    """One suite file.

    Attributes:
        name: its name, unique in a run.
        table: the table it is about.
        show: columns shown beside each unexpected value.
        notes: what Great Expectations shows above it.
        expectations: in the order of the file.
    """

    name: str
    table: str
    show: tuple[str, ...]
    notes: Any
    expectations: tuple[Expectation, ...]


def load_suites(named: Sequence[Path] | None) -> list[Suite]:
    """Read the suites of a recipe, in order of their files' names within a folder.

    Args:
        named: files, or folders of ``*.json``; None: the shipped ones.

    Raises:
        InputError: one is missing or cannot be used; names file and expectation.
    """
    suites = [_read(path) for path in _files(named)]
    seen: dict[str, int] = {}
    for suite in suites:
        seen[suite.name] = seen.get(suite.name, 0) + 1
    if twice := [name for name, count in seen.items() if count > 1]:
        raise InputError(f"quality.suites: two suites are named {twice[0]!r}; give each file's suite its own `name`")
    return suites


def suites_digest(suites: Iterable[Suite]) -> str:
    """Return what the suites say, as a digest: where their files lie does not matter."""
    contents = [
        [s.name, s.table, list(s.show), [[e.name, e.kind, e.kwargs, e.severity, e.meaning] for e in s.expectations]]
        for s in suites
    ]
    return digest_json({"suites": contents})


def parameters(config: QualityConfig, window: Window) -> dict[str, Any]:
    """Return what ``$PARAMETER`` may name: the fields of the recipe's section, and the window's bounds as ISO 8601."""
    start, end = window.bounds()
    fields = {name: value for name, value in config if isinstance(value, int | float)}
    return fields | {"window_start": start.isoformat(), "window_end": end.isoformat()}


PARAMETERS = frozenset(parameters(QualityConfig(), Window(0, 1)))
"""Names of all parameters."""


def _files(named: Sequence[Path] | None) -> list[Path]:
    if named is None:
        folders = [Path(place) for place in _SHIPPED if Path(place).is_dir()]
        if not folders:
            raise InputError("quality.suites is null, and there is no folder recipes/suites: name the suites' files")
        return sorted(folders[0].glob("*.json"))
    files: list[Path] = []
    for path in named:
        found = sorted(path.glob("*.json")) if path.is_dir() else [path]
        if not found:
            raise InputError(f"quality.suites: {path}: a folder without *.json; expected suites of Great Expectations")
        files += found
    return files


def _read(path: Path) -> Suite:
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(
            f"quality.suites: {path}: {error.strerror}; name a JSON file of Great Expectations, or a folder of them"
        ) from None
    except ValueError as error:
        raise InputError(f"suite {path}: not JSON: {error}") from None
    if not isinstance(tree, dict) or not isinstance(tree.get("expectations"), list) or not tree.get("name"):
        raise InputError(
            f"suite {path}: expected an object with name and expectations, as Great Expectations stores it"
        )
    _only(tree, _SUITE_KEYS, f"suite {path}")
    if not re.fullmatch(_NAME, str(tree["name"])):
        raise InputError(
            f"suite {path}: name is {tree['name']!r}; expected letters, digits, _ and -: it names its pages"
        )
    meta = tree.get("meta") or {}
    table = meta.get("table", tree["name"])
    if table not in TABLES:
        raise InputError(f"suite {path}: meta.table is {table!r}; expected one of {', '.join(TABLES)}")
    show = tuple(meta.get("show") or TABLES[table].show)
    _known(show, table, f"suite {path}: meta.show")
    names: list[str] = []
    expectations = []
    for number, one in enumerate(tree["expectations"], start=1):
        expectation = _expectation(one, table, f"suite {path}, expectation {number}")
        if expectation.name in names:
            raise InputError(f"{expectation.source}: a second one named {expectation.name!r}; set another meta.name")
        names.append(expectation.name)
        expectations.append(expectation)
    return Suite(str(tree["name"]), table, show, tree.get("notes"), tuple(expectations))


def _expectation(one: Any, table: str, where: str) -> Expectation:
    if not isinstance(one, dict) or not isinstance(one.get("type"), str) or not isinstance(one.get("kwargs"), dict):
        raise InputError(f"{where}: expected an object with type and kwargs, as Great Expectations has it")
    kind, kwargs = one["type"], one["kwargs"]
    where = f"{where} ({kind})"
    _only(one, _EXPECTATION_KEYS, where)
    if table != SUMMARY and kind not in BY_ROW:
        raise InputError(
            f"{where}: cannot be judged part by part, as the table {table} is read; state it of a number of the table "
            f"{SUMMARY} ({', '.join(TABLES[SUMMARY].columns)}) instead, or use one of: {', '.join(sorted(BY_ROW))}"
        )
    columns = _columns(kwargs)
    _known(columns, table, where)
    _parameters_known(kwargs, where)
    severity = one.get("severity") or "critical"
    if severity not in ("critical", "warning", "info"):
        raise InputError(f"{where}: severity is {severity!r}; expected critical or warning")
    name = (one.get("meta") or {}).get("name") or "_".join([*columns, _short(kind)])
    return Expectation(
        name=str(name),
        kind=kind,
        kwargs=kwargs,
        severity="critical" if severity == "critical" else "warning",
        meaning=str(one.get("description") or f"{_short(kind).replace('_', ' ').capitalize()}."),
        notes=one.get("notes"),
        source=where,
    )


def _columns(kwargs: dict[str, Any]) -> list[str]:
    single = [kwargs[key] for key in ("column", "column_A", "column_B") if key in kwargs]
    return [str(name) for name in [*single, *kwargs.get("column_list", ())]]


def _short(kind: str) -> str:
    return re.sub(r"^expect_((column|table)_)?", "", kind)


def _known(columns: Iterable[Any], table: str, where: str) -> None:
    for column in columns:
        if column not in TABLES[table].columns:
            raise InputError(
                f"{where}: the table {table} has no column {column!r}; it has {', '.join(TABLES[table].columns)}"
            )


def _only(tree: dict[str, Any], keys: set[str], where: str) -> None:
    if unknown := sorted(set(tree) - keys):
        raise InputError(f"{where}: unknown key {unknown[0]!r}; expected only {', '.join(sorted(keys))}")


def _parameters_known(kwargs: dict[str, Any], where: str) -> None:
    for value in kwargs.values():
        if isinstance(value, dict) and "$PARAMETER" in value:
            for name in re.findall(r"[A-Za-z_]\w*(?!\w*\()", str(value["$PARAMETER"])):
                if name not in PARAMETERS:
                    raise InputError(f"{where}: no parameter {name!r}; expected one of {', '.join(sorted(PARAMETERS))}")
