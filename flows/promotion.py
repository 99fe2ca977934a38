"""From a registered challenger to champion: what it is compared with, the gate, and the promotion, as Prefect tasks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from flows import show
from flows.job import HOUR, MINUTE, Facts, Job, artifact, stage
from flows.rival import measured_today, version_to_beat
from flows.tracked import attach
from notellm2.artifacts import Artifact
from notellm2.notes.dataset import Dataset


@stage("champion", timeout_s=24 * HOUR, retries=2)
def champion(job: Job, data: Facts, mined: Facts, registered: Facts, run_id: str) -> Facts:
    """Name the version to beat, and measure it on this run's test pairs."""
    rival = version_to_beat(attach(job, run_id).tracking, registered["version"])
    today = None if rival is None else measured_today(job, Dataset.open(Path(data["path"])), data, mined, rival)
    return {"version": rival and rival.version, "evaluation": today and today.reference()}


@stage("comparison", timeout_s=HOUR)
def comparison(job: Job, measured: Facts, rival: Facts) -> Artifact | Facts:
    """Compare the challenger with the champion, query by query.

    Without a champion's evaluation nothing is compared, and the answer names no artifact: it has no "key".
    """
    from notellm2.evaluation.comparison import compare

    if rival["evaluation"] is None:
        return {"compared": False}
    return compare(job.store, artifact(measured), artifact(rival["evaluation"]), job.recipe.evaluation)


@stage("gate", timeout_s=10 * MINUTE, retries=2)
def gate(
    job: Job, checked: Facts, measured: Facts, indexed: Facts, registered: Facts, rival: Facts, run_id: str
) -> Facts:
    """Judge the challenger against the baselines and the champion it would replace."""
    from notellm2.registry import versions
    from notellm2.registry.gate import Scored, judge

    run = attach(job, run_id)
    challenger = versions.get_version(run.tracking, registered["version"])
    run.log_stage(artifact(indexed))
    champion = None
    if rival["version"] is not None:
        stored = versions.get_version(run.tracking, rival["version"])
        champion = Scored(metrics=stored.nested_metrics(), test_set=stored.test_set, name=f"version {stored.version}")
        if rival["evaluation"] is not None:
            again = {"metrics": _metrics(rival["evaluation"]), "test_set": challenger.test_set}
            champion = champion.model_copy(update=again)
    verdict = judge(
        Scored(metrics=_metrics(measured), test_set=challenger.test_set, name=f"version {challenger.version}"),
        champion,
        job.recipe.gate,
        quality_passed=bool(artifact(checked).summary["success"]),
        index_valid=True,  # An index artifact exists only if its validation passed.
    )
    run.log_verdict(verdict)
    show.verdict(verdict)
    return {
        "passed": verdict.passed,
        "sentence": verdict.sentence,
        "rules": [rule.model_dump() for rule in verdict.rules],
        "champion": rival["version"],
    }


@stage("promotion", timeout_s=HOUR, retries=2)
def promote(job: Job, data: Facts, indexed: Facts, registered: Facts, judged: Facts, run_id: str) -> Facts:
    """If the gate passed: make the challenger champion and publish its index."""
    if not judged["passed"]:
        show.warn(f"not promoted: {judged['sentence']}")
        return {"promoted": False}
    from notellm2.index.publish import publish
    from notellm2.registry import versions

    run = attach(job, run_id)
    champion = versions.set_champion(
        run.tracking, registered["version"], expected=judged["champion"], reason=judged["sentence"]
    )
    publication = publish(
        job.workspace.published,
        artifact(indexed),
        model_name=champion.name,
        model_version=champion.version,
        data_md5=data["md5"],
        keep=job.recipe.index.keep,
    )
    return {"promoted": True, "version": champion.version, "published": publication.published}


def _metrics(measured: Facts) -> Any:
    return json.loads(artifact(measured).file("metrics.json").read_text())
