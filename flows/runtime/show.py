"""What people see of a run in Prefect: tables, links and warnings. Nothing here decides anything."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from prefect import get_run_logger
from prefect.artifacts import create_link_artifact, create_markdown_artifact
from prefect.runtime import flow_run
from prefect.utilities.urls import url_for

from flows.handoffs import HandOff, Judged, Report
from notellm2.artifacts import Artifact
from notellm2.evaluation.metrics import SLICES, Metrics, headline_k

if TYPE_CHECKING:
    from notellm2.notes.dataset import DatasetInfo
    from notellm2.registry.decisions import Entry, Verdict
    from notellm2.registry.runs import Run
    from notellm2.registry.tracking import Tracking
    from notellm2.registry.versions import Version


def warn(message: str) -> None:
    """Put a warning into the run's log."""
    get_run_logger().warning("%s", message)


def data(info: DatasetInfo, origin: str) -> None:
    """Show what data set the run reads, and what its import set aside."""
    rows = [
        ("name", info.name),
        ("notes", f"{info.notes:,}"),
        ("with image", f"{info.notes_with_image:,}"),
        ("interactions", f"{info.interactions:,}"),
        ("span", f"{info.first_interaction} to {info.last_interaction}"),
        *((f"quarantined: {reason}", f"{count:,}") for reason, count in sorted(info.quarantined.items())),
    ]
    _log("data set %s (%s): %s notes, %s interactions", info.name, origin, info.notes, info.interactions)
    _markdown("data", _table(("", ""), rows), "The data set")


def data_version(text: str) -> None:
    """Show what an ingest made of an export."""
    _markdown("data-version", f"```text\n{text}\n```", "Data version")


def cleanup(text: str) -> None:
    """Show what a cleanup removed."""
    _log("%s", text)
    _markdown("cleanup", f"```text\n{text}\n```", "Cleanup")


def quality(checked: Artifact) -> None:
    """Show the expectations, failures first, and where the Data Docs are."""
    summary = checked.summary
    docs = checked.file("data_docs") / "index.html"
    for warning in summary["warnings"]:
        warn(f"data quality: {warning} did not hold (a warning; see {docs})")
    _log("data quality: %s expectations, %s", summary["expectations"], "passed" if summary["success"] else "failed")
    _markdown("quality", checked.file("summary.md").read_text(), "Data quality")
    about = f"Great Expectations' Data Docs, by column with counts and examples: {docs}"
    create_link_artifact(docs.as_uri(), link_text="Data Docs", key="data-docs", description=about)


def pairs(mined: Artifact) -> None:
    """Show how many notes and pairs each split has."""
    summary = mined.summary
    splits = [(name, count, summary["pairs"][name]) for name, count in summary["notes"].items()]
    _log("pairs: %s; test pool %s notes", summary["pairs"], summary["pool"])
    text = _table(("split", "notes", "pairs"), splits) + f"\n\nTest pool: {summary['pool']:,} notes"
    _markdown("pairs", text, "Splits and mined pairs")


class Progress:
    """Logs how the tiny backbones' training goes, at most every `every_s` seconds."""

    def __init__(self, every_s: float) -> None:
        self._every_s = every_s
        self._last = time.monotonic()

    def __call__(self, part: str, step: int, loss: float) -> None:
        """Called with ("llm" or "vision", step, loss in nats)."""
        if time.monotonic() - self._last >= self._every_s:
            self._last = time.monotonic()
            _log("backbones: %s, step %d, loss %.3f", part, step, loss)


def training(trained: Artifact) -> None:
    """Show how the tuning went, and a warning if it stayed where it began."""
    summary = trained.summary
    if summary["left_chance"] is False:
        warn(
            "training did not leave chance: its loss is still that of embeddings that say nothing; try model.centre: "
            "true, model.start: fitted, a lower training.lr, more warm-up or more training.steps"
        )
    rows = [(name, json.dumps(value)) for name, value in summary.items() if not isinstance(value, dict)]
    loss = summary["final_loss"]  # None: nothing was trained
    ended = "" if loss is None else f", final loss {loss:.3f}"
    _log("training: %s steps%s, %s pairs/s", summary["steps"], ended, summary["pairs_per_s"])
    _markdown("training", _table(("figure", "value"), rows), "Training")


def choice(outcome: Artifact) -> None:
    """Show how the variants that are left compare on the validation pairs."""
    from notellm2.evaluation.choice_stage import choice_sentence

    summary = outcome.summary
    rows = [
        (one["name"], _percent(one["recall@10"]), _percent(one["recall@100"]), _percent(one["behind"]))
        for one in summary["variants"]
    ]
    _log("after %.0f %% of a training: %s", 100 * summary["share"], choice_sentence(summary))
    table = _table(("variant", "recall@10, %", "recall@100, %", "behind the best, points of their mean"), rows)
    _markdown("choice", table, f"Choice of a variant, after {summary['share']:.0%} of a training")


def metrics(measured: Artifact) -> None:
    """Show recall of every model and baseline, on all pairs and on each slice."""
    figures: Metrics = json.loads(measured.file("metrics.json").read_text())
    figure = f"recall@{headline_k(figures)}"
    rows = [
        (name, *(_percent(slices.get(part, {}).get(figure)) for part in SLICES)) for name, slices in figures.items()
    ]
    best = {name: _percent(slices["all"].get(figure)) for name, slices in figures.items()}
    _log("%s in %%: %s", figure, ", ".join(f"{name} {value}" for name, value in best.items()))
    _markdown("metrics", _table((f"{figure}, %", *SLICES), rows), "Evaluation")


def backtest(made: Artifact) -> None:
    """Show the backtest's table."""
    _markdown("backtest", made.file("backtest.md").read_text(), "Backtest")


def verdict(judged: Verdict) -> None:
    """Show the gate's rules, and what each compared."""
    for rule in judged.warnings:
        warn(f"gate: {rule.name}: {rule.detail}")
    _log("gate: %s", judged.sentence)
    _markdown("gate", _rules(judged), "Promotion gate")


def question(version: str, judged: Judged, report: Report) -> str:
    """Compose what a person reads who is to approve a version: the verdict, every rule, and the report's address."""
    over = f"version {judged.champion}" if judged.champion else "no champion so far"
    page = report.artifact.path / "report.html"
    return (
        f"## Promote version {version} over {over}?\n\n{_rules(judged.verdict)}\n\n"
        f"Report: [{page}]({page.as_uri()}); the artifacts `report` and `mlflow-run` of this run are links."
    )


def waiting(version: str, timeout_s: int) -> None:
    """Show that a person is asked now, and where."""
    where = flow_run_page() or "Prefect's page of this run"
    warn(f"version {version} waits for approval, at most {timeout_s} s: {where}")


def promotion(entry: Entry) -> None:
    """Show what is in use now, in place of what."""
    rows = [
        ("version", entry.to.version),
        ("index", entry.to.publication),
        ("in the place of", entry.over.version or "nothing"),
        ("compared with", entry.compared_with or "nothing"),
        ("decided by", f"{entry.by} ({entry.mode})"),
        ("because", entry.reason),
        ("ledger line", entry.sequence),
    ]
    _log("promoted: version %s with index %s", entry.to.version, entry.to.publication)
    _markdown("promotion", _table(("", ""), rows), "Promotion")


def _rules(verdict: Verdict) -> str:
    marks = {(True, True): "passed", (True, False): "passed", (False, True): "**REFUSED**", (False, False): "warning"}
    rows = [(rule.name, marks[rule.passed, rule.required], rule.detail) for rule in verdict.rules]
    return f"{verdict.sentence}\n\n" + _table(("rule", "outcome", "compared"), rows)


def report(page: Artifact) -> None:
    """Show where the report is."""
    path = page.file("report.html")
    create_link_artifact(path.as_uri(), link_text="report.html", key="report", description=f"The report: {path}")


def mlflow_run(run: Run) -> None:
    """Show where the MLflow run is, from its start on."""
    where = run.tracking
    link = where.run_page(run.run_id)
    about = "The MLflow run (without a server: `make ui`)"
    create_link_artifact(link, link_text=run.run_id, key="mlflow-run", description=about)


def model_version(version: Version, where: Tracking) -> None:
    """Show where the registered version is."""
    link = where.version_page(version.version)
    about = f"The model version; what it was made from: `notellm2 lineage {version.version}`"
    text = f"{version.name} version {version.version}"
    create_link_artifact(link, link_text=text, key="model-version", description=about)


def flow_run_page() -> str | None:
    """Return the address of the present flow run's page; None where Prefect has none (an embedded server)."""
    number = flow_run.get_id()
    return (number and url_for("flow-run", obj_id=number)) or None


def timeline(stages: Iterable[HandOff]) -> str:
    """Format seconds per stage and what was reused, as aligned text."""
    rows = [f"  {one.name:<16} {one.seconds:>8.1f} s  {'reused' if one.reused else 'done'}" for one in stages]
    return "\n".join(rows)


def table(markdown: str) -> None:
    """Show the table of a sweep."""
    _markdown("ablation", markdown, "Variants, % (mean ± standard deviation over seeds)")


def _table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f}"


def _log(message: str, *values: Any) -> None:
    get_run_logger().info(message, *values)


def _markdown(key: str, text: str, description: str) -> None:
    create_markdown_artifact(text, key=key, description=description)
