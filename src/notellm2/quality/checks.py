"""A check of a data version as plain data: a name, a severity, a measure in SQL and its bounds; and the time window.

Nothing here imports DuckDB or Great Expectations. `summaries` measures the checks over the relations it prepares
(``notes``, ``images``, ``interactions`` and views grouped from them), `suites` lets Great Expectations judge the
measured values, so that neither ever holds a million rows in pandas. `plan` lists the checks.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Literal

from notellm2.errors import InputError
from notellm2.recipe import QualityConfig

SUITES = ("notes", "images", "interactions", "references", "volume")

Severity = Literal["critical", "warning"]

MAX_ID_CHARS = 200
"""Longest id of a note or user, characters."""

COPY_CHARS = 40
"""Least title and content, characters, for equal texts to count as copies; shorter ones ("hello") meet by chance."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Expected:
    """What a check expects, in words.

    Attributes:
        name: suite and name, ``notes.note_id_unique``; the name is unique over all suites.
        column: the column of the data it is about, or ``*`` for whole rows.
        meaning: a plain sentence that says what is expected.
        severity: critical stops the flow, warning is only shown.
    """

    name: str
    column: str
    meaning: str
    severity: Severity = "critical"


@dataclass(frozen=True)
class Fault:
    """Rows at fault: those of `relation` under the SQL predicate `bad`, shown by its columns `show`."""

    relation: str
    bad: str
    show: tuple[str, ...]

    @property
    def count(self) -> str:
        """SQL aggregate: how many rows are at fault."""
        return f"count(*) FILTER ({self.bad})"


@dataclass(frozen=True)
class Check:
    """One expectation about one measured number.

    Attributes:
        expected: the expectation in words.
        relation: the relation of `summaries` that `value`, `failed` and `bad` refer to.
        value: SQL aggregate: the measured number.
        lower: least value that passes; None: no bound.
        upper: largest value that passes; None: no bound.
        failed: SQL aggregate: how many rows are at fault; None where no single row is.
        bad: SQL predicate of the rows shown as samples; None: no samples.
        show: columns of `relation` shown of each sample row.
    """

    expected: Expected
    relation: str
    value: str
    lower: float | None = None
    upper: float | None = None
    failed: str | None = None
    bad: str | None = None
    show: tuple[str, ...] = ()

    @classmethod
    def no_row(cls, expected: Expected, fault: Fault) -> Check:
        """Allow no row to be at fault."""
        return cls(expected, fault.relation, fault.count, None, 0, fault.count, fault.bad, fault.show)

    @classmethod
    def share(
        cls, expected: Expected, fault: Fault, *, most: float | None = None, least_good: float | None = None
    ) -> Check:
        """Allow at most the share `most` of the rows to be at fault, or require `least_good` not to be."""
        counted = fault.count if least_good is None else f"(count(*) - {fault.count})"
        value = f"coalesce({counted} / nullif(count(*), 0), 0)"
        return cls(expected, fault.relation, value, least_good, most, fault.count, fault.bad, fault.show)

    @classmethod
    def at_least(cls, expected: Expected, relation: str, value: str, lower: float) -> Check:
        """Require a least value of a number of the whole table; no single row is at fault."""
        return cls(expected, relation, value, lower)

    @property
    def suite(self) -> str:
        """One of `SUITES`."""
        return self.expected.name.split(".")[0]

    @property
    def name(self) -> str:
        """Unique over all suites; also the column of the summary frame that Great Expectations reads."""
        return self.expected.name.split(".")[1]

    @property
    def column(self) -> str:
        """The column of the data it is about, or ``*``."""
        return self.expected.column

    @property
    def severity(self) -> Severity:
        """How much a failure matters: critical stops the flow."""
        return self.expected.severity

    @property
    def meaning(self) -> str:
        """A plain sentence that says what is expected."""
        return self.expected.meaning


@dataclass(frozen=True)
class Window:
    """When behaviour may have happened: from `start` on, before `end`; both microseconds since 1970 (UTC)."""

    start: int
    end: int

    @classmethod
    def of(cls, config: QualityConfig, now: datetime) -> Window:
        """The window a recipe names; a plain date as `latest` includes that whole day.

        Raises:
            InputError: a bound is not ISO 8601, or they leave no time between them.
        """
        start = moment("recipe: quality.earliest", config.earliest)
        if config.latest is None:
            end = now
        elif _is_date(config.latest):
            end = moment("recipe: quality.latest", config.latest) + timedelta(days=1)
        else:
            end = moment("recipe: quality.latest", config.latest) + timedelta(microseconds=1)
        if end <= start:
            raise InputError(
                f"recipe: quality.earliest ({config.earliest}) is not before quality.latest "
                f"({config.latest or 'now'}); set an earlier quality.earliest or a later quality.latest"
            )
        return cls((start - _EPOCH) // timedelta(microseconds=1), (end - _EPOCH) // timedelta(microseconds=1))

    def __str__(self) -> str:
        bounds = (_EPOCH + timedelta(microseconds=us) for us in (self.start, self.end))
        return " to ".join(f"{bound:%Y-%m-%d %H:%M}" for bound in bounds) + " UTC"


def moment(name: str, text: str) -> datetime:
    """A date or time in ISO 8601, in UTC unless it names an offset.

    Raises:
        InputError: it is neither; the message begins with `name`.
    """
    try:
        instant = datetime.combine(date.fromisoformat(text), time()) if _is_date(text) else datetime.fromisoformat(text)
    except ValueError:
        raise InputError(f"{name} is {text!r}; expected a date or time in ISO 8601, such as 2024-01-31") from None
    return instant.replace(tzinfo=UTC) if instant.tzinfo is None else instant.astimezone(UTC)


def _is_date(text: str) -> bool:
    try:
        date.fromisoformat(text)
    except ValueError:
        return False
    return True
