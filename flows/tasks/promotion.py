"""From a registered challenger to champion: what it is compared with, the gate, who decides, and the promotion."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefect.runtime import flow_run

from flows.runtime import events, show
from flows.runtime.events import News
from flows.runtime.job import HOUR, MINUTE, Facts, Job, artifact, stage
from flows.runtime.run import attach, tracking
from flows.tasks.incumbent import measured_today, version_to_beat
from notellm2.notes.dataset import Dataset

if TYPE_CHECKING:
    from notellm2.promotion.transaction import Promoter
    from notellm2.registry.decisions import Verdict
    from notellm2.registry.versions import Version


@stage("champion", timeout_s=24 * HOUR, retries=2)
def champion(job: Job, data: Facts, mined: Facts, measured: Facts, registered: Facts, run_id: str) -> Facts:
    """Settle what a killed promotion left, name the version to beat, and compare with it query by query."""
    from notellm2.evaluation.comparison import compare

    promoter(job).recover()
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


@stage("canary", timeout_s=HOUR, retries=2)
def canary(job: Job, registered: Facts) -> Facts:
    """Load the bundle as it lies in the registry and see that it gives its canary embeddings again; once a version."""
    from notellm2.errors import InputError
    from notellm2.model.bundle.bundle import Bundle, BundleError
    from notellm2.registry import versions

    registry, version = tracking(job), registered["version"]
    if versions.get_version(registry, version).canary:
        return {"outcome": "passed", "reused": True}
    try:
        Bundle.load(versions.bundle_path(registry, version, job.workspace.root / "_mlflow" / "download"))
    except (BundleError, InputError) as error:
        return {"outcome": str(error)}
    versions.record_canary(registry, version)
    return {"outcome": "passed"}


@stage("gate", timeout_s=10 * MINUTE, retries=2)
def gate(
    job: Job,
    checked: Facts,
    measured: Facts,
    indexed: Facts,
    registered: Facts,
    rival: Facts,
    loaded: Facts,
    run_id: str,
) -> Facts:
    """Judge the challenger by the recipe's rules, and keep the verdict with the run and with the version."""
    from notellm2.promotion.gate import Evidence, judge
    from notellm2.promotion.ledger import Ledger, rolled_back
    from notellm2.registry import names, versions

    run, number = attach(job, run_id), registered["version"]
    challenger = versions.get_version(run.tracking, number)
    index = artifact(indexed)
    run.log_stage(index)
    versions.add_artifact(run.tracking, number, index)
    undone = rolled_back(Ledger(promoter(job).location).entries(), number, challenger.bundle)
    verdict = judge(
        Evidence(
            name=f"version {number}",
            metrics=_json(measured, "metrics.json"),
            space=_json(measured, "space.json"),
            champion=rival["version"] and f"version {rival['version']}",
            comparison=rival["comparison"] and _json(rival["comparison"], "comparison.json"),
            quality=artifact(checked).summary,
            index=index.summary,
            index_bundle=_json(indexed, "meta.json")["bundle"],
            bundle=challenger.bundle,
            canary=loaded["outcome"],
            rolled_back=undone and f"on {undone.at} by {undone.by}: {undone.reason}",
        ),
        job.recipe.gate,
    )
    run.log_verdict(verdict)
    versions.record_verdict(run.tracking, number, verdict, rival["version"])
    show.verdict(verdict)
    if not verdict.passed:
        _tell_refusal(job, challenger, verdict, rival["version"])
    return {
        "passed": verdict.passed,
        "sentence": verdict.sentence,
        "rules": [rule.model_dump() for rule in verdict.rules],
        "champion": rival["version"],
        "rolled_back": undone is not None,
        "in_use": versions.alias_version(run.tracking, names.CHAMPION) == number,
    }


@stage("promotion", timeout_s=HOUR, retries=2)
def promote(
    job: Job, data: Facts, indexed: Facts, registered: Facts, judged: Facts, decided: Facts, run_id: str
) -> Facts:
    """If it was so decided: make the challenger champion and its index the published one, together."""
    if not decided["promote"]:
        show.warn(f"not promoted: {decided['reason']}")
        return {"promoted": False, "reason": decided["reason"]}
    from notellm2.promotion.transaction import Why

    done = promoter(job).promote(
        registered["version"],
        artifact(indexed),
        expected=judged["champion"],
        data_md5=data["md5"],
        why=Why(
            by=decided["by"],
            reason=decided["reason"],
            mode=job.recipe.gate.mode,
            verdict=judged["sentence"],
            compared_with=judged["champion"],
        ),
    )
    if done.entry is not None:
        attach(job, run_id).log_publication(done.entry, promoter(job).location)
        show.promotion(done.entry)
    tell_changes(job)
    return {"promoted": True, "version": done.publication.model_version, "published": done.publication.published}


def promoter(job: Job) -> Promoter:
    """What moves the alias and the pointer of this job's model and store."""
    from notellm2.promotion.transaction import Promoter
    from notellm2.publication.location import Location

    registry, recipe = tracking(job), job.recipe
    return Promoter(
        registry,
        Location.at(job.workspace.published),
        keep=recipe.index.keep,
        lease_s=recipe.registry.lease_s,
        wait_s=recipe.registry.lease_wait_s,
    )


def tell_changes(job: Job) -> None:
    """Tell every change of what is in use that nobody has told yet."""
    from notellm2.promotion.ledger import Ledger

    events.tell_changes(job, Ledger(promoter(job).location).entries())


def _tell_refusal(job: Job, challenger: Version, verdict: Verdict, champion: str | None) -> None:
    facts = {
        "version": challenger.version,
        "mlflow_run": challenger.run_id,
        "data_md5": challenger.data_md5,
        "champion": champion,
        "verdict": verdict.sentence,
        "recipe": job.recipe.name,
    }
    told = [flow_run.get_id(), challenger.version, champion, verdict.sentence]  # A stage may be tried again.
    events.tell_once(job, told, News.GATE_REFUSED, "model", challenger.name, facts)


def _json(facts: Facts, name: str) -> Any:
    return json.loads(artifact(facts).file(name).read_text())
