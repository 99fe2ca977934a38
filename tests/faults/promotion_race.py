"""Many promoters at once, each with a version of its own, all of which were compared with the same champion.

Run as a program: `promotion_race.py FOLDER PROMOTERS ROUNDS INDEXES`. Each promoter is a process with connections of
its own to one real SQLite store; they open it a few at a time, and are let loose together once all have.
"""

from __future__ import annotations

import json
import multiprocessing
import sys
from dataclasses import dataclass
from multiprocessing.synchronize import Barrier, Semaphore
from pathlib import Path
from typing import Any

from notellm2.artifacts import Artifact
from notellm2.promotion.ledger import Ledger
from tests.faults.promotion_crashes import in_child, must, open_once, served, world_at

WAIT_S = 240.0
AT_ONCE = 4
"""Promoters that open the store at the same time: that opening is slow under load is not what is tried here."""


@dataclass(frozen=True)
class Start:
    """What holds the promoters until all of them have opened the store."""

    opening: Semaphore
    line: Barrier


def promote(folder: Path, version: str, index: Artifact, expected: str | None, start: Start, answers: Any) -> None:
    try:
        world = world_at(folder)
        with start.opening:
            world.pair()
        start.line.wait(WAIT_S)
        done = world.promote(version, index, expected, wait_s=WAIT_S)
        answers.put({"won": done.entry.to.version, "error": None, "message": ""})
    except Exception as error:
        answers.put({"won": None, "error": type(error).__name__, "message": str(error)})


def race(folder: Path, numbers: list[str], index: Artifact) -> dict[str, Any]:
    context = multiprocessing.get_context("fork")
    answers = context.Queue()
    start = Start(context.Semaphore(AT_ONCE), context.Barrier(len(numbers)))
    _, expected = in_child(lambda: world_at(folder).pair().version)
    promoters = [
        context.Process(target=promote, args=(folder, number, index, expected, start, answers)) for number in numbers
    ]
    for promoter in promoters:
        promoter.start()
    found = [answers.get(timeout=WAIT_S) for _ in promoters]
    for promoter in promoters:
        promoter.join(timeout=WAIT_S)
        must(promoter.exitcode if promoter.exitcode is not None else 1, 0)
    code, pair = in_child(lambda: world_at(folder).pair().model_dump())
    must(code, 0)
    ledger = [entry.model_dump() for entry in Ledger(world_at(folder).location).entries()]
    readers = served(folder)
    problems = readers.pop("problems")
    return {"answers": found, "pair": pair, "served": readers, "problems": problems, "ledger": ledger}


def register(folder: Path, count: int) -> list[str]:
    world = world_at(folder)
    return [world.register("b" * 20) for _ in range(count)]


def main(folder: Path, promoters: int, rounds: int, index: Artifact) -> None:
    outcomes = []
    for _ in range(rounds):
        code, numbers = in_child(lambda: register(folder, promoters))
        must(code, 0)
        open_once(folder)
        outcomes.append(race(folder, numbers, index))
    print(json.dumps(outcomes))


if __name__ == "__main__":
    reference = json.loads(sys.argv[4])["b"]
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), Artifact.from_reference(reference))
