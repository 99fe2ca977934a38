"""From a registered challenger to champion: what it is compared with, the gate, and the promotion, as Prefect tasks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from flows import show
from flows.job import HOUR, MINUTE, Facts, Job, artifact, stage
from flows.rival import measured_today, version_to_beat
from flows.tracked import attach
from notellm2.notes.dataset import Dataset


@stage("champion", timeout_s=24 * HOUR, retries=2)
def champion(job: Job, data: Facts, mined: Facts, measured: Facts, registered: Facts, run_id: str) -> Facts:
    """Name the version to beat, measure it on this run's test pairs, and compare the two query by query."""
    from notellm2.evaluation.comparison import compare

    run = attach(job, run_id)
    rival = version_to_beat(run.tracking, registered["version"])
    if rival is None:
        return {"version": None, "evaluation": None, "comparison": None}
    today = measured_today(job, Dataset.open(Path(data["path"])), data, mined, rival)
    compared = None
    if today is not None:
        compared = compare(job.store, artifact(measured), today, job.recipe.evaluation)
        run.log_figures(compared)
    references = {"evaluation": today and today.reference(), "comparison": compared and compared.reference()}
    return {"version": rival.version, **references}


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
