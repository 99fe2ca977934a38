"""Backtest: train on windows of time 1 .. n, test on window n + 1, and slide; one table and one plot.

    python -m flows.backtest --recipe recipes/sample.yaml --days 1 --windows 3

Each window is the recipe with other bounds on behaviour (`pairs.cut_at`, `pairs.until`), so that its stages are those
of a retraining and are found again in the store. The split of the notes is the same in all windows: no model, however
old, is tested on a note it was trained on. Backbones and vision features are made once.
"""

from __future__ import annotations

from flows import backtest_command

if __name__ == "__main__":
    # Before Prefect is imported below; see flows/retrain.py.
    raise SystemExit(backtest_command.main())

from pathlib import Path
from typing import TYPE_CHECKING

from prefect import flow

from flows.parameters import BacktestSettings
from flows.runtime import events, show
from flows.runtime.job import HOUR, Facts, Job, artifact, begin, recipe_name, stage, turn
from flows.tasks import stages
from flows.tasks.review import trained_vectors
from notellm2.artifacts import Artifact
from notellm2.errors import InputError
from notellm2.notes.dataset import Dataset

if TYPE_CHECKING:
    from notellm2.evaluation.backtest import Window


def _run_name() -> str:
    return f"backtest {recipe_name()}"


@flow(
    name="backtest",
    flow_run_name=_run_name,
    on_failure=[events.tell_failure],
    persist_result=False,
    result_serializer="json",
)
def backtest(settings: BacktestSettings) -> Facts:
    """Test the recipe on the latest windows of time, each with a model trained on all behaviour before it.

    With `training.select: best` its step is chosen by validation notes' behaviour in the window.

    Args:
        settings: recipe, data, store and windows.

    Returns:
        ``text``: what to print at the end; ``backtest``: the artifact with table and plot.

    Raises:
        InputError: the recipe or the data is wrong, or behaviour does not last for so many windows.
    """
    job = begin(settings)
    with turn(job, "a backtest"):
        return _windows(job, settings)


def _windows(job: Job, settings: BacktestSettings) -> Facts:
    from notellm2.evaluation.backtest import plan_windows

    version = stages.data_version(job, stages.ingest(job, settings.data))
    job = job.about(data_md5=version["md5"])
    halves = stages.backbones(job, version, stages.pairs(job, version))
    features = stages.vision_features(job, version, halves)
    planned = plan_windows(Dataset.open(Path(version["path"])).info, days=settings.days, windows=settings.windows)
    first: Facts | None = None
    tested = []
    for window in planned:
        bounded = _within(job, window)
        mined = pairs(bounded, version, window.name)
        vectors = model(bounded, version, mined, halves, features)
        first = first or vectors
        fresh = measured(bounded, version, mined, vectors)
        aged = measured(bounded, version, mined, first)
        tested.append({"window": window.facts(), "fresh": fresh, "aged": aged})
    made = table(job, tested)
    text = artifact(made).file("backtest.md").read_text()
    return {"text": f"{text}\nTable and plot: {made['path']}", "backtest": made}


@stage("window pairs", timeout_s=6 * HOUR)
def pairs(job: Job, data: Facts, name: str) -> Artifact:
    """Mine training pairs before the window and test pairs within it."""
    from notellm2.pairs.pairs_stage import mine

    try:
        return mine(job.store, Dataset.open(Path(data["path"])), data["md5"], job.recipe.pairs)
    except InputError as error:
        raise InputError(f"{name}: {error}; or choose longer or fewer windows (--days, --windows)") from None


@stage("window model", timeout_s=7 * 24 * HOUR)
def model(job: Job, data: Facts, mined: Facts, halves: Facts, features: Facts) -> Artifact:
    """Train on the pairs before the window, and embed all notes."""
    return trained_vectors(job, data, mined, halves, features, job.recipe.model)


@stage("window test", timeout_s=6 * HOUR)
def measured(job: Job, data: Facts, mined: Facts, vectors: Facts) -> Artifact:
    """Measure a model on the window's test pairs."""
    from notellm2.evaluation.cases import MinedData
    from notellm2.evaluation.evaluation_stage import evaluate

    recipe = job.recipe
    measured_on = MinedData(Dataset.open(Path(data["path"])), data["md5"], artifact(mined))
    return evaluate(job.store, measured_on, artifact(vectors), recipe.evaluation, recipe.model.text)


@stage("backtest", timeout_s=HOUR)
def table(job: Job, tested: list[Facts]) -> Artifact:
    """Put all windows into one table and one plot."""
    from notellm2.evaluation.backtest import Outcome, summarise

    rows = [Outcome(one["window"], artifact(one["fresh"]), artifact(one["aged"])) for one in tested]
    made = summarise(job.store, rows)
    show.backtest(made)
    return made


def _within(job: Job, window: Window) -> Job:
    """The job with behaviour cut at the window's start and read up to its end."""
    bounds = {"behaviour": "before-after", "cut_at": window.start, "until": window.end}
    pairs = job.recipe.pairs.model_copy(update=bounds)
    return job.model_copy(update={"recipe": job.recipe.model_copy(update={"pairs": pairs})})
