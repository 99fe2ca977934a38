"""The index refresh as a user starts it, on the store of a finished retraining."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flows import cli
from notellm2.artifacts import Artifact
from notellm2.errors import InputError
from notellm2.notes.dataset import INFO
from notellm2.notes.schema import INTERACTIONS, NOTES
from notellm2.publication import Published
from notellm2.publication.pointer import read_pointer
from tests.conftest import Retrained
from tests.flows.running import Place


def changed(data: Path) -> tuple[str, str, str]:
    """One note gone, one with another text, one new; returns their ids."""
    shard = sorted((data / "notes").glob("part-*.parquet"))[0]
    rows = pq.read_table(shard).to_pylist()
    new = {**rows[5], "note_id": "brand-new", "title": "just written"}
    gone = rows.pop(0)["note_id"]
    rows[3]["content"] = "quite another text about it"
    pq.write_table(pa.Table.from_pylist([*rows, new], NOTES), shard)
    (events,) = (data / "interactions").glob("part-*.parquet")
    kept = [row for row in pq.read_table(events).to_pylist() if row["note_id"] != gone]
    pq.write_table(pa.Table.from_pylist(kept, INTERACTIONS), events)
    info = json.loads((data / INFO).read_text())
    (data / INFO).write_text(json.dumps({**info, "interactions": len(kept)}))
    return gone, rows[3]["note_id"], "brand-new"


def refresh(place: Place, *arguments: str) -> subprocess.CompletedProcess[str]:
    return place.run("-m", "notellm2", "refresh-index", "--store", "store", *arguments)


def vectors_by_id(artifact: Artifact) -> dict[str, Any]:
    ids = json.loads(artifact.file("note_ids.json").read_text())
    return dict(zip(ids, np.load(artifact.file("both.npy")), strict=True))


def test_new_notes_are_found_gone_ones_are_not_and_the_rest_stays_as_it_was(
    retrained: Retrained, tmp_path: Path
) -> None:
    place = Place(tmp_path / "copy")
    shutil.copytree(retrained.place.root, place.root)
    published = place.workspace.published
    before, reader = read_pointer(published), Published(published)
    gone, other, new = changed(place.root / "data")

    done = refresh(place)
    assert done.returncode == 0, done.stderr[-6000:]
    assert "Traceback" not in done.stderr
    assert "1 new, 1 changed, 1 dropped" in done.stdout
    after = read_pointer(published)
    assert after.version != before.version
    assert (after.model_version, after.bundle) == (before.model_version, before.bundle)
    assert after.data_md5 != before.data_md5
    assert f"notellm2 rollback --to {before.version}" in done.stdout
    assert reader.refresh()
    assert new in reader
    assert reader.current.title(new) == "just written"
    assert gone not in reader
    assert len(reader) == 150

    old, refreshed = vectors_by_id(place.artifact("vectors")), vectors_by_id(place.artifact("refreshed-vectors"))
    assert place.artifact("refreshed-vectors").summary["embedded"] == 2
    assert refreshed.keys() == {*old, new} - {gone}
    for note_id, vector in refreshed.items():
        if note_id not in (new, other):
            np.testing.assert_array_equal(vector, old[note_id])
    assert np.abs(refreshed[other] - old[other]).max() > 1e-4
    ledger = [json.loads(line) for line in (Path(published) / "ledger.jsonl").read_text().splitlines()]
    assert (ledger[-1]["action"], ledger[-1]["to"]) == (
        "refresh",
        {"version": before.model_version, "publication": after.version},
    )

    pointer = (Path(published) / "current.json").read_bytes()
    again = refresh(place)
    assert again.returncode == 0, again.stderr[-6000:]
    assert f"Nothing to do: the published index {after.version} has these 150 notes as they are." in again.stdout
    assert (Path(published) / "current.json").read_bytes() == pointer


def test_without_a_store_or_a_publication_it_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder; a retraining makes it"):
        cli.refresh_index(store=tmp_path / "none")
    (tmp_path / "store").mkdir()
    with pytest.raises(InputError, match="nothing is published in"):
        cli.refresh_index(store=tmp_path / "store")
    assert list((tmp_path / "store").iterdir()) == []
