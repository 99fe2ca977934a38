"""Backtest: train on windows of time 1 .. n, test on window n + 1, and slide; one table and one plot.

    notellm2 backtest --recipe recipes/sample.yaml --days 1 --windows 3

Each window is the recipe with other bounds on behaviour (`pairs.cut_at`, `pairs.until`), so that its stages are those
of a retraining and are found again in the store. The split of the notes is the same in all windows: no model, however
old, is tested on a note it was trained on. Backbones and vision features are made once.
"""

from __future__ import annotations

if __name__ == "__main__":  # before Prefect is imported below, which reads its settings then
    from flows.deprecated import run_as

    run_as("backtest")

from typing import TYPE_CHECKING

from prefect import flow

from flows.handoffs import Outcome, Vectors, WindowEvaluated
from flows.parameters import BacktestSettings
from flows.runtime.events import emit_failure
from flows.runtime.job import Job, hold, open_job, recipe_name
from flows.tasks.backbones import prepare_backbones
from flows.tasks.backtest import mine_window, tabulate
from flows.tasks.data import find_data, name_version
from flows.tasks.evaluation import evaluate_on_window
from flows.tasks.features import compute_features
from flows.tasks.pairs import mine_pairs
from flows.tasks.training import train_for_window

if TYPE_CHECKING:
    from notellm2.evaluation.backtest import Window


def _run_name() -> str:
    return recipe_name("backtest {}")


@flow(
    name="backtest",
    flow_run_name=_run_name,
    on_failure=[emit_failure],
    persist_result=False,
    result_serializer="json",
)
def backtest(settings: BacktestSettings) -> Outcome:
    """Test the recipe on the latest windows of time, each with a model trained on all behaviour before it.

    With `training.select: best` its step is chosen by validation notes' behaviour in the window.

    Args:
        settings: recipe, data, store and windows.

    Returns:
        What to print at the end.

    Raises:
        InputError: the recipe or the data is wrong, or behaviour does not last for so many windows.
    """
    job = open_job(settings.loaded_recipe, settings.store_path)
    with hold(job, "a backtest"):
        return _run_windows(job, settings)


def _run_windows(job: Job, settings: BacktestSettings) -> Outcome:
    from notellm2.evaluation.backtest import plan_windows

    data = name_version(job, find_data(job, settings.data))
    job = job.about(data_md5=data.md5)
    backbones = prepare_backbones(job, mine_pairs(job, data))
    features = compute_features(job, data, backbones)
    first: Vectors | None = None
    evaluated: list[WindowEvaluated] = []
    for window in plan_windows(data.dataset.info, days=settings.days, windows=settings.windows):
        bounded = _within(job, window)
        mined = mine_window(bounded, data, window.name)
        vectors = train_for_window(bounded, mined, backbones, features)
        first = first or vectors
        fresh = evaluate_on_window(bounded, mined, vectors)
        aged = evaluate_on_window(bounded, mined, first)
        evaluated.append(WindowEvaluated(window=window.facts(), fresh=fresh, aged=aged))
    made = tabulate(job, evaluated).artifact
    return Outcome(text=f"{made.file('backtest.md').read_text()}\nTable and plot: {made.path}", artifact=made)


def _within(job: Job, window: Window) -> Job:
    """The job with behaviour cut at the window's start and read up to its end."""
    bounds = {"behaviour": "before-after", "cut_at": window.start, "until": window.end}
    pairs = job.recipe.pairs.model_copy(update=bounds)
    return job.model_copy(update={"recipe": job.recipe.model_copy(update={"pairs": pairs})})
