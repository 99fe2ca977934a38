"""See that the registered bundle loads, and judge the challenger by the recipe's rules."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from prefect.runtime import flow_run

from flows.handoffs import Canary, Candidate, Incumbent, Judged, Registered
from flows.runtime import events, show
from flows.runtime.events import Event
from flows.runtime.job import Job
from flows.runtime.run import attach_run, tracking
from flows.tasks.promotion import promoter
from flows.tasks.stage import HOUR, MINUTE, stage
from notellm2.artifacts import Artifact

if TYPE_CHECKING:
    from notellm2.promotion.gate import Evidence
    from notellm2.registry.decisions import Entry, Verdict
    from notellm2.registry.versions import Version


@stage("canary", timeout_s=HOUR, retries=2)
def load_canary(job: Job, registered: Registered) -> Canary:
    """Load the bundle as it lies in the registry and see that it gives its canary embeddings again; once a version."""
    from notellm2.errors import InputError
    from notellm2.model.bundle.bundle import Bundle, BundleError
    from notellm2.registry import versions

    registry, version = tracking(job), registered.version
    if versions.get_version(registry, version).canary:
        return Canary(outcome="passed", reused=True)
    try:
        Bundle.load(versions.bundle_path(registry, version, job.workspace.root / "_mlflow" / "download"))
    except (BundleError, InputError) as error:
        return Canary(outcome=str(error))
    versions.record_canary(registry, version)
    return Canary(outcome="passed")


@stage("gate", timeout_s=10 * MINUTE, retries=2)
def judge_candidate(job: Job, candidate: Candidate, incumbent: Incumbent, canary: Canary) -> Judged:
    """Judge the challenger by the recipe's rules, and keep the verdict with the run and with the version."""
    from notellm2.promotion.gate import judge
    from notellm2.promotion.ledger import Ledger, rolled_back
    from notellm2.registry import names, versions

    run, number, index = attach_run(job), candidate.registered.version, candidate.indexed.artifact
    challenger = versions.get_version(run.tracking, number)
    run.log_stage(index)
    versions.add_artifact(run.tracking, number, index)
    undone = rolled_back(Ledger(promoter(job).location).entries(), number, challenger.bundle)
    verdict = judge(_evidence(candidate, incumbent, canary, challenger, undone), job.recipe.gate)
    run.log_verdict(verdict)
    versions.record_verdict(run.tracking, number, verdict, incumbent.version)
    show.verdict(verdict)
    if not verdict.passed:
        _report_refusal(job, challenger, verdict, incumbent.version)
    return Judged(
        verdict=verdict,
        champion=incumbent.version,
        rolled_back=undone is not None,
        in_use=versions.alias_version(run.tracking, names.CHAMPION) == number,
    )


def _evidence(
    candidate: Candidate, incumbent: Incumbent, canary: Canary, challenger: Version, undone: Entry | None
) -> Evidence:
    from notellm2.promotion.gate import Evidence

    evaluation, index, comparison = candidate.evaluated.artifact, candidate.indexed.artifact, incumbent.comparison
    return Evidence(
        name=f"version {candidate.registered.version}",
        metrics=_json(evaluation, "metrics.json"),
        space=_json(evaluation, "space.json"),
        champion=incumbent.version and f"version {incumbent.version}",
        comparison=None if comparison is None else _json(comparison, "comparison.json"),
        quality=candidate.checked.artifact.summary,
        index=index.summary,
        index_bundle=_json(index, "meta.json")["bundle"],
        bundle=challenger.bundle,
        canary=canary.outcome,
        rolled_back=undone and f"on {undone.at} by {undone.by}: {undone.reason}",
    )


def _report_refusal(job: Job, challenger: Version, verdict: Verdict, champion: str | None) -> None:
    payload = {
        "version": challenger.version,
        "mlflow_run": challenger.run_id,
        "data_md5": challenger.data_md5,
        "champion": champion,
        "verdict": verdict.sentence,
        "recipe": job.recipe.name,
    }
    key = [flow_run.get_id(), challenger.version, champion, verdict.sentence]  # A stage may be tried again.
    events.emit_once(job, key, Event.GATE_REFUSED, "model", challenger.name, payload)


def _json(artifact: Artifact, name: str) -> Any:
    return json.loads(artifact.file(name).read_text())
