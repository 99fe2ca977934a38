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
from notellm2.quality.docs import make_offline, shown_number, shown_sample, write_index
from notellm2.quality.frames import interaction_frames, note_frames
from notellm2.quality.images import image_facts
from notellm2.quality.judge import Judge
from notellm2.quality.measures import measures
from notellm2.quality.outcome import Outcome
from notellm2.quality.suites import Suite, load_suites, parameters, suites_digest
from notellm2.quality.summaries import Measured, summarise
from notellm2.quality.window import Window, moment
from notellm2.recipe import ImageLimits, QualityConfig

STAGE = "quality"
VERSION = 2

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
    failed_count, samples, meaning, rule}``), summary.md (Markdown), data_docs/index.html. benchmarks/quality.py
    measures what it costs.

    Args:
        store: where the artifact goes.
        dataset: the data version.
        data_md5: its digest.
        rules: what it is judged by.
        previous: description of the version before this one, for the comparison of volumes; None: there is none.

    Raises:
        InputError: the recipe's window, a suite, dataset.json's time span or a line of quarantine.jsonl cannot be
            read.
    """
    now = datetime.now(UTC)
    config = rules.thresholds
    suites = load_suites(config.suites)

    def write(into: Path) -> dict[str, Any]:
        docs = into / DATA_DOCS
        outcomes, measured = judge_dataset(dataset, rules, suites, Window.of(config, now), previous, docs)
        entries = [_entry(outcome) for outcome in outcomes]
        make_offline(docs)
        write_index(docs, f"Quality of {dataset.info.name}", entries)
        (into / RESULT).write_text(json.dumps(entries, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        (into / SUMMARY).write_text(_markdown(entries), encoding="utf-8")
        return _summary(entries, measured, dataset.info, previous)

    Window.of(config, now)
    settings = {
        "quality": config.model_dump(mode="json", exclude={"suites"}),
        "suites": suites_digest(suites),
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


def judge_dataset(
    dataset: Dataset,
    rules: QualityRules,
    suites: Sequence[Suite],
    window: Window,
    previous: DatasetInfo | None,
    docs: Path,
) -> tuple[list[Outcome], dict[str, Measured]]:
    """Count what needs the whole, then read every part once; returns the verdicts and the counted numbers."""
    config = rules.thresholds
    facts = image_facts(dataset, config.decode_sample, rules.limits)
    counted = measures(dataset.info, previous, rules.source_events, rules.target_events)
    with summarise(dataset, facts, counted) as summaries:
        judge = Judge(suites, parameters(config, window), summaries)
        tables = {suite.table for suite in suites}
        if tables & {"notes", "topics"}:
            for notes, topics in note_frames(dataset, facts, summaries.repeated):
                judge.see("notes", notes)
                judge.see("topics", topics)
        if "interactions" in tables:
            for interactions in interaction_frames(dataset, summaries.known_notes()):
                judge.see("interactions", interactions)
        return judge.conclude(docs), summaries.measured


def _clock(config: QualityConfig, info: DatasetInfo, now: datetime) -> str:
    """What the verdict owes to the clock, so that a new day judges data from the future anew, and nothing else."""
    if config.latest is not None or info.last_interaction is None:
        return "fixed"
    last = moment("dataset.json: last_interaction", info.last_interaction)
    return "past" if last < now else f"future, on {now:%Y-%m-%d}"


def _entry(outcome: Outcome) -> dict[str, Any]:
    """One row of result.json."""
    return {
        "suite": outcome.suite,
        "expectation": outcome.expectation.name,
        "column": outcome.column,
        "severity": outcome.expectation.severity,
        "success": outcome.success,
        "observed": outcome.observed,
        "lower": outcome.lower,
        "upper": outcome.upper,
        "failed_count": outcome.failed,
        "samples": outcome.samples,
        "meaning": outcome.meaning,
        "rule": outcome.expectation.kind,
    }


def _summary(
    entries: Sequence[dict[str, Any]],
    measured: dict[str, Measured],
    info: DatasetInfo,
    previous: DatasetInfo | None,
) -> dict[str, Any]:
    failed = {
        severity: [
            f"{e['suite']}.{e['expectation']}" for e in entries if not e["success"] and e["severity"] == severity
        ]
        for severity in ("critical", "warning")
    }
    return {
        "success": not failed["critical"],
        "critical_failed": failed["critical"],
        "warnings": failed["warning"],
        "expectations": len(entries),
        "counts": {
            "notes": measured["note_count"].value,
            "interactions": measured["interaction_count"].value,
            "users": measured["user_count"].value,
            "quarantined": sum(info.quarantined.values()),
        },
        "share_with_text": measured["share_with_text"].value,
        "share_with_image": measured["share_with_image"].value,
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
