"""Say at the end of a retraining how long each stage took, and where to look."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flows.handoffs import DataVersion, Evaluated, HandOff, Judged, Outcome, Promoted, Report
from flows.runtime import show
from flows.runtime.job import Job
from flows.tasks.examples import examples
from flows.tasks.stage import MINUTE, stage

SHOWN = {
    "both": "model",
    "text_only": "text only",
    "image_only": "image only",
    "linear": "linear map",
    "tfidf": "TF-IDF",
}
"""Figures that the last lines name, and what they are called there."""


@stage("summary", timeout_s=10 * MINUTE)
def summarise(
    job: Job, data: DataVersion, done: list[HandOff], judged: Judged, report: Report, promoted: Promoted
) -> Outcome:
    """Compose what to print at the end: how long each stage took, and where to look."""
    reused = [stage.reused for stage in done if stage.artifact is not None]
    lines = ["", "Stages:", show.timeline(done), ""]
    lines.append(f"{sum(reused)} of {len(reused)} artifacts were there already, {len(reused) - sum(reused)} made")
    lines.append(f"Model:   {judged.verdict.sentence}")
    lines += [f"Figures: {figures(one.artifact.summary)}" for one in done if isinstance(one, Evaluated)]
    lines.append(f"Report:  {report.artifact.path / 'report.html'}")
    lines.append(f"MLflow:  make ui STORE={job.root}  (then http://127.0.0.1:5000)")
    if promoted.promoted:
        lines += examples(job, data.dataset)
    else:
        lines.append(f"Nothing was published: {promoted.reason}")
    return Outcome(text="\n".join(lines))


def figures(evaluation: Mapping[str, Any]) -> str:
    """Write the recall of the model, its parts and the baselines in a line, from the summary of an evaluation."""
    (name,) = [one for one in evaluation if one.startswith("recall@")]
    found = ", ".join(
        f"{words} {100 * evaluation[name][key]:.1f}" for key, words in SHOWN.items() if key in evaluation[name]
    )
    return f"{name} in %: {found} ({evaluation['queries']} queries, {evaluation['pool']} notes to find)"
