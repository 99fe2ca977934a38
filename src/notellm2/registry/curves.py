"""Training curves in MLflow: live while training runs, and each step once whatever happens to the process.

MLflow appends: logging a step twice draws it twice. A run resumed from a checkpoint repeats the steps after it, and
the finished training artifact tells all of them again. So every point is compared with what the run already holds,
read once a curve; the first value of a step stays.

Points are sent in batches, at most every `FLUSH_S` seconds: 10 points cost 6-8 ms in SQLite whatever their number.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from notellm2.registry.names import training_metric

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric

FLUSH_S = 2.0
BATCH = 500

logger = logging.getLogger(__name__)


class Curves:
    """The training curves of one run.

    Args:
        client: of the store that holds the run.
        run_id: the run.
        clock: seconds, monotonic; for tests.
    """

    def __init__(self, client: MlflowClient, run_id: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._client = client
        self._run_id = run_id
        self._clock = clock
        self._known: set[str] | None = None
        self._steps: dict[str, set[int]] = {}
        self._pending: list[Metric] = []
        self._flushed = -math.inf

    def add(self, step: int, values: Mapping[str, float | None]) -> None:
        """Take the values of one step; sends them now or a little later.

        A store that does not answer must not end a training of hours: the points stay pending, a warning says so,
        and the next call tries again. `flush` at the end is strict.

        Args:
            step: optimiser step, counted from 1.
            values: figures by name; None is skipped (a figure that is not measured at this step).
        """
        from mlflow.exceptions import MlflowException

        try:
            self._collect(step, values)
            if len(self._pending) >= BATCH or self._clock() - self._flushed >= FLUSH_S:
                self.flush()
        except MlflowException as error:
            self._flushed = self._clock()
            logger.warning("MLflow took no metrics (%d points wait for the next try): %s", len(self._pending), error)

    def add_all(self, history: Sequence[tuple[int, Mapping[str, float | None]]]) -> None:
        """Log a whole history; steps that the run holds already are left as they are.

        Raises:
            MlflowException: the store refused or did not answer.
        """
        self.flush()
        # Another process may have logged since: the truth is in the store.
        self._known, self._steps = None, {}
        for step, values in history:
            self._collect(step, values)
        self.flush()

    def flush(self) -> None:
        """Send what is pending.

        Raises:
            MlflowException: the store refused or did not answer; the points stay pending.
        """
        while self._pending:
            batch = self._pending[:BATCH]
            self._client.log_batch(self._run_id, metrics=batch)
            del self._pending[: len(batch)]
        self._flushed = self._clock()

    def _collect(self, step: int, values: Mapping[str, float | None]) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        for field, value in values.items():
            if value is None:
                continue
            name = training_metric(field)
            steps = self._logged_steps(name)
            if step not in steps:
                steps.add(step)
                self._pending.append(Metric(name, float(value), now, step))

    def _logged_steps(self, name: str) -> set[int]:
        if self._known is None:
            self._known = set(self._client.get_run(self._run_id).data.metrics)
        if name not in self._steps:
            history = self._client.get_metric_history(self._run_id, name) if name in self._known else []
            self._steps[name] = {point.step for point in history}
        return self._steps[name]
