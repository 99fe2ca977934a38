"""Choose the variant of the model that finds most on validation pairs, where the recipe names several."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flows.handoffs import Backbones, Choice, Features, Mined
from flows.runtime import show
from flows.runtime.job import Job
from flows.runtime.run import attach_run
from flows.tasks.stage import DAY, stage
from flows.tasks.training import training_inputs
from notellm2.artifacts import Artifact
from notellm2.model.variants import TRAINED, find_variant
from notellm2.recipe import change_recipe

if TYPE_CHECKING:
    from notellm2.training.training_stage import TrainingInputs


@stage("choice", timeout_s=7 * DAY)
def choose_variant(job: Job, mined: Mined, backbones: Backbones, features: Features) -> Choice:
    """Train the variants for a share of the steps each round, and keep the better half; the best is the recipe's."""
    from notellm2.evaluation.choice_stage import compare_variants, survivors

    choice = job.recipe.choice
    if not choice.variants:
        return Choice(recipe=job.recipe)
    inputs = training_inputs(job, mined, backbones, features)
    left: list[str] = [variant.name for variant in TRAINED if variant.name in choice.variants]
    for share in choice.rounds:
        trials = {name: _trial(job, inputs, name, share) for name in left}
        outcome = compare_variants(job.store, mined.measured_on, trials, share)
        show.choice(outcome)
        ahead = [one["name"] for one in outcome.summary["variants"]][: survivors(len(left))]
        left = [name for name in left if name in ahead]
        if len(left) == 1:
            break
    if outcome.summary["queries"] < choice.few_queries:
        show.warn(
            f"the choice of a variant rests on {outcome.summary['queries']} validation queries, fewer than "
            f"choice.few_queries ({choice.few_queries}): raise pairs.validation_share"
        )
    attach_run(job).log_file(outcome.file("choice.json"))
    chosen = outcome.summary["variants"][0]["name"]
    return Choice(artifact=outcome, recipe=change_recipe(job.recipe, find_variant(chosen).overrides))


def _trial(job: Job, inputs: TrainingInputs, name: str, share: float) -> Artifact:
    """The vectors of the validation notes by a variant that is trained for a share of the steps."""
    from notellm2.embedding.trial_stage import embed_validation
    from notellm2.training.training_stage import train

    recipe = change_recipe(job.recipe, find_variant(name).overrides)
    trained = train(job.store, inputs, recipe.model, recipe.training.shortened(share), recipe.data.images)
    return embed_validation(job.store, inputs.dataset, inputs.data_md5, inputs.pairs, trained, inputs.features)
