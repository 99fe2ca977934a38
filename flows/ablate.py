"""Ablate: variants × seeds of one recipe, measured on one test set, as one table.

    notellm2 ablate --recipe recipes/local-pretrained.yaml --variants text,basic,notellm2 --seeds 0,1,2

Everything up to the vision features is done once, for the recipe as it stands; then each variant
(`notellm2.model.variants`) is trained and measured with each seed, as an MLflow run below the sweep's own. All of it is
artifacts, so the same command continues a killed sweep, and a longer list of seeds does only what is new.
"""

from __future__ import annotations

if __name__ == "__main__":  # before Prefect is imported below, which reads its settings then
    from flows.deprecated import run_as

    run_as("ablate")

from prefect import flow

from flows.handoffs import Backbones, CellEvaluated, DataVersion, Evaluated, Features, Mined, Outcome
from flows.parameters import AblateSettings
from flows.runtime.events import emit_failure
from flows.runtime.job import Job, hold, open_job, recipe_name
from flows.runtime.run import open_run
from flows.tasks.ablation import tabulate
from flows.tasks.backbones import prepare_backbones
from flows.tasks.data import find_data, name_version
from flows.tasks.evaluation import evaluate_model
from flows.tasks.features import compute_features
from flows.tasks.pairs import mine_pairs
from flows.tasks.quality import check_quality
from flows.tasks.training import train_model
from flows.tasks.vectors import embed_notes


def _run_name() -> str:
    return recipe_name("{}-ablation")


@flow(
    name="ablate",
    flow_run_name=_run_name,
    on_failure=[emit_failure],
    persist_result=False,
    result_serializer="json",
)
def ablate(settings: AblateSettings) -> Outcome:
    """Train and measure every variant with every seed.

    Args:
        settings: recipe, data, store, variants and seeds.

    Returns:
        What to print at the end.

    Raises:
        InputError: the recipe, a variant, the data or a setting is wrong.
    """
    job = open_job(settings.loaded_recipe, settings.store_path)
    with hold(job, "a sweep"):
        return _run_cells(job, settings)


def _run_cells(job: Job, settings: AblateSettings) -> Outcome:
    data = name_version(job, find_data(job, settings.data))
    job = job.about(data_md5=data.md5)
    with open_run(job, data, sweep=[settings.variants, settings.seeds]) as job:
        check_quality(job, data)
        mined = mine_pairs(job, data)
        backbones = prepare_backbones(job, mined)
        features = compute_features(job, data, backbones)
        cells: list[CellEvaluated] = []
        for variant, seed, recipe in settings.cells():
            of_cell = job.model_copy(update={"recipe": recipe}).about(recipe=recipe.name)
            with open_run(of_cell, data, parent=job.mlflow_run) as of_cell:
                evaluated = _run_cell(of_cell, data, mined, backbones, features)
            cells.append(CellEvaluated(variant=variant, seed=seed, evaluated=evaluated))
        made = tabulate(job, cells).artifact
    return Outcome(text=f"{made.file('table.md').read_text()}\nTable and plot: {made.path}", artifact=made)


def _run_cell(job: Job, data: DataVersion, mined: Mined, backbones: Backbones, features: Features) -> Evaluated:
    trained = train_model(job, mined, backbones, features)
    vectors = embed_notes(job, data, trained, features)
    return evaluate_model(job, mined, vectors)
