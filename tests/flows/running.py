"""The flow as a user starts it: a process of its own, in a folder of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from notellm2.artifacts import Artifact, Store
from notellm2.workspace import Workspace
from tests.conftest import PYTHONPATH

RECIPE = Path(__file__).with_name("tiny.yaml")
DYING = """
import os, signal, sys
from notellm2.registry.runs import Run

log = Run.on_metrics

def last_words(self, step, values):
    log(self, step, values)
    if step >= {step}:
        os.kill(os.getpid(), signal.SIGKILL)

Run.on_metrics = last_words
from notellm2.cli import main
main()
"""


@dataclass(frozen=True)
class Place:
    """A folder with a data set and a store, as a checkout has them."""

    root: Path

    @property
    def workspace(self) -> Workspace:
        return Workspace.at(self.root / "store")

    @property
    def store(self) -> Store:
        return Store(self.workspace.root)

    def artifact(self, stage: str) -> Artifact:
        (found,) = [a for a in self.store.artifacts() if a.stage == stage]
        return found

    def retrain(self, *arguments: str, die_at_step: int | None = None) -> subprocess.CompletedProcess[str]:
        """Run the flow here; `die_at_step` kills the process (SIGKILL) when training logs that step."""
        start = ["-m", "notellm2"] if die_at_step is None else ["-c", DYING.format(step=die_at_step)]
        return self.run(*start, "retrain", "--recipe", str(RECIPE), *arguments)

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run Python here with the arguments."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT", "MLFLOW"))}
        command = [sys.executable, *arguments]
        # Into files, not pipes: the server that a killed flow leaves behind would keep a pipe open for good.
        with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as log:
            done = subprocess.run(
                command,
                cwd=self.root,
                env={**environment, "PYTHONPATH": PYTHONPATH},
                stdout=output,
                stderr=log,
                timeout=540,
                check=False,
            )
            for file in (output, log):
                file.seek(0)
            return subprocess.CompletedProcess(command, done.returncode, output.read(), log.read())
