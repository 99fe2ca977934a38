"""The quality stage: a data version in, an artifact with the verdict, a summary and Data Docs out."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from notellm2.artifacts import Artifact, Store, digest_json
from notellm2.errors import InputError
from notellm2.notes.dataset import Dataset, DatasetInfo
from notellm2.quality.checks import Window, moment
from notellm2.quality.docs import make_offline, shown_number, shown_sample, write_index
from notellm2.quality.images import image_facts
from notellm2.quality.plan import plan
from notellm2.quality.suites import Outcome, judge
from notellm2.quality.summaries import measure
from notellm2.recipe import ImageLimits, QualityConfig

STAGE = "quality"
VERSION = 1

RESULT = "result.json"
SUMMARY = "summary.md"
DATA_DOCS = "data_docs"


class QualityError(InputError):
    """A critical expectation failed; the message names it, the rows at fault and samples of them."""


@dataclass(frozen=True)
class QualityRules:
    """What a data version is judged by.

    Attributes:
        thresholds: the recipe's section.
        limits: bounds of image decoding.
        source_events: events that the pairs' section reads as "viewed"; one must occur. Empty: not checked.
        target_events: events that the pairs' section reads as "clicked"; one must occur. Empty: not checked.
    """

    thresholds: QualityConfig
    limits: ImageLimits = field(default_factory=ImageLimits)
    source_events: Sequence[str] = ()
    target_events: Sequence[str] = ()


def check_quality(
    store: Store, dataset: Dataset, data_md5: str, rules: QualityRules, previous: DatasetInfo | None
) -> Artifact:
    """Check a data version and document the outcome; failed expectations do not raise (see `require_quality`).

    Files: result.json (a list of ``{suite, expectation, column, severity, success, observed, lower, upper,
    failed_count, samples, meaning, rule}``), summary.md (Markdown), data_docs/index.html.

    Args:
        store: where the artifact goes.
        dataset: the data version.
        data_md5: its digest.
        rules: what it is judged by.
        previous: description of the version before this one, for the comparison of volumes; None: there is none.

    Raises:
        InputError: the recipe's window, dataset.json's time span or a line of quarantine.jsonl cannot be read.
    """
    now = datetime.now(UTC)
    config = rules.thresholds
    window = Window.of(config, now)

    def write(into: Path) -> dict[str, Any]:
        checks = plan(config, window, dataset.info, previous, rules.source_events, rules.target_events)
        measured = measure(dataset, image_facts(dataset, config.decode_sample, rules.limits), checks)
        docs = into / DATA_DOCS
        entries = [_entry(outcome) for outcome in judge(measured, docs)]
        make_offline(docs)
        write_index(docs, f"Quality of {dataset.info.name}", entries)
        (into / RESULT).write_text(json.dumps(entries, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        (into / SUMMARY).write_text(_markdown(entries), encoding="utf-8")
        return _summary(entries, dataset.info, previous)

    settings = {
        "quality": config.model_dump(mode="json"),
        "images": rules.limits.model_dump(mode="json"),
        "source_events": list(rules.source_events),
        "target_events": list(rules.target_events),
    }
    inputs = {
        "data": data_md5,
        "previous": digest_json(previous.model_dump(mode="json")) if previous else "none",
        "clock": _clock(config, dataset.info, now),
    }
    return store.build(STAGE, VERSION, settings, inputs, write)


def require_quality(artifact: Artifact) -> None:
    """Stop if the checked data must not be trained on.

    Raises:
        QualityError: critical expectations failed; names each with the number of rows at fault and up to five rows.
    """
    entries: list[dict[str, Any]] = json.loads(artifact.file(RESULT).read_text(encoding="utf-8"))
    failed = [entry for entry in entries if not entry["success"] and entry["severity"] == "critical"]
    if not failed:
        return
    lines = [f"data quality: {len(failed)} critical expectation(s) failed"]
    for entry in failed:
        lines.append(f"  {entry['suite']}.{entry['expectation']}: expected: {entry['meaning']}")
        fault = "" if entry["failed_count"] is None else f", {entry['failed_count']:,} row(s) at fault"
        lines.append(f"    observed {shown_number(entry['observed'])}{fault}{':' if entry['samples'] else ''}")
        lines.extend(f"      {shown_sample(sample)}" for sample in entry["samples"])
    lines.append("Mend the export and import it again, or, if this data is right, change `quality` in the recipe.")
    lines.append(f"All expectations: {artifact.file(DATA_DOCS) / 'index.html'}")
    raise QualityError("\n".join(lines))


def _clock(config: QualityConfig, info: DatasetInfo, now: datetime) -> str:
    """What the verdict owes to the clock, so that a new day judges data from the future anew, and nothing else."""
    if config.latest is not None or info.last_interaction is None:
        return "fixed"
    last = moment("dataset.json: last_interaction", info.last_interaction)
    return "past" if last < now else f"future, on {now:%Y-%m-%d}"


def _entry(outcome: Outcome) -> dict[str, Any]:
    """One row of result.json."""
    measured = outcome.measured
    check = measured.check
    return {
        "suite": check.suite,
        "expectation": check.name,
        "column": check.column,
        "severity": check.severity,
        "success": outcome.success,
        "observed": measured.observed,
        "lower": check.lower,
        "upper": check.upper,
        "failed_count": measured.failed,
        "samples": measured.samples,
        "meaning": check.meaning,
        "rule": outcome.rule,
    }


def _summary(entries: Sequence[dict[str, Any]], info: DatasetInfo, previous: DatasetInfo | None) -> dict[str, Any]:
    failed = {
        severity: [
            f"{e['suite']}.{e['expectation']}" for e in entries if not e["success"] and e["severity"] == severity
        ]
        for severity in ("critical", "warning")
    }
    observed = {entry["expectation"]: entry["observed"] for entry in entries}
    return {
        "success": not failed["critical"],
        "critical_failed": failed["critical"],
        "warnings": failed["warning"],
        "expectations": len(entries),
        "counts": {
            "notes": observed["note_count"],
            "interactions": observed["interaction_count"],
            "users": observed["user_count"],
            "quarantined": sum(info.quarantined.values()),
        },
        "share_with_text": observed["share_with_text"],
        "share_with_image": observed["share_with_image"],
        "compared_with_previous": previous is not None,
    }


def _markdown(entries: Sequence[dict[str, Any]]) -> str:
    """The outcome as Markdown: failures first, then the rest, and sample rows below the table."""
    marks = {(True, "critical"): "passed", (True, "warning"): "passed"}
    marks |= {(False, "critical"): "**FAILED**", (False, "warning"): "warning"}
    ordered = sorted(entries, key=lambda e: (e["success"], e["severity"]))
    lines = [
        "| Outcome | Expectation | Meaning | Observed | Rows at fault |",
        "| --- | --- | --- | ---: | ---: |",
    ]
    for entry in ordered:
        rows = "" if entry["failed_count"] is None else f"{entry['failed_count']:,}"
        mark = marks[entry["success"], entry["severity"]]
        name = f"{entry['suite']}.{entry['expectation']}"
        lines.append(f"| {mark} | {name} | {entry['meaning']} | {shown_number(entry['observed'])} | {rows} |")
    for entry in ordered:
        if entry["samples"]:
            lines.append(f"\nRows of {entry['suite']}.{entry['expectation']}, for example:\n")
            lines.extend(f"    {shown_sample(sample)}" for sample in entry["samples"])
    return "\n".join(lines) + "\n"
