"""The verdict on one expectation over a whole table, from Great Expectations' results on the table's parts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any

from notellm2.quality.suites import Expectation
from notellm2.quality.summaries import SAMPLES, shown


@dataclass
class Outcome:
    """What came of one expectation, over the parts seen so far.

    Attributes:
        suite: the suite's name.
        expectation: as its file has it.
        meaning: what is expected, with the recipe's numbers.
        column: the column of the data it is about.
        show: columns that tell which row is meant.
        success: whether it holds.
        observed: rows at fault; or the share of rows that are right, where not all need be; or the number that was
            judged; None where there is no number.
        lower: least value of `observed` that passes; None: no bound.
        upper: largest value of `observed` that passes; None: no bound.
        failed: rows at fault; None where no single row is.
        samples: up to `SAMPLES` of them, as JSON values; texts are cut.
    """

    suite: str
    expectation: Expectation
    meaning: str
    column: str
    show: tuple[str, ...]
    success: bool = True
    observed: float | None = None
    lower: float | None = None
    upper: float | None = None
    failed: int | None = None
    samples: list[dict[str, Any]] = field(default_factory=list)
    _rows: int = 0
    _missing: int = 0
    _last: dict[str, Any] = field(default_factory=dict)

    @property
    def shown_columns(self) -> list[str]:
        """Columns of a row at fault that a person sees: those judged, and those that tell which row it is."""
        judged = self.expectation.columns
        return [*judged, *(name for name in self.show if name not in judged)]

    def add(
        self,
        success: bool,
        result: Mapping[str, Any],
        kwargs: Mapping[str, Any],
        rows: Sequence[Mapping[Hashable, Any]],
    ) -> None:
        """Add Great Expectations' result on one part.

        Args:
            success: its verdict on the part.
            result: its figures, in the format SUMMARY.
            kwargs: the expectation's arguments, parameters filled in.
            rows: some rows at fault: their `shown_columns`.
        """
        if "unexpected_count" in result:
            self._add_rows(result, float(kwargs.get("mostly", 1)))
            for row in rows[: SAMPLES - len(self.samples)]:
                self.samples.append({str(name): shown(value) for name, value in row.items()})
            return
        self.success &= success
        self._last = dict(result)
        value = shown(result.get("observed_value"))
        if isinstance(value, int | float) and not isinstance(value, bool):
            self.observed, self.lower, self.upper = value, kwargs.get("min_value"), kwargs.get("max_value")

    def _add_rows(self, result: Mapping[str, Any], mostly: float) -> None:
        self._rows += result["element_count"]
        self._missing += result.get("missing_count") or 0
        self.failed = (self.failed or 0) + result["unexpected_count"]
        judged = self._rows - self._missing
        right = (judged - self.failed) / judged if judged else 1.0
        self.success = right >= mostly
        if mostly < 1:
            self.observed, self.lower = right, mostly
        else:
            self.observed, self.upper = self.failed, 0

    def rendered(self) -> dict[str, Any]:
        """Return the figures of the whole table as Great Expectations' pages take them."""
        if self.failed is None or self._last:
            return self._last
        judged = self._rows - self._missing
        result: dict[str, Any] = {
            "element_count": self._rows,
            "unexpected_count": self.failed,
            "unexpected_percent": 100 * self.failed / judged if judged else None,
            "unexpected_percent_total": 100 * self.failed / self._rows if self._rows else None,
            "unexpected_percent_nonmissing": 100 * self.failed / judged if judged else None,
            "missing_count": self._missing,
            "missing_percent": 100 * self._missing / self._rows if self._rows else None,
            "partial_unexpected_list": [],
        }
        if self.samples:
            # Great Expectations puts unexpected values into its pages as they are.
            texts = [{name: escape(_text(value)) for name, value in row.items()} for row in self.samples]
            judged_columns = self.expectation.columns
            places = [name for name in self.show if name not in judged_columns]
            values = [", ".join(row[name] for name in judged_columns if name in row) for row in texts]
            result["partial_unexpected_list"] = values
            result["partial_unexpected_counts"] = [
                {"value": value, "count": count} for value, count in Counter(values).items()
            ]
            if places:
                result["unexpected_index_column_names"] = places
                result["unexpected_index_list"] = texts
        return result

    def in_docs(self) -> str:
        """Return what is expected, as Great Expectations' pages show it; with the rows behind a refused number."""
        parts = [f"{self.meaning} ({self.expectation.severity})"]
        if not self.success and self._last and self.failed is not None:
            parts.append(f"{self.failed:,} row(s) of {self.column} at fault" + (", such as:" if self.samples else "."))
            parts += [" ".join(f"{name}={_text(value)}" for name, value in row.items()) + ";" for row in self.samples]
        return " ".join(parts)


def _text(value: Any) -> str:
    """A value on a page; with quotes and escapes where blanks or control characters would not be seen."""
    if value is None:
        return "null"
    text = str(value)
    return text if text and text == text.strip() and text.isprintable() else repr(text)
