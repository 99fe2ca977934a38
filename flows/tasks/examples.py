"""Three notes and what the published index finds similar, done the way any reader asks: `notellm2 similar`."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

from flows.runtime.job import Job
from notellm2.notes.dataset import Dataset

COUNT = 3
NEIGHBOURS = 3
_WIDTH = 60


def examples(job: Job, dataset: Dataset) -> list[str]:
    """Compose lines with example notes, spread over the data set, and their nearest neighbours.

    Raises:
        RuntimeError: the published index does not answer.
    """
    rows = dataset.notes(("note_id", "title", "category", "content")).to_pylist()
    notes: dict[str, dict[str, Any]] = {row["note_id"]: row for row in rows}
    chosen = [rows[(2 * i + 1) * len(rows) // (2 * COUNT)]["note_id"] for i in range(COUNT)]
    lines = ["", "Similar notes, from the published index:"]
    for note_id in chosen:
        lines.append(f"  {note_id}  {_name(notes[note_id])}")
        lines += [
            f"    {neighbour['score']:.3f}  {neighbour['note_id']}  {_name(notes.get(neighbour['note_id'], {}))}"
            for neighbour in _similar(job, note_id)
        ]
    lines.append(f"More:    notellm2 similar {chosen[0]} -k 10 --store {job.root}")
    return lines


def _similar(job: Job, note_id: str) -> list[dict[str, Any]]:
    command = [sys.executable, "-m", "notellm2", "similar", "-k", str(NEIGHBOURS), "--json"]
    command += ["--store", str(job.root), "--", note_id]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    if done.returncode:
        raise RuntimeError(f"the published index does not answer for note {note_id}: {done.stderr.strip()}")
    neighbours: list[dict[str, Any]] = json.loads(done.stdout)["similar"]
    return neighbours


def _name(note: dict[str, Any]) -> str:
    """The note's title, or what else tells a reader which it is."""
    text = " ".join((note.get("title") or note.get("content") or "(no text)").split())
    short = text if len(text) <= _WIDTH else text[: _WIDTH - 1] + "…"
    return f"{short} [{note['category']}]" if note.get("category") else short
