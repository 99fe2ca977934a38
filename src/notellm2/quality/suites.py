"""The Great Expectations suites: they judge the measured numbers and write Data Docs.

Great Expectations sees one row with a column a check, so its cost does not grow with the data: about 4 s to import
and 2 s to judge and to write the pages. Its context lives in memory; nothing but the pages reaches the disk.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from notellm2.quality.checks import SUITES, Check
from notellm2.quality.summaries import Measured

_SITE = "notes"


@dataclass(frozen=True)
class Outcome:
    """A measured check and the verdict of Great Expectations on it.

    Attributes:
        measured: the check with its numbers.
        success: whether the number is within the check's bounds.
        rule: type of the expectation that judged it, by Great Expectations' name.
    """

    measured: Measured
    success: bool
    rule: str


def judge(measured: Sequence[Measured], docs: Path) -> list[Outcome]:
    """Validate measured checks, suite by suite, and write Great Expectations' Data Docs.

    Args:
        measured: the checks with their numbers.
        docs: directory for the pages; made if missing.

    Returns:
        One outcome a check, in the same order.

    Raises:
        RuntimeError: an expectation could not be evaluated.
    """
    gx = _great_expectations()
    import pandas as pd
    from great_expectations.checkpoint.actions import UpdateDataDocsAction
    from great_expectations.core.run_identifier import RunIdentifier

    context = _context(docs.absolute())
    batch = (
        context.data_sources.add_pandas("summaries")
        .add_dataframe_asset("data")
        .add_batch_definition_whole_dataframe("version")
    )
    definitions = []
    for name in SUITES:
        expectations = [_expectation(m) for m in measured if m.check.suite == name]
        suite = context.suites.add(gx.ExpectationSuite(name=name, expectations=expectations))
        definition = gx.ValidationDefinition(name=name, data=batch, suite=suite)
        definitions.append(context.validation_definitions.add(definition))
    checkpoint = context.checkpoints.add(
        gx.Checkpoint(
            name="quality",
            validation_definitions=definitions,
            actions=[UpdateDataDocsAction(name="data-docs", site_names=[_SITE])],
            result_format="BASIC",
        )
    )
    frame = pd.DataFrame([{m.check.name: float(m.observed) for m in measured}])
    result = checkpoint.run(batch_parameters={"dataframe": frame}, run_id=RunIdentifier(run_name="quality"))
    verdicts: dict[str, tuple[bool, str]] = {}
    for suite_result in result.run_results.values():
        for verdict in suite_result.results:
            configuration = verdict.expectation_config
            if verdict.exception_info.get("raised_exception"):
                raise RuntimeError(
                    f"Great Expectations could not evaluate {configuration.kwargs['column']}: "
                    f"{verdict.exception_info.get('exception_message')}"
                )
            verdicts[configuration.kwargs["column"]] = (bool(verdict.success), configuration.type)
    return [Outcome(m, *verdicts[m.check.name]) for m in measured]


def _great_expectations() -> Any:
    """Import Great Expectations with its telemetry switched off, which it reads when it is imported."""
    os.environ["GX_ANALYTICS_ENABLED"] = "false"
    import great_expectations

    return great_expectations


def _context(docs: Path) -> Any:
    """A context in memory whose only trace is the site in `docs`."""
    from great_expectations import get_context
    from great_expectations.data_context.types.base import (
        DataContextConfig,
        InMemoryStoreBackendDefaults,
        ProgressBarsConfig,
    )

    site = {
        "class_name": "SiteBuilder",
        "show_how_to_buttons": False,
        "store_backend": {"class_name": "TupleFilesystemStoreBackend", "base_directory": str(docs)},
        "site_index_builder": {"class_name": "DefaultSiteIndexBuilder"},
    }
    return get_context(
        mode="ephemeral",
        project_config=DataContextConfig(
            store_backend_defaults=InMemoryStoreBackendDefaults(),
            data_docs_sites={_SITE: site},
            analytics_enabled=False,
            progress_bars=ProgressBarsConfig(globally=False),
        ),
    )


def _expectation(measured: Measured) -> Any:
    """The expectation for one check: on a column of one row, its maximum or minimum is the measured number itself."""
    from great_expectations.expectations.core.expect_column_max_to_be_between import ExpectColumnMaxToBeBetween
    from great_expectations.expectations.core.expect_column_min_to_be_between import ExpectColumnMinToBeBetween
    from great_expectations.expectations.metadata_types import FailureSeverity

    check: Check = measured.check
    rule = ExpectColumnMinToBeBetween if check.upper is None else ExpectColumnMaxToBeBetween
    return rule(
        column=check.name,
        min_value=check.lower,
        max_value=check.upper,
        severity=FailureSeverity(check.severity),
        description=f"{check.meaning} ({check.severity})",
    )
