"""The alias `champion`, moved in MLflow's page: carried out by the same transaction, or put back aloud."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from notellm2.artifacts import Artifact, Store
from notellm2.promotion.journal import LeaseTaken, hold
from notellm2.promotion.ledger import Ledger
from notellm2.promotion.requests import Answer, follow
from notellm2.promotion.transaction import ChampionMoved, Step
from notellm2.publication.pointer import read_pointer
from notellm2.publication.stored import stored_ids
from notellm2.registry import names, versions
from notellm2.registry.decisions import Verdict
from tests.unit.promotion.added import ADDED, refresh_with_added_notes, workshop
from tests.unit.registry.world import A, B, World

PASSED = Verdict(passed=True, rules=(), sentence="passes all rules")


class Place:
    """Version 1 in use, version 2 passed the gate against it, and 3 that no gate has judged against it."""

    def __init__(self, world: World, indexes: dict[str, Artifact], root: Path) -> None:
        self.world, self.store = world, Store(root)
        for bundle in (A, B, B):
            self.add(world.register(bundle), indexes[bundle])
        versions.record_verdict(world.tracking, "2", PASSED, "1")
        world.promote("1", indexes[A], None)

    def add(self, version: str, index: Artifact) -> None:
        """The version's index, in its store."""
        versions.add_artifact(self.world.tracking, version, index)
        shutil.copytree(index.path, self.store.root / "index" / index.key, dirs_exist_ok=True)

    def ask(self, version: str | None) -> None:
        """As a promoter does in MLflow's page."""
        client, name = self.world.tracking.client, self.world.tracking.model_name
        if version is None:
            client.delete_registered_model_alias(name, names.CHAMPION)
        else:
            client.set_registered_model_alias(name, names.CHAMPION, version)

    def follow(self, **settings: Any) -> Answer | None:
        return follow(self.world.promoter(**settings), workshop(self.store))

    def tags(self, version: str) -> dict[str, str]:
        client = self.world.tracking.client
        return dict(client.get_model_version(self.world.tracking.model_name, version).tags)

    def last(self) -> Any:
        return Ledger(self.world.location).entries()[-1]


@pytest.fixture
def place(world: World, indexes: dict[str, Artifact], tmp_path: Path) -> Place:
    return Place(world, indexes, tmp_path / "store")


def test_nothing_is_asked_while_alias_and_pointer_agree(place: Place) -> None:
    assert place.follow() is None
    assert len(place.world.lines()) == 1


def test_a_version_that_passed_against_today_s_champion_is_promoted(place: Place) -> None:
    note = '{"version": "2", "by": "kim", "at": "2026-11-26T10:00:00+00:00"}'
    place.world.tracking.client.set_registered_model_tag(place.world.tracking.model_name, names.ASKED, note)
    place.ask("2")
    answer = place.follow()
    assert answer is not None
    assert (answer.version, answer.done) == ("2", True)
    assert place.world.in_use() == "2"
    line = place.last()
    assert (line.action, line.by, line.mode, line.over.version) == ("promote", "kim (in MLflow)", "manual", "1")
    assert line.link.endswith("/versions/2") or "/versions/2" in line.link
    assert line.verdict == PASSED.sentence
    assert place.follow() is None


def test_notes_that_refreshes_have_added_come_with_it(place: Place) -> None:
    refresh_with_added_notes(place.world, place.store, "1", A)
    place.ask("2")
    assert place.follow() is not None
    assert place.world.in_use() == "2"
    assert set(ADDED) <= set(stored_ids(place.world.location, read_pointer(place.world.published)))


def test_an_older_version_is_rolled_back_to(place: Place) -> None:
    place.ask("2")
    place.follow()
    place.ask("1")
    answer = place.follow()
    assert answer is not None
    assert answer.done
    assert place.world.in_use() == "1"
    assert (place.last().action, place.last().to.version) == ("rollback", "1")


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (lambda place: None, "no version"),
        (lambda place: versions.record_verdict(place.world.tracking, "3", PASSED, "7"), "--expect-champion 1"),
        (
            lambda place: versions.record_verdict(
                place.world.tracking, "3", Verdict(passed=False, rules=(), sentence="visual-reliance: 0"), "1"
            ),
            "the gate refused it (visual-reliance: 0)",
        ),
    ],
    ids=["compared with nobody", "another champion", "refused"],
)
def test_what_the_gate_did_not_pass_is_put_back_with_the_reason(place: Place, spoil: Any, why: str) -> None:
    before = place.world.pair()
    spoil(place)
    place.ask("3")
    answer = place.follow()
    assert answer is not None
    assert not answer.done
    why = "compared it with version none, and 1 is in use" if why == "no version" else why
    assert why in answer.reason
    assert place.world.pair() == before
    line = place.last()
    assert (line.action, line.to.version, line.over.version) == ("mend", "1", "3")
    assert line.reason == answer.reason
    assert line.reason.startswith("somebody (in MLflow) set the alias champion on version 3: ")
    assert place.tags("3")[names.DECISION].startswith("not brought into use, the alias was put back: somebody")
    assert place.follow() is None, "once"


def test_an_index_that_is_gone_is_told(place: Place) -> None:
    shutil.rmtree(place.store.root / "index")
    place.ask("2")
    answer = place.follow()
    assert answer is not None
    assert "its index is not in" in answer.reason
    assert place.world.in_use() == "1"


def test_an_alias_that_is_removed_is_put_back(place: Place) -> None:
    place.ask(None)
    answer = place.follow()
    assert answer is not None
    assert (answer.version, answer.done) == (None, False)
    assert "notellm2 rollback" in answer.reason
    assert place.world.in_use() == "1"
    assert place.last().action == "mend"


def test_the_version_in_use_may_be_deleted_and_another_asked_for(place: Place) -> None:
    pointer = read_pointer(place.world.published)
    place.world.tracking.client.delete_model_version(place.world.tracking.model_name, "1")
    assert place.follow() is None, "there is nothing to put back"
    assert read_pointer(place.world.published) == pointer, "readers keep it"
    place.ask("3")
    answer = place.follow()
    assert answer is not None
    assert not answer.done
    assert place.world.pair().version is None, "the alias names nothing: version 1 is gone"
    place.ask("2")
    assert place.follow() is not None
    assert place.world.in_use() == "2"


def test_the_first_champion_may_be_asked_for(world: World, indexes: dict[str, Artifact], tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    for bundle in (A, B):
        version = world.register(bundle)
        versions.add_artifact(world.tracking, version, indexes[bundle])
        shutil.copytree(indexes[bundle].path, store.root / "index" / indexes[bundle].key)
    versions.record_verdict(world.tracking, "2", PASSED, "1")
    client, name = world.tracking.client, world.tracking.model_name
    client.set_registered_model_alias(name, names.CHAMPION, "2")
    refused = follow(world.promoter(), workshop(store))
    assert refused is not None
    assert not refused.done
    assert world.pair().version is None
    assert world.lines() == [("mend", None, "2")]
    client.set_registered_model_alias(name, names.CHAMPION, "1")
    assert follow(world.promoter(), workshop(store)) is not None
    assert world.in_use() == "1"


def test_of_two_at_once_the_last_one_counts(place: Place) -> None:
    place.ask("2")

    def another(step: Step) -> None:
        if step is Step.CHECK and place.world.pair().version == "2":
            place.ask("3")

    first = place.follow(on_step=another)
    assert first is not None
    assert not first.done
    assert "names version 3 by now" in first.reason
    assert place.world.pair().version == "3", "what was asked for last is not swallowed"
    second = place.follow()
    assert second is not None
    assert (second.version, second.done) == ("3", False)
    assert place.world.in_use() == "1"


def test_a_promotion_under_way_comes_first(place: Place, indexes: dict[str, Artifact]) -> None:
    with hold(place.world.location, "promoting", lease_s=60, wait_s=0):
        place.ask("2")
        with pytest.raises(LeaseTaken):
            place.follow()
        assert place.world.pair().version == "2", "it is looked at again"
    assert place.follow() is not None
    assert place.world.in_use() == "2"

    def asked(step: Step) -> None:
        if step is Step.POINTER:
            place.ask("1")

    versions.record_verdict(place.world.tracking, "3", PASSED, "2")
    place.world.promote("3", indexes[B], "2", on_step=asked)
    answer = place.follow()
    assert answer is not None
    assert (answer.version, answer.done) == ("1", True), "asked for last: an older version is a rollback"


def test_a_promotion_that_meets_a_request_is_refused_and_the_request_stands(
    place: Place, indexes: dict[str, Artifact]
) -> None:
    def asked(step: Step) -> None:
        if step is Step.CHECK:
            place.ask("2")

    with pytest.raises(ChampionMoved, match="by now there is champion version 2"):
        place.world.promote("3", indexes[B], "1", on_step=asked)
    assert place.follow() is not None
    assert place.world.in_use() == "2"
