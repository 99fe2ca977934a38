"""Sum a run up as plain data: what a page that has room for one screen says of it.

The sentences are the report's own. Nothing here knows where they are shown.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from notellm2.evaluation.metrics import MODELS, headline_k
from notellm2.evaluation.report.content import Opponent, ReportInput
from notellm2.evaluation.report.plots import LABELS
from notellm2.evaluation.report.report_stage import RunRecord, read_json
from notellm2.evaluation.report.verdict import headline, regressions

SHOWN = ("all", "short_query", "long_query")


@dataclass(frozen=True)
class Figure:
    """A share, or a difference of shares, with its 95 % interval; None: not measured."""

    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        label: of the model or baseline.
        figures: one for each slice; None where the slice has no queries.
        is_difference: whether they are this model's less the champion's.
    """

    label: str
    figures: tuple[Figure | None, ...]
    is_difference: bool = False


@dataclass(frozen=True)
class FailedRule:
    """A rule of the gate that did not hold.

    Attributes:
        name: of the rule.
        refuses: whether it refuses the model; otherwise it is a warning.
        detail: what was compared, with its numbers.
    """

    name: str
    refuses: bool
    detail: str


@dataclass(frozen=True)
class Summary:
    """What one run found, as its pages say it.

    Attributes:
        sentence: the verdict.
        images: what the images add; None: not measured.
        cautions: what to look at before believing it.
        worse: what is surely worse than the champion.
        failed: rules of the gate that did not hold.
        champion: name of the version it is compared with: "version 3"; None: there is none.
        figure: what the table shows: "recall@10".
        slices: label and number of queries of each column.
        rows: this model first, then the champion and the difference, then the others.
        pool: notes of the pool.
    """

    sentence: str
    images: str | None
    cautions: tuple[str, ...]
    worse: tuple[str, ...]
    failed: tuple[FailedRule, ...]
    champion: str | None
    figure: str
    slices: tuple[tuple[str, int], ...]
    rows: tuple[Row, ...]
    pool: int


def summarise(run: RunRecord) -> Summary:
    """Sum a run up from its artifacts."""
    content = _content(run)
    top, champion, metrics = headline(content), content.champion, content.metrics
    parts = [part for part in SHOWN if part in metrics["both"]]
    rules = run.gate["rules"] if run.gate is not None else ()
    return Summary(
        sentence=top.sentence,
        images=top.images,
        cautions=top.cautions,
        worse=tuple(regressions(champion.comparison, content.labels)) if champion else (),
        failed=tuple(
            FailedRule(rule["name"], rule.get("required", True), rule["detail"]) for rule in rules if not rule["passed"]
        ),
        champion=champion.name if champion else None,
        figure=f"recall@{headline_k(metrics)}",
        slices=tuple((content.labels[part], int(metrics["both"][part]["n"] or 0)) for part in parts),
        rows=tuple(_rows(content, parts)),
        pool=content.protocol["pool"],
    )


def _content(run: RunRecord) -> ReportInput:
    """What the sentences are made from: no pictures, no examples."""
    champion = None
    if run.champion is not None:
        compared = read_json(run.champion.comparison, "comparison.json")
        champion = Opponent(name=run.champion.name, metrics={}, space={}, comparison=compared)
    return ReportInput(
        recipe={},
        data={},
        metrics=read_json(run.evaluation, "metrics.json"),
        intervals=read_json(run.evaluation, "intervals.json"),
        space=read_json(run.evaluation, "space.json"),
        protocol=read_json(run.evaluation, "protocol.json"),
        examples=(),
        thumbnails={},
        training=run.training.summary if run.training else {},
        history=(),
        quality=run.quality.summary if run.quality else {},
        pairs={},
        champion=champion,
        gate=run.gate,
    )


def _rows(content: ReportInput, parts: list[str]) -> Iterator[Row]:
    name = f"recall@{headline_k(content.metrics)}"
    for model in MODELS:
        if model not in content.metrics:
            continue
        label = "this model" if model == "both" else LABELS[model]
        intervals = content.intervals.get(model, {})
        figures = (_measured(content.metrics[model].get(p), intervals.get(p, {}), name) for p in parts)
        yield Row(label, tuple(figures))
        if model == "both" and content.champion is not None:
            compared = [content.champion.comparison["slices"].get(part, {}).get("recall@10") for part in parts]
            theirs = (None if one is None else Figure(one["champion"]) for one in compared)
            change = (None if one is None else Figure(one["difference"], one["low"], one["high"]) for one in compared)
            yield Row(f"champion, {content.champion.name}", tuple(theirs))
            yield Row("difference", tuple(change), is_difference=True)


def _measured(figures: Mapping[str, Any] | None, intervals: Mapping[str, Any], name: str) -> Figure | None:
    value = None if figures is None else figures.get(name)
    if value is None:
        return None
    ends = intervals.get(name, {})
    return Figure(value, ends.get("low"), ends.get("high"))
