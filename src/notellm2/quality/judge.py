"""Lets Great Expectations judge the tables part by part, and puts its results of the parts together.

Great Expectations holds one part at a time. The counts of its parts' results add up, ``mostly`` is applied to the
whole, and up to `SAMPLES` of the unexpected values are kept, cut to what a person reads. Its context lives in memory:
nothing but the pages of Data Docs reaches the disk. Importing it takes about 4 s.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any

from notellm2.errors import InputError
from notellm2.quality.outcome import Outcome
from notellm2.quality.suites import Expectation, Suite
from notellm2.quality.summaries import SAMPLES, Measured, Summaries
from notellm2.quality.tables import SUMMARY

if TYPE_CHECKING:
    import pandas as pd

_SITE = "notes"
_POSITION = "position"


class Judge:
    """Suites of expectations over tables that come part by part.

    Args:
        suites: what is expected.
        parameters: values of ``$PARAMETER``.
        summaries: the numbers of the table `summary`.

    Raises:
        InputError: Great Expectations refuses an expectation; names file, position and its own words.
    """

    def __init__(self, suites: Sequence[Suite], parameters: Mapping[str, Any], summaries: Summaries):
        self._parameters = dict(parameters)
        self._summaries = summaries
        self._context = _context()
        source = self._context.data_sources.add_pandas("notellm2")
        self._judged: list[_JudgedSuite] = []
        for suite in suites:
            outcomes = [self._outcome(suite, one) for one in suite.expectations if self._applies(suite, one)]
            batches = source.add_dataframe_asset(suite.name).add_batch_definition_whole_dataframe("version")
            self._judged.append(_JudgedSuite(suite, outcomes, batches))

    def see(self, table: str, frame: pd.DataFrame) -> None:
        """Judge one more part of a table by every suite that is about it."""
        for judged in self._judged:
            if judged.suite.table == table:
                judged.see(frame, self._parameters)

    def conclude(self, docs: Path) -> list[Outcome]:
        """Judge the table `summary`, write Data Docs, and return one outcome an expectation, in order of the suites.

        Args:
            docs: directory for the pages; made if missing.
        """
        import pandas as pd

        numbers = {name: [one.value] for name, one in self._summaries.measured.items()}
        self.see(SUMMARY, pd.DataFrame(numbers, dtype=float))
        for judged in self._judged:
            if judged.suite.table == SUMMARY:
                self._blame(judged.outcomes)
        _write_docs(self._context, self._judged, docs)
        return [outcome for judged in self._judged for outcome in judged.outcomes]

    def _measured(self, suite: Suite, expectation: Expectation) -> Measured | None:
        """The number that an expectation on the table `summary` is about."""
        return self._summaries.measured.get(expectation.column) if suite.table == SUMMARY else None

    def _applies(self, suite: Suite, expectation: Expectation) -> bool:
        """False for a number that does not apply, such as a comparison where there is no earlier version."""
        measured = self._measured(suite, expectation)
        return measured is None or measured.value is not None

    def _outcome(self, suite: Suite, expectation: Expectation) -> Outcome:
        texts = {name: _in_words(value) for name, value in self._parameters.items()}
        meaning = Template(expectation.meaning).safe_substitute(texts)
        measured = self._measured(suite, expectation)
        column = measured.measure.column if measured else expectation.column
        return Outcome(suite.name, expectation, meaning, column, suite.show)

    def _blame(self, outcomes: Sequence[Outcome]) -> None:
        """Add the rows behind refused numbers of the whole data set."""
        for outcome in outcomes:
            measured = self._summaries.measured.get(outcome.expectation.column)
            if measured is not None:
                outcome.failed = measured.failed
                if not outcome.success:
                    outcome.samples = self._summaries.samples(measured.measure.name)


class _JudgedSuite:
    """One suite, and what came of it so far."""

    def __init__(self, suite: Suite, outcomes: list[Outcome], batches: Any):
        from great_expectations import ExpectationSuite

        self.suite = suite
        self.outcomes = outcomes
        self.results: dict[int, Any] = {}
        self.meta: dict[str, Any] = {}
        self._batches = batches
        self.built = ExpectationSuite(name=suite.name, notes=suite.notes)
        for position, outcome in enumerate(outcomes):
            self.built.add_expectation_configuration(_configured(outcome, position))

    def see(self, frame: pd.DataFrame, parameters: Mapping[str, Any]) -> None:
        """Judge one frame and add the result to those before it."""
        # Positions, not columns of the rows at fault: Great Expectations would look up every one of them, one by one.
        form = {"result_format": "SUMMARY", "partial_unexpected_count": SAMPLES}
        batch = self._batches.get_batch({"dataframe": frame})
        with warnings.catch_warnings():
            # Of pandas, about how Great Expectations reads moments; both are right about UTC.
            warnings.filterwarnings("ignore", message="Series.values returning")
            verdicts = batch.validate(self.built, result_format=form, expectation_parameters=dict(parameters))
        self.meta = verdicts.meta
        for verdict in verdicts.results:
            position = verdict.expectation_config.meta[_POSITION]
            outcome = self.outcomes[position]
            if problem := _exception(verdict.exception_info):
                raise InputError(f"{outcome.expectation.source}: Great Expectations cannot evaluate it: {problem}")
            positions = verdict.result.get("partial_unexpected_index_list") or []
            rows = frame.loc[positions, outcome.shown_columns].to_dict("records")
            outcome.add(bool(verdict.success), verdict.result, verdict.expectation_config.kwargs, rows)
            self.results.setdefault(position, verdict)


def _configured(outcome: Outcome, position: int) -> Any:
    """An expectation of a file as Great Expectations takes it."""
    from great_expectations.expectations.expectation_configuration import ExpectationConfiguration
    from great_expectations.expectations.metadata_types import FailureSeverity

    expectation = outcome.expectation
    configuration = ExpectationConfiguration(
        type=expectation.kind,
        kwargs=expectation.kwargs,
        meta={_POSITION: position},
        # Its pages show a description as it is, and everything else escaped.
        description=escape(outcome.meaning),
        notes=expectation.notes,
        severity=FailureSeverity(expectation.severity),
    )
    try:
        configuration.to_domain_obj()
    except Exception as error:  # pydantic 1's and its own errors have no common class
        raise InputError(f"{expectation.source}: Great Expectations refuses it: {error}") from None
    return configuration


def _exception(info: Any) -> str | None:
    """What Great Expectations says went wrong with an expectation; None: nothing did."""
    if not info:
        return None
    entries = [info] if "raised_exception" in info else list(info.values())
    said = [str(entry.get("exception_message")) for entry in entries if entry.get("raised_exception")]
    return said[0] if said else None


def _in_words(value: Any) -> str:
    """A parameter in a sentence: a share in percent, a count with separators."""
    if isinstance(value, float):
        return f"{100 * value:g} %"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _context() -> Any:
    """A context in memory, with telemetry off, which Great Expectations reads when it is imported."""
    os.environ["GX_ANALYTICS_ENABLED"] = "false"
    from great_expectations import get_context
    from great_expectations.data_context.types.base import (
        DataContextConfig,
        InMemoryStoreBackendDefaults,
        ProgressBarsConfig,
    )

    return get_context(
        mode="ephemeral",
        project_config=DataContextConfig(
            store_backend_defaults=InMemoryStoreBackendDefaults(),
            analytics_enabled=False,
            progress_bars=ProgressBarsConfig(globally=False),
        ),
    )


def _write_docs(context: Any, judged: Sequence[_JudgedSuite], docs: Path) -> None:
    """Write Great Expectations' pages of suites and results."""
    from great_expectations.core.expectation_validation_result import ExpectationSuiteValidationResult
    from great_expectations.core.run_identifier import RunIdentifier
    from great_expectations.data_context.types.resource_identifiers import (
        ExpectationSuiteIdentifier,
        ValidationResultIdentifier,
    )

    context.add_data_docs_site(
        _SITE,
        {
            "class_name": "SiteBuilder",
            "show_how_to_buttons": False,
            "store_backend": {"class_name": "TupleFilesystemStoreBackend", "base_directory": str(docs.absolute())},
            "site_index_builder": {"class_name": "DefaultSiteIndexBuilder"},
        },
    )
    run = RunIdentifier(run_name="quality")
    for one in judged:
        context.suites.add(one.built)
        for position, outcome in enumerate(one.outcomes):
            one.results[position].success = outcome.success
            one.results[position].result = outcome.rendered()
            one.results[position].expectation_config.description = escape(outcome.in_docs())
        right = sum(outcome.success for outcome in one.outcomes)
        result = ExpectationSuiteValidationResult(
            success=right == len(one.outcomes),
            results=list(one.results.values()),
            suite_name=one.suite.name,
            statistics={
                "evaluated_expectations": len(one.outcomes),
                "successful_expectations": right,
                "unsuccessful_expectations": len(one.outcomes) - right,
                "success_percent": 100 * right / len(one.outcomes) if one.outcomes else None,
            },
            meta={"great_expectations_version": one.meta.get("great_expectations_version"), "run_id": run},
        )
        suite_id = ExpectationSuiteIdentifier(one.suite.name)
        context.validation_results_store.set(ValidationResultIdentifier(suite_id, run, "version"), result)
    context.build_data_docs()
