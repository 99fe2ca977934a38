"""One retraining at the team's servers, as a worker that may train and not promote, while the servers go away."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from notellm2.artifacts import Store
from tests.conftest import PYTHONPATH, ROOT

if TYPE_CHECKING:
    from tests.stack.conftest import RunningStack

RECIPE = ROOT / "tests" / "flows" / "tiny.yaml"
MODEL = "through-an-outage"
STEPS, WAITS_AT = 12, 5
PATIENCE_S = 240.0
WAITING = f"""
import pathlib, sys, time
from notellm2.registry.runs import Run

log, here = Run.on_metrics, pathlib.Path(sys.argv.pop(1))

def on_metrics(self, step, values):
    log(self, step, values)
    if step == {WAITS_AT}:
        self._curves.flush()
        (here / "waits").touch()
        while not (here / "goes on").exists():
            time.sleep(0.05)

Run.on_metrics = on_metrics
from notellm2.cli import main
main()
"""
EMPTY = f"""
from pathlib import Path
from notellm2.recipe import RegistryConfig
from notellm2.promotion.status import collect_status
from notellm2.workspace import Workspace

Path("store").mkdir()
found = collect_status(Workspace.at(Path("store")), RegistryConfig(model_name={MODEL!r}))
print(found.champion, found.challenger)
"""


@dataclass
class Retraining:
    """What the retraining left: its folder, where it published, and what each command said."""

    stack: RunningStack
    root: Path
    said: dict[str, subprocess.CompletedProcess[str]] = field(default_factory=dict)

    @property
    def store(self) -> Store:
        return Store(self.root / "store")

    @property
    def published(self) -> str:
        return f"s3://{self.stack.settings.variables['S3_BUCKET']}/{MODEL}"

    def environment(self, user: str, *, promoting: bool = False) -> dict[str, str]:
        """A client's, its password in a file; with `promoting` the promoter's beside it."""
        own = {**self.stack.env(user), "NOTELLM2_PUBLISHED": self.published, "PYTHONPATH": PYTHONPATH}
        own |= {"NOTELLM2_CACHE": str(self.root / "cache"), "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1"}
        del own["MLFLOW_TRACKING_PASSWORD"]
        own["MLFLOW_TRACKING_PASSWORD_FILE"] = str(self._secret(user))
        if promoting:
            own |= {
                "NOTELLM2_PROMOTER_USERNAME": "promoter",
                "NOTELLM2_PROMOTER_PASSWORD_FILE": str(self._secret("promoter")),
            }
        return own

    def run(self, name: str, *arguments: str, user: str, promoting: bool = False) -> int:
        """Run Python here; what it said is kept under the name."""
        self.said[name] = subprocess.run(
            [sys.executable, *arguments],
            cwd=self.root,
            env=self.environment(user, promoting=promoting),
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
        )
        return self.said[name].returncode

    def _secret(self, user: str) -> Path:
        folder = self.root / "secrets"
        folder.mkdir(mode=0o700, exist_ok=True)
        path = folder / user
        path.write_text(self.stack.password(user) + "\n")
        return path


def retrain_through_an_outage(stack: RunningStack, root: Path) -> Retraining:
    """Train; MLflow goes in the middle, PostgreSQL restarts, MLflow comes back after training's last step."""
    place = Retraining(stack, root)
    place.run("before", "-c", EMPTY, user="trainer")
    arguments = ["retrain", "--recipe", str(RECIPE), "--store", str(root / "store"), "--set", "gate.mode=manual"]
    arguments += ["--set", f"registry.model_name={MODEL}", "--set", f"registry.experiment={MODEL}"]
    output, log = root / "retrain.out", root / "retrain.err"
    with output.open("wb") as out, log.open("wb") as err:
        flow = subprocess.Popen(
            [sys.executable, "-c", WAITING, str(root), *arguments],
            cwd=root,
            env=place.environment("trainer"),
            stdout=out,
            stderr=err,
        )
        try:

            def until(holds: Callable[[], bool], what: str) -> None:
                deadline = time.monotonic() + PATIENCE_S
                while not holds():
                    said = log.read_text()[-3000:]
                    assert flow.poll() is None, f"the retraining ended before {what}:\n{said}"
                    assert time.monotonic() < deadline, f"not within {PATIENCE_S:.0f} s: {what}\n{said}"
                    time.sleep(0.1)

            until((root / "waits").exists, "training is in its middle")
            stack.native._supervisor.stop_service("mlflow")
            try:
                (root / "goes on").touch()
                until(lambda: any(a.stage == "training" for a in place.store.artifacts()), "training has ended")
                stack.restart("postgres")
            finally:
                stack.restart("mlflow")
            status = flow.wait(PATIENCE_S)
        finally:
            if flow.poll() is None:
                flow.kill()
                flow.wait()
    place.said["retrain"] = subprocess.CompletedProcess(flow.args, status, output.read_text(), log.read_text())
    assert status == 0, log.read_text()[-6000:]
    return place


def texts(folder: Path, but: Callable[[Path], bool]) -> dict[Path, bytes]:
    """The content of every file below a folder, links not followed, but for what is to be left out."""
    found: dict[Path, bytes] = {}
    for above, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not but(Path(above) / name)]
        for name in files:
            path = Path(above) / name
            if path.is_file() and not path.is_symlink() and not but(path):
                found[path] = path.read_bytes()
    return found
