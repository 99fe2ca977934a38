"""Ablate: variants × seeds of one recipe, measured on one test set, as one table.

    python -m flows.ablate --recipe recipes/local-pretrained.yaml --variants text,basic,notellm2 --seeds 0,1,2

Everything up to the vision features is done once, for the recipe as it stands; then each variant
(`notellm2.model.variants`) is trained and measured with each seed, as an MLflow run below the sweep's own. All of it is
artifacts, so the same command continues a killed sweep, and a longer list of seeds does only what is new.
"""

from __future__ import annotations

from flows import sweep

if __name__ == "__main__":
    # Before Prefect is imported below; see flows.retrain.
    raise SystemExit(sweep.main())

from pathlib import Path

from prefect import flow

from flows.parameters import AblateSettings
from flows.runtime import events, show
from flows.runtime.job import HOUR, Facts, Job, artifact, begin, recipe_name, stage, turn
from flows.runtime.run import attach, tracked_run
from flows.tasks import stages
from notellm2.artifacts import Artifact
from notellm2.model.variants import find_variant
from notellm2.recipe import load_recipe


def _run_name() -> str:
    return f"{recipe_name()}-ablation"


@flow(
    name="ablate",
    flow_run_name=_run_name,
    on_failure=[events.tell_failure],
    persist_result=False,
    result_serializer="json",
)
def ablate(settings: AblateSettings) -> Facts:
    """Train and measure every variant with every seed.

    Args:
        settings: recipe, data, store, variants and seeds.

    Returns:
        ``text``: what to print at the end.

    Raises:
        InputError: the recipe, a variant, the data or a setting is wrong.
    """
    job = begin(settings)
    with turn(job, "a sweep"):
        return _all_cells(job, settings)


def _all_cells(job: Job, settings: AblateSettings) -> Facts:
    variants, seeds = settings.variants, settings.seeds
    cells = [(name, seed, _one(job, settings, name, seed)) for name in variants for seed in seeds]
    version = stages.data_version(job, stages.ingest(job, settings.data))
    job = job.about(data_md5=version["md5"])
    with tracked_run(job, version, sweep=[variants, seeds]) as parent:
        stages.quality(job, version, parent)
        mined = stages.pairs(job, version)
        backbones = stages.backbones(job, version, mined)
        features = stages.vision_features(job, version, backbones)
        measured: list[Facts] = []
        for name, seed, one in cells:
            of_cell = one.about(data_md5=version["md5"])
            with tracked_run(of_cell, version, parent=parent) as run:
                trained = stages.training(of_cell, version, mined, backbones, features, run)
                vectors = stages.vectors(of_cell, version, trained, features)
                found = stages.evaluation(of_cell, version, mined, vectors, {"vectors": {}}, run)
            measured.append({"variant": name, "seed": seed, "evaluation": found})
        table = tabulate(job, measured, parent)
    return {"text": artifact(table).file("table.md").read_text() + f"\nTable and plot: {table['path']}"}


@stage("ablation table", timeout_s=HOUR)
def tabulate(job: Job, measured: list[Facts], run_id: str) -> Artifact:
    """One table and one plot of all cells, filed with the sweep's run."""
    from notellm2.evaluation.ablation import Cell, ablation

    cells = [Cell(facts["variant"], facts["seed"], artifact(facts["evaluation"])) for facts in measured]
    made = ablation(job.store, cells)
    run = attach(job, run_id)
    for name in ("table.md", "table.csv", "plot.png"):
        run.log_file(made.file(name))
    show.table(made.file("table.md").read_text())
    return made


def _one(job: Job, settings: AblateSettings, variant: str, seed: int) -> Job:
    """The job of one cell: the recipe with the variant's changes and the seed."""
    changes = (*settings.overrides, *find_variant(variant).overrides, f"training.seed={seed}")
    changed = load_recipe(Path(settings.recipe), changes)
    named = changed.model_copy(update={"name": f"{changed.name}-{variant}-{seed}"})
    return job.model_copy(update={"recipe": named}).about(recipe=named.name)
