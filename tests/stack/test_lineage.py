"""Serving and lineage against the real servers: an index on S3, MLflow that asks who one is, Prefect's pages."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.conftest import ROOT
from tests.stack.conftest import RunningStack
from tests.unit.promotion.test_lineage import C1, F1, NOTE
from tests.unit.serving.test_server import Process

RETRAINED = """
import dataclasses, json, os, sys
from pathlib import Path
from notellm2.registry.tracking import Tracking
from notellm2.workspace import Workspace
from tests.unit.promotion.test_lineage import retrained
from tests.unit.registry.world import World

root = Path(sys.argv[1])
tracking = dataclasses.replace(Tracking.at(Workspace.at(root)), experiment="lineage", model_name="lineage")
run, version, publication, made = retrained(World(tracking, os.environ["NOTELLM2_PUBLISHED"]), root, 0, None)
print()
print(json.dumps([run, version, publication]))
"""
"""What a retraining leaves, without its training: artifacts, a run, a version, a promotion to S3."""


def ask(environment: dict[str, str], *command: str, cwd: Path = ROOT) -> Any:
    done = subprocess.run(
        [sys.executable, *command], env=environment, cwd=cwd, capture_output=True, text=True, timeout=180, check=False
    )
    assert done.returncode == 0, done.stderr[-4000:]
    # MLflow tells where a run's page is before what was asked for.
    return json.loads(done.stdout.rpartition("\n\n")[2])


def test_a_note_is_served_from_s3_and_a_reader_sees_where_it_comes_from(stack: RunningStack, tmp_path: Path) -> None:
    # A place of its own beside the stack's: what other tests publish stays as it is.
    place = stack.native.environment("worker")["NOTELLM2_PUBLISHED"] + "-lineage"
    own = {"NOTELLM2_PUBLISHED": place, "NOTELLM2_CACHE": str(tmp_path / "cache"), "PYTHONPATH": str(ROOT)}
    promoter = {
        name: stack.native.environment("worker")[name]
        for name in ("NOTELLM2_PROMOTER_USERNAME", "NOTELLM2_PROMOTER_PASSWORD")
    }
    store = tmp_path / "store"
    run, version, publication = ask({**stack.env("trainer"), **promoter, **own}, "-c", RETRAINED, str(store))

    reader = {**stack.env("reader"), **own}
    with Process(place, environment=reader) as service:
        service.wait(lambda: service.get("/readyz")[0] == 200)
        served_by = service.get(f"/similar/{NOTE}?k=3")[1]["served_by"]
    assert (served_by["publication"], served_by["model_version"]) == (publication, version)

    # As on a machine of its own: no store.
    told = ask(reader, "-m", "notellm2", "lineage", NOTE, "--json", "--store", str(tmp_path / "none"))
    found = {f"{thing['kind']}:{thing['id']}": thing["facts"] for thing in told["up"]}
    assert found[f"publication:{publication}"]["served_now"] is True
    assert found[f"version:{version}"]["aliases"] == ["champion"]
    assert found[f"run:{run}"]["page"].startswith(reader["NOTELLM2_MLFLOW_URL"] + "/#/")
    assert found[f"flow-run:{F1}"]["page"] == f"http://prefect/runs/flow-run/{F1}", "as it was recorded"
    assert {f"commit:{C1}", "recipe:films"} <= found.keys()
    (missing,) = told["missing"]
    assert "no such folder" in missing
    below = ask(reader, "-m", "notellm2", "lineage", C1, "--json", "--store", str(store))["down"]
    assert publication in {thing["id"] for thing in below if thing["facts"].get("served_now")}
    secrets = [stack.password(identity) for identity in ("admin", "trainer", "promoter", "reader")]
    assert not any(secret in json.dumps([told, below]) for secret in secrets)
