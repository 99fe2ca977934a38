"""Retrain: from notes and behaviour to a registered model and a published index.

    notellm2 retrain --recipe recipes/sample.yaml

Each finished stage is an artifact in the store, found again by what it was made from. So the same command continues a
killed run, and a second run with nothing changed does nothing.
"""

from __future__ import annotations

if __name__ == "__main__":  # before Prefect is imported below, which reads its settings then
    from flows.deprecated import run_as

    run_as("retrain")

from prefect import flow

from flows.handoffs import Candidate, HandOff, Outcome
from flows.parameters import RetrainSettings
from flows.runtime.events import emit_failure
from flows.runtime.job import Job, hold, open_job, recipe_name
from flows.runtime.readiness import require_ready
from flows.runtime.run import open_run, record_costs
from flows.tasks.approval import decide
from flows.tasks.backbones import prepare_backbones
from flows.tasks.choice import choose_variant
from flows.tasks.data import find_data, name_version
from flows.tasks.evaluation import evaluate_model, measure_saliency
from flows.tasks.features import compute_features
from flows.tasks.gate import judge_candidate, load_canary
from flows.tasks.incumbent import compare_with_champion
from flows.tasks.index import build_index
from flows.tasks.pairs import mine_pairs
from flows.tasks.promotion import promote
from flows.tasks.quality import check_quality
from flows.tasks.registration import register_model
from flows.tasks.report import write_report
from flows.tasks.summary import summarise
from flows.tasks.training import train_model, train_variants
from flows.tasks.vectors import embed_notes
from flows.tasks.waiting import settle_decisions


@flow(
    name="retrain",
    flow_run_name=recipe_name,
    on_failure=[emit_failure],
    persist_result=False,
    result_serializer="json",
)
def retrain(settings: RetrainSettings) -> Outcome:
    """Run every stage in order; finished ones are reused.

    Args:
        settings: recipe, data and store.

    Returns:
        What to print at the end.

    Raises:
        InputError: the recipe, the data or a setting is wrong.
    """
    job = open_job(settings.loaded_recipe, settings.store_path)
    require_ready(job, settings.data)
    with hold(job, "a retraining"):
        return _run_stages(job, settings)


def _run_stages(job: Job, settings: RetrainSettings) -> Outcome:
    settle_decisions(job)
    source = find_data(job, settings.data)
    data = name_version(job, source)
    with open_run(job.about(data_md5=data.md5), data) as job:
        checked = check_quality(job, data)
        mined = mine_pairs(job, data)
        backbones = prepare_backbones(job, mined)
        features = compute_features(job, data, backbones)
        chosen = choose_variant(job, mined, backbones, features)
        job = job.model_copy(update={"recipe": chosen.recipe})
        trained = train_model(job, mined, backbones, features)
        vectors = embed_notes(job, data, trained, features)
        variants = train_variants(job, mined, backbones, features)
        evaluated = evaluate_model(job, mined, vectors, variants)
        saliency = measure_saliency(job, mined, features, trained)
        registered = register_model(job, mined, trained, [backbones, features, vectors])
        indexed = build_index(job, vectors)
        candidate = Candidate(
            registered=registered,
            checked=checked,
            chosen=chosen,
            trained=trained,
            evaluated=evaluated,
            indexed=indexed,
        )
        incumbent = compare_with_champion(job, mined, evaluated, registered)
        canary = load_canary(job, registered)
        judged = judge_candidate(job, candidate, incumbent, canary)
        report = write_report(job, mined, candidate, saliency, incumbent, judged)
        decision = decide(job, registered, judged, report)
        promoted = promote(job, data, candidate, judged, decision)
        done: list[HandOff] = [source, data, checked, mined, backbones, features, chosen, trained, vectors, variants]
        done += [evaluated, saliency, registered, indexed, incumbent, canary, judged, report, promoted]
        record_costs(job, done)
    return summarise(job, data, done, judged, report, promoted)
