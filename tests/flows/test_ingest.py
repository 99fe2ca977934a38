"""Ingest and cleanup as a user starts them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from notellm2.notes.versions import data_md5, status
from notellm2.recipe import SampleConfig
from notellm2.sample.generate import write_sample
from tests.conftest import Retrained
from tests.flows.running import RECIPE, Place

# One process for three commands: each start of the embedded server costs ten seconds.
COMMANDS = """
import sys
from notellm2.cli import main

def status(*arguments):
    sys.argv = ["notellm2", *arguments]
    try:
        main()
    except SystemExit as ended:
        return ended.code or 0

recipe, copy = sys.argv[1:]
ingest = ["ingest", "--recipe", recipe, "--data", "export"]
statuses = [status(*ingest), status(*ingest, "--set", "quality.min_notes=100000")]
statuses.append(status("cleanup", "--recipe", recipe, "--store", copy, "--dry-run", "--set", "alerts.stale_days=1e-9"))
print("statuses", *statuses)
"""


def test_an_export_becomes_the_version_a_bad_one_changes_nothing_and_a_cleanup_leaves_what_is_in_use(
    retrained: Retrained, tmp_path: Path
) -> None:
    place, other = Place(tmp_path), Place(tmp_path / "copy")
    shutil.copytree(retrained.place.root, other.root)
    write_sample(tmp_path / "export", SampleConfig(notes=150, users=200))
    before, told = sorted(a.path for a in other.store.artifacts()), tmp_path / "events.jsonl"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NOTELLM2_EVENTS_LOG", str(told))
        done = place.run("-c", COMMANDS, str(RECIPE), str(other.workspace.root))
    assert done.stdout.endswith("statuses 0 2 0\n"), done.stderr[-6000:]

    version = data_md5(tmp_path / "data")
    assert f"Version:  {version} (new)" in done.stdout
    assert status(tmp_path / "data").clean, "recorded with DVC"
    assert "note_count" in done.stderr
    events = [json.loads(line) for line in told.read_text().splitlines()]
    assert [one["event"] for one in events] == [
        "notellm2.data.version",
        "notellm2.data.quality-failed",
        "notellm2.model.stale",
    ]
    assert (events[0]["data_md5"], events[0]["notes"]) == (version, 150)
    assert "note_count" in events[1]["failed"]

    assert "Would be removed:\n  artifacts: 0 folder(s), 0.00 GB\n" in done.stdout
    assert "MLflow: 0 run(s), 0 version(s) never in use" in done.stdout
    assert "champion: version 1, 0.0 days old, stale" in done.stdout
    assert sorted(a.path for a in other.store.artifacts()) == before
