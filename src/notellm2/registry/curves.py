"""Training curves in MLflow: live while training runs, and each step once whatever happens to process or server.

MLflow appends: logging a step twice draws it twice. A run resumed from a checkpoint repeats the steps after it, and
the finished training artifact tells all of them again. So every point is compared with what the run already holds,
read once a curve; the first value of a step stays.

Live points are sent by a thread of their own, in batches, every `FLUSH_S` seconds: 10 points cost 6-8 ms in SQLite
whatever their number, and a server that is away makes MLflow's client wait for minutes before it gives up a request.
Training never waits for it. What could not be sent is kept and tried again; at the end the whole history is compared
with the store, so that no step is missing.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from notellm2.registry.names import CURVES, training_metric

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric

FLUSH_S = 2.0
AGAIN_S = 60.0
"""The longest pause between two tries to send live points; it begins at `FLUSH_S` and doubles."""
BATCH = 500

logger = logging.getLogger(__name__)


class _Step(NamedTuple):
    step: int
    values: dict[str, float]
    at_ms: int


class Curves:
    """The training curves of one run.

    Args:
        client: of the store that holds the run.
        run_id: the run.
        every_s: seconds between two batches of live points.
    """

    def __init__(self, client: MlflowClient, run_id: str, every_s: float = FLUSH_S) -> None:
        self._client = client
        self._run_id = run_id
        self._every_s = every_s
        self._known: set[str] | None = None
        self._steps: dict[str, set[int]] = {}
        self._pending: list[Metric] = []
        self._lock = threading.Lock()  # of the two below; everything above is the sender's while there is one
        self._waiting: list[_Step] = []
        self._sender: threading.Thread | None = None
        self._stop = threading.Event()

    def add(self, step: int, values: Mapping[str, float | None]) -> None:
        """Take the values of one step; they are sent a little later, and this call waits for nobody.

        Args:
            step: optimiser step, counted from 1.
            values: figures by name; None (not measured at this step) is skipped, and what is no curve.
        """
        taken = _taken(step, values)
        with self._lock:
            self._waiting.append(taken)
            if self._sender is None:
                self._sender = threading.Thread(target=self._send_live, name="curves", daemon=True)
                self._sender.start()

    def add_all(self, history: Sequence[tuple[int, Mapping[str, float | None]]]) -> None:
        """Log a whole history; steps that the run holds already are left as they are.

        Raises:
            MlflowException: the store refused or did not answer.
        """
        self.flush()
        # Another process may have logged since: the truth is in the store.
        self._known, self._steps = None, {}
        for step, values in history:
            self._collect(_taken(step, values))
        self._send()

    def flush(self) -> None:
        """Send what was taken, and be done when it is sent.

        Raises:
            MlflowException: the store refused or did not answer; the points are kept.
        """
        self._stop.set()
        sender = self._sender
        if sender is not None:
            sender.join()
        self._stop.clear()
        self._take()
        self._send()

    def _send_live(self) -> None:
        pause = self._every_s
        while not self._stop.wait(pause):
            try:
                self._take()
                self._send()
                pause = self._every_s
            except (
                Exception
            ) as error:  # Whatever it is, it is logged here, and raised by the last try, which is `flush`.
                pause = min(2 * pause, max(AGAIN_S, self._every_s))
                with self._lock:
                    kept = len(self._waiting) + len(self._pending)
                logger.warning("MLflow took no metrics (%d points wait for the next try): %s", kept, error)
            with self._lock:
                if not self._waiting and not self._pending:
                    self._sender = None
                    return
        with self._lock:
            self._sender = None

    def _take(self) -> None:
        """Compare what was taken with what the run holds; what could not be compared stays."""
        with self._lock:
            taken = list(self._waiting)
        for step in taken:
            self._collect(step)
        with self._lock:
            del self._waiting[: len(taken)]

    def _send(self) -> None:
        while self._pending:
            batch = self._pending[:BATCH]
            self._client.log_batch(self._run_id, metrics=batch)
            del self._pending[: len(batch)]

    def _collect(self, taken: _Step) -> None:
        from mlflow.entities import Metric

        for field, value in taken.values.items():
            name = training_metric(field)
            steps = self._logged_steps(name)
            if taken.step not in steps:
                steps.add(taken.step)
                self._pending.append(Metric(name, value, taken.at_ms, taken.step))

    def _logged_steps(self, name: str) -> set[int]:
        if self._known is None:
            self._known = set(self._client.get_run(self._run_id).data.metrics)
        if name not in self._steps:
            history = self._client.get_metric_history(self._run_id, name) if name in self._known else []
            self._steps[name] = {point.step for point in history}
        return self._steps[name]


def _taken(step: int, values: Mapping[str, float | None]) -> _Step:
    known = {field: float(value) for field, value in values.items() if value is not None and field in CURVES}
    return _Step(step, known, int(time.time() * 1000))
