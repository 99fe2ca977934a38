"""Mine a window's pairs, and put all windows into one table and one plot."""

from __future__ import annotations

from flows.handoffs import Backtested, DataVersion, Mined, WindowEvaluated
from flows.runtime import show
from flows.runtime.job import Job
from flows.tasks.stage import HOUR, stage
from notellm2.errors import InputError


@stage("window pairs", timeout_s=6 * HOUR)
def mine_window(job: Job, data: DataVersion, name: str) -> Mined:
    """Mine training pairs before the window and test pairs within it."""
    from notellm2.pairs.pairs_stage import mine

    try:
        return Mined(artifact=mine(job.store, data.dataset, data.md5, job.recipe.pairs), data=data)
    except InputError as error:
        raise InputError(f"{name}: {error}; or choose longer or fewer windows (--days, --windows)") from None


@stage("backtest", timeout_s=HOUR)
def tabulate(job: Job, windows: list[WindowEvaluated]) -> Backtested:
    """Put all windows into one table and one plot."""
    from notellm2.evaluation.backtest import Outcome, summarise

    made = summarise(job.store, [Outcome(one.window, one.fresh.artifact, one.aged.artifact) for one in windows])
    show.backtest(made)
    return Backtested(artifact=made)
