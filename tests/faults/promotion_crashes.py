"""Promoters that are killed before each step of the transaction in turn; prints what is found each time.

Run as a program: `promotion_crashes.py FOLDER SCENARIO INDEXES`, with the index artifacts as JSON references. The crash
points are not listed here: they are the members of `Step`, and an unharmed run must pass every one of them. Each
promoter is a child of its own that ends by `os._exit` at its point, with its lease held and nothing flushed. Children
inherit MLflow opened on one address, whose files are put back each time: opening it anew is most of a child's seconds.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from notellm2.artifacts import Artifact, Store
from notellm2.index.layout import damage
from notellm2.promotion.completion import Complete, Preparation, complete_index, promote_complete
from notellm2.promotion.journal import read_intent
from notellm2.promotion.ledger import Ledger
from notellm2.promotion.requests import follow
from notellm2.promotion.transaction import Step
from notellm2.publication import publish
from notellm2.publication.pointer import NothingPublished, read_pointer
from notellm2.registry import names, versions
from notellm2.registry.decisions import Verdict
from notellm2.registry.tracking import Tracking
from notellm2.workspace import Workspace
from tests.unit.index.examples import DATA_MD5
from tests.unit.promotion.added import refresh_with_added_notes, workshop
from tests.unit.registry.world import WHY, World

KILLED = 77
SCENARIOS = ("first", "over", "refresh", "rollback", "added")


def world_at(folder: Path) -> World:
    workspace = Workspace.at(folder)
    return World(Tracking.at(workspace), workspace.published)


def prepare(folder: Path, scenario: str, indexes: dict[str, Artifact]) -> None:
    """What was in use before: nothing, version 1, or version 2 over it; the versions are registered."""
    world = world_at(folder)
    world.register("a" * 20)
    world.register("b" * 20)
    if scenario == "added":
        # A refresh has published notes that the challenger's data did not have.
        world.promote("1", indexes["a"], None)
        served = refresh_with_added_notes(world, Store(folder), "1", "a" * 20)
        # Its file says when it was built, which its name goes by: built once, so that every killed run names the same.
        complete_index(
            world.promoter(), "2", Complete(indexes["b"], DATA_MD5, added=0), served, workshop(Store(folder))
        )
        return
    if scenario != "first":
        world.promote("1", indexes["a"], None)
    if scenario == "rollback":
        world.promote("2", indexes["b"], "1")
    publish.prepare(world.published, indexes["b"], model_name="notellm2", model_version="2", data_md5=DATA_MD5)
    if scenario == "asked":
        ask(folder, indexes)


def ask(folder: Path, indexes: dict[str, Artifact]) -> None:
    """Version 2 passed the gate against version 1, and a promoter has set the alias on it in MLflow's page."""
    world = world_at(folder)
    shutil.copytree(indexes["b"].path, folder / "index" / indexes["b"].key)
    versions.add_artifact(world.tracking, "2", indexes["b"])
    versions.record_verdict(world.tracking, "2", Verdict(passed=True, rules=(), sentence="passes"), "1")
    world.tracking.client.set_registered_model_alias("notellm2", names.CHAMPION, "2")


def change(folder: Path, scenario: str, indexes: dict[str, Artifact], on_step: Callable[[Any], None]) -> None:
    """The change that is killed."""
    promoter = world_at(folder).promoter(keep=5, on_step=on_step)
    if scenario == "asked":
        follow(promoter, workshop(Store(folder)))
    elif scenario == "added":
        own = Complete(indexes["b"], DATA_MD5, added=0)
        promote_complete(promoter, "2", own, "1", WHY, workshop(Store(folder), on_step))
    elif scenario == "rollback":
        promoter.rollback(WHY)
    elif scenario == "refresh":
        promoter.promote("1", indexes["c"], expected=None, data_md5=DATA_MD5, why=WHY)
    else:
        expected = None if scenario == "first" else "1"
        promoter.promote("2", indexes["b"], expected=expected, data_md5=DATA_MD5, why=WHY)


def in_child(work: Callable[[], Any]) -> tuple[int, Any]:
    """Run something in a child: its status, and its JSON answer if it ended well."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        try:
            answer = json.dumps(work())
            with os.fdopen(writing, "w") as pipe:
                pipe.write(answer)
        except BaseException:
            import traceback

            traceback.print_exc()
            sys.stderr.flush()
            os._exit(1)
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        text = pipe.read()
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return code, json.loads(text) if code == 0 else None


def dying_at(step: Any, seen: list[str] | None = None) -> Callable[[Any], None]:
    def die(reached: Any) -> None:
        if seen is not None:
            seen.append(reached.name)
        if reached is step:
            os._exit(KILLED)

    return die


def served(folder: Path) -> dict[str, Any]:
    """What readers find, at any moment: the pair the pointer names, and what is wrong with its files."""
    published = Workspace.at(folder).published
    try:
        pointer = read_pointer(published)
    except NothingPublished:
        return {"version": None, "publication": None, "problems": []}
    problems = damage(published / pointer.folder, pointer.files)
    return {"version": pointer.model_version, "publication": pointer.version, "problems": problems}


def settled(folder: Path) -> dict[str, Any]:
    """What the next start makes of it."""
    world = world_at(folder)
    if "asked" in sys.argv:
        follow(world.promoter(), workshop(Store(folder)))  # As every command and flow begins.
    else:
        world.promoter().recover()
    entries = [entry.model_dump() for entry in Ledger(world.location).entries()]
    intent = read_intent(world.location)
    return {"pair": world.pair().model_dump(), "ledger": entries, "intent": intent and intent.model_dump()}


def must(code: int, *allowed: int) -> None:
    if code not in allowed:
        raise SystemExit(f"a child ended with {code}")


def one_point(start: Path, folder: Path, scenario: str, indexes: dict[str, Artifact], *steps: Any) -> dict[str, Any]:
    """Killed at the first step; the next starts are killed at the others; then one that is left in peace."""
    put_back(start, folder)
    first, *later = steps
    code, _ = in_child(lambda: change(folder, scenario, indexes, dying_at(first)))
    must(code, KILLED)
    outcome: dict[str, Any] = {"steps": [step.name for step in steps], "readers": [served(folder)], "killed": [True]}
    for step in later:
        code, _ = in_child(lambda step=step: world_at(folder).promoter(on_step=dying_at(step)).recover())
        must(code, 0, KILLED)
        outcome["killed"].append(code == KILLED)
        outcome["readers"].append(served(folder))
    code, answer = in_child(lambda: settled(folder))
    must(code, 0)
    outcome["readers"].append(served(folder))
    return outcome | {"settled": answer}


def whole(start: Path, folder: Path, scenario: str, indexes: dict[str, Artifact]) -> dict[str, Any]:
    """The same change, not killed: the steps it passes, and what it leaves."""
    put_back(start, folder)

    def run() -> dict[str, Any]:
        seen: list[str] = []
        change(folder, scenario, indexes, dying_at(None, seen))
        return {"seen": seen, **settled(folder)}

    code, answer = in_child(run)
    must(code, 0)
    return dict(answer)


def put_back(start: Path, folder: Path) -> None:
    """The files as they were before the change."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(start, folder)


def open_once(folder: Path) -> None:
    """Open MLflow's stores for all children; no connection is left open for them to share."""
    from mlflow.store.model_registry.sqlalchemy_store import SqlAlchemyStore

    world = world_at(folder)
    world.pair()
    store = world.tracking.client._get_registry_client().store
    assert isinstance(store, SqlAlchemyStore)
    store.engine.dispose()


def main(folder: Path, scenario: str, indexes: dict[str, Artifact]) -> None:
    start = folder / "start"
    code, _ = in_child(lambda: prepare(start, scenario, indexes))
    must(code, 0)
    before = served(start)
    place = folder / "place"
    put_back(start, place)
    open_once(place)
    undisturbed = whole(start, place, scenario, indexes)
    passed = [Preparation[name] if name in Preparation.__members__ else Step[name] for name in undisturbed["seen"]]
    points = [one_point(start, place, scenario, indexes, step) for step in passed]
    if scenario == "over":
        # The process that settles is killed too: while it undoes, and while it finishes.
        again = [(first, second) for first in (Step.POINTER, Step.LEDGER) for second in Step]
        points += [one_point(start, place, scenario, indexes, *steps) for steps in again]
    print(json.dumps({"before": before, "undisturbed": undisturbed, "points": points}))


if __name__ == "__main__":
    main(
        Path(sys.argv[1]),
        sys.argv[2],
        {name: Artifact.from_reference(reference) for name, reference in json.loads(sys.argv[3]).items()},
    )
