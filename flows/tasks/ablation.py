"""Put all cells of an ablation into one table and one plot."""

from __future__ import annotations

from flows.handoffs import Ablated, CellEvaluated
from flows.runtime import show
from flows.runtime.job import Job
from flows.runtime.run import attach_run
from flows.tasks.stage import HOUR, stage


@stage("ablation table", timeout_s=HOUR)
def tabulate(job: Job, cells: list[CellEvaluated]) -> Ablated:
    """Put all cells into one table and one plot, filed with the sweep's run."""
    from notellm2.evaluation.ablation import Cell, ablation

    made = ablation(job.store, [Cell(cell.variant, cell.seed, cell.evaluated.artifact) for cell in cells])
    run = attach_run(job)
    for name in ("table.md", "table.csv", "plot.png"):
        run.log_file(made.file(name))
    show.table(made.file("table.md").read_text())
    return Ablated(artifact=made)
