"""Start a training of several processes with ``accelerate launch`` and report its figures as they come."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from notellm2.artifacts import write_atomic
from notellm2.errors import InputError
from notellm2.training.fit import Assignment

logger = logging.getLogger(__name__)

ASSIGNMENT, OUTCOME, LOG = "assignment.json", "outcome.json", "processes.log"
_POLL_S = 0.5
_TAIL_CHARS = 12000


def launch(assignment: Assignment, on_metrics: Callable[[int, Mapping[str, float]], None]) -> dict[str, Any]:
    """Run `fit` in ``training.processes`` processes and wait for them.

    They never outlive this one: they are ended when this call is interrupted, and end by themselves when this process
    is gone, however it died, because they then read the end of their standard input.

    Args:
        assignment: what to train; its work folder also takes the assignment, the outcome and the processes' log.
        on_metrics: called with each logged step within half a second.

    Returns:
        Figures of the run, as `fit` gives them.

    Raises:
        InputError: as raised in the processes.
        RuntimeError: they failed otherwise; carries the end of their log.
    """
    from notellm2.training.loop import METRICS

    outcome = assignment.work / OUTCOME
    outcome.unlink(missing_ok=True)
    write_atomic(assignment.work / ASSIGNMENT, assignment.model_dump_json())
    logger.info("training in %d processes; their log: %s", assignment.training.processes, assignment.work / LOG)
    metrics = _Metrics(assignment.work / METRICS, on_metrics)
    reading, writing = os.pipe()
    try:
        with (
            (assignment.work / LOG).open("w") as log,
            subprocess.Popen(
                command(assignment), stdin=reading, stdout=log, stderr=subprocess.STDOUT, env=_environment(assignment)
            ) as child,
        ):
            try:
                while child.poll() is None:
                    time.sleep(_POLL_S)
                    metrics.report_new()
            finally:
                # Asked, not killed: the launcher ends its workers. Does nothing to one that has ended.
                child.terminate()
    finally:
        os.close(reading)
        os.close(writing)
    metrics.report_new()
    result = json.loads(outcome.read_text()) if outcome.exists() else {}
    if child.returncode == 0 and "figures" in result:
        figures: dict[str, Any] = result["figures"]
        return figures
    if "input_error" in result:
        raise InputError(result["input_error"])
    log_end = (assignment.work / LOG).read_text(errors="replace").strip()[-_TAIL_CHARS:]
    raise RuntimeError(f"the training processes ended with {child.returncode}:\n{log_end or '(their log is empty)'}")


def command(assignment: Assignment) -> list[str]:
    """Build the command line of ``accelerate launch``; the recipe's own arguments come last, so they win."""
    ours = ["--multi_gpu", "--num_processes", str(assignment.training.processes), "--num_machines", "1"]
    ours += ["--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]
    program = ["-m", "notellm2.training", str(assignment.work / ASSIGNMENT), "--exit-with-parent"]
    return [sys.executable, "-m", "accelerate.commands.launch", *ours, *assignment.training.launch_args, *program]


def _environment(assignment: Assignment) -> dict[str, str]:
    """This process's environment, with the cores divided between the processes unless the user has done so."""
    threads = max(1, (os.cpu_count() or 1) // assignment.training.processes)
    return {"OMP_NUM_THREADS": str(threads), **os.environ}


class _Metrics:
    """Follow a metrics file that another process appends to, and replaces when it resumes."""

    def __init__(self, path: Path, on_metrics: Callable[[int, Mapping[str, float]], None]) -> None:
        self._path = path
        self._on_metrics = on_metrics
        self._file = self._read = 0
        self._step = -1

    def report_new(self) -> None:
        """Report the steps that came since the last call."""
        try:
            handle = self._path.open("rb")
        except FileNotFoundError:
            return
        with handle:
            inode = os.fstat(handle.fileno()).st_ino
            if inode != self._file:
                self._file, self._read = inode, 0
            handle.seek(self._read)
            for line in handle:
                if not line.endswith(b"\n"):
                    return  # It is being written: it is whole the next time.
                self._read += len(line)
                values = json.loads(line)
                step = int(values.pop("step"))
                if step > self._step:
                    self._step = step
                    self._on_metrics(step, values)
