"""A promoter killed at any step of the transaction, or fifty at once: alias and pointer name one pair."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from notellm2.artifacts import Artifact, Store
from notellm2.promotion.completion import Preparation
from notellm2.promotion.transaction import Step
from tests.conftest import PYTHONPATH
from tests.faults import promotion_crashes, promotion_race
from tests.unit.registry.world import index_of

PROMOTERS = 50
ROUNDS = 2


@pytest.fixture(scope="module")
def indexes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Artifact]:
    """Of version 1, of version 2, and another of version 1."""
    store = Store(tmp_path_factory.mktemp("indexes"))
    bundles = {"a": "a" * 20, "b": "b" * 20, "c": "a" * 20}
    return {name: index_of(store, bundle, seed) for seed, (name, bundle) in enumerate(bundles.items())}


def run(program: str | None, *arguments: str) -> Any:
    assert program is not None
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW")}
    done = subprocess.run(
        [sys.executable, program, *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=400,
        env={**environment, "PYTHONPATH": PYTHONPATH},
    )
    assert done.returncode == 0, done.stderr[-6000:]
    return json.loads(done.stdout)


def references(indexes: dict[str, Artifact]) -> str:
    return json.dumps({name: index.reference() for name, index in indexes.items()})


@pytest.mark.parametrize("scenario", promotion_crashes.SCENARIOS)
def test_killed_before_any_step_alias_and_pointer_name_the_old_pair_or_the_new(
    tmp_path: Path, indexes: dict[str, Artifact], scenario: str
) -> None:
    found = run(promotion_crashes.__file__, str(tmp_path), scenario, references(indexes))
    undisturbed = found["undisturbed"]
    before: list[Any] = list(Preparation) if scenario == "added" else []
    expected = before + [step for step in Step if scenario != "rollback" or step is not Step.RETAIN]
    assert undisturbed["seen"] == [step.name for step in expected], "an unharmed run passes every step, in order"
    old = {"version": found["before"]["version"], "publication": found["before"]["publication"]}
    new = undisturbed["pair"]
    assert old != new
    points = found["points"]
    assert [point["steps"] for point in points if len(point["steps"]) == 1] == [[step.name] for step in expected]
    lines = len(undisturbed["ledger"])
    for point in points:
        at = next(step for step in expected if step.name == point["steps"][0])
        moved = expected.index(at) > expected.index(Step.POINTER)
        settled = point["settled"]
        assert settled["pair"] == (new if moved else old), point["steps"]
        assert settled["intent"] is None
        for readers in point["readers"]:
            assert readers["problems"] == []
            assert {name: readers[name] for name in ("version", "publication")} == settled["pair"]
        # One line for a change that happened, none for one that did not; however often it was settled.
        ledger = settled["ledger"]
        assert len(ledger) == (lines if moved else lines - 1), point["steps"]
        assert [entry["sequence"] for entry in ledger] == list(range(1, len(ledger) + 1))
        if moved:
            last, whole = ledger[-1], undisturbed["ledger"][-1]
            assert last["recovered"] == (at is Step.LEDGER)
            told = ("action", "to", "over", "by", "reason", "mode", "bundle")
            assert {name: last[name] for name in told} == {name: whole[name] for name in told}
    if scenario == "over":
        twice = [point for point in points if len(point["steps"]) == 2]
        assert len(twice) == 2 * len(Step)
        reached = {tuple(point["steps"]) for point in twice if all(point["killed"])}
        ways = {"POINTER": ("LEASE", "RECOVER", "ALIAS", "CLEAR", "RELEASE")}
        ways["LEDGER"] = (*ways["POINTER"], "LEDGER", "TAGS", "DESCRIBE")
        assert reached == {(first, second) for first, seconds in ways.items() for second in seconds}


def test_killed_while_a_request_is_carried_out_it_is_done_or_put_back_aloud(
    tmp_path: Path, indexes: dict[str, Artifact]
) -> None:
    """A promoter has moved the alias in MLflow's page; the follower that answers dies before each step."""
    found = run(promotion_crashes.__file__, str(tmp_path), "asked", references(indexes))
    undisturbed, points = found["undisturbed"], found["points"]
    assert undisturbed["seen"] == [step.name for step in Step]
    old = {"version": "1", "publication": found["before"]["publication"]}
    new = undisturbed["pair"]
    assert (found["before"]["version"], new["version"]) == ("1", "2")
    assert [point["steps"] for point in points] == [[step.name] for step in Step]
    for point in points:
        at, settled = Step[point["steps"][0]], point["settled"]
        cut_short = at in (Step.CHECK, Step.ALIAS, Step.POINTER)
        # Before the intent the request still stands, and the next start carries it out.
        assert settled["pair"] == (old if cut_short else new), at
        assert settled["intent"] is None
        assert all(readers["problems"] == [] for readers in point["readers"])
        assert all({r["version"], r["publication"]} in (set(old.values()), set(new.values())) for r in point["readers"])
        actions = [entry["action"] for entry in settled["ledger"]]
        assert actions == ["promote", "mend" if cut_short else "promote"], at
        if cut_short:
            assert "bringing version 2 into use was cut short" in settled["ledger"][-1]["reason"]
        else:
            assert "/versions/2" in settled["ledger"][-1]["link"]


def test_of_fifty_promoters_at_once_one_wins_each_round(tmp_path: Path, indexes: dict[str, Artifact]) -> None:
    rounds = run(promotion_race.__file__, str(tmp_path), str(PROMOTERS), str(ROUNDS), references(indexes))
    assert len(rounds) == ROUNDS
    champion = None
    for number, outcome in enumerate(rounds, start=1):
        winners = [answer["won"] for answer in outcome["answers"] if answer["won"]]
        assert len(outcome["answers"]) == PROMOTERS
        assert winners == [outcome["pair"]["version"]]
        refusals = [answer for answer in outcome["answers"] if not answer["won"]]
        assert {answer["error"] for answer in refusals} == {"ChampionMoved"}
        assert all(f"by now there is champion version {winners[0]}" in answer["message"] for answer in refusals)
        assert outcome["served"] == outcome["pair"]
        assert outcome["problems"] == []
        ledger = outcome["ledger"]
        assert len(ledger) == number
        assert (ledger[-1]["to"]["version"], ledger[-1]["over"]["version"]) == (winners[0], champion)
        champion = winners[0]
