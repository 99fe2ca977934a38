"""Measure exact recall on the whole pool, and what the embeddings listen to."""

from __future__ import annotations

from flows.handoffs import Evaluated, Features, Mined, Saliency, Trained, Variants, Vectors
from flows.runtime import show
from flows.runtime.job import Job
from flows.runtime.run import attach_run
from flows.tasks.stage import HOUR, stage


@stage("evaluation", timeout_s=6 * HOUR)
def evaluate_model(job: Job, mined: Mined, vectors: Vectors, variants: Variants | None = None) -> Evaluated:
    """Measure exact recall of the model, of its variants and of the baselines on the whole pool."""
    from notellm2.evaluation.evaluation_stage import evaluate

    beside = {} if variants is None else variants.vectors
    recipe = job.recipe
    made = evaluate(
        job.store, mined.measured_on, vectors.artifact, recipe.evaluation, recipe.model.text, variants=beside
    )
    show.metrics(made)
    attach_run(job).log_evaluation(made)
    return Evaluated(artifact=made)


@stage("window test", timeout_s=6 * HOUR)
def evaluate_on_window(job: Job, mined: Mined, vectors: Vectors) -> Evaluated:
    """Measure a model on the test pairs of a window of time."""
    from notellm2.evaluation.evaluation_stage import evaluate

    recipe = job.recipe
    return Evaluated(
        artifact=evaluate(job.store, mined.measured_on, vectors.artifact, recipe.evaluation, recipe.model.text)
    )


@stage("saliency", timeout_s=HOUR)
def measure_saliency(job: Job, mined: Mined, features: Features, trained: Trained) -> Saliency:
    """Measure what the embeddings listen to, layer by layer."""
    from notellm2.embedding.saliency_stage import SaliencyInputs, measure_saliency

    count = job.recipe.evaluation.saliency_pairs
    if count == 0:
        return Saliency()
    data = mined.data
    inputs = SaliencyInputs(data.dataset, data.md5, mined.artifact, trained.artifact, features.artifact)
    return Saliency(artifact=measure_saliency(job.store, inputs, count=count))
