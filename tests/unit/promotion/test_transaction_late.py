"""Promotions that come too late: after a lease, over another index, or back to a model the registry has no more."""

from __future__ import annotations

import json
from typing import Any

import pytest

from notellm2.artifacts import Artifact
from notellm2.errors import InputError
from notellm2.promotion import transaction
from notellm2.promotion.journal import JOURNAL, LeaseLost, read_intent
from notellm2.promotion.transaction import ChampionMoved
from notellm2.publication.pointer import read_pointer
from notellm2.registry import versions
from notellm2.registry.decisions import Pair
from tests.unit.registry.world import WHY, A, B, World


def test_a_rollback_never_goes_to_an_index_of_a_model_the_registry_has_no_more(
    world: World, indexes: dict[str, Artifact]
) -> None:
    """A registry that was begun anew counts its versions from 1 again: the number is the same, the model is not."""
    first = world.promote(world.register(A), indexes[A], None)
    world.tracking.client.delete_registered_model(world.tracking.model_name)
    one, two = world.register(B), world.register(A)
    world.promote(one, indexes[B], None)
    with pytest.raises(InputError, match="no earlier version"):
        world.promoter().rollback(WHY)
    with pytest.raises(InputError, match="another model"):
        world.promoter().rollback(WHY, to=first.publication.version)
    assert world.in_use() == one
    assert read_pointer(world.published).bundle == B
    world.tracking.client.delete_model_version(world.tracking.model_name, one)
    world.promote(two, indexes[A], None)
    with pytest.raises(InputError, match="no earlier version"):
        world.promoter().rollback(WHY)


@pytest.mark.parametrize("asleep_before", ["move_alias", "point"])
def test_a_holder_that_slept_past_its_lease_leaves_one_pair(
    world: World, indexes: dict[str, Artifact], asleep_before: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It sleeps after its last look at the lease; meanwhile another settles what it began and goes its way."""
    one, two = world.register(A), world.register(B)
    world.promote(one, indexes[A], None)
    room = versions if asleep_before == "move_alias" else transaction.publish
    act, slept = getattr(room, asleep_before), False

    def late(*arguments: Any, **named: Any) -> Any:
        nonlocal slept
        if not slept:
            slept = True
            stored = world.location.read(JOURNAL)
            assert stored is not None
            state = json.loads(stored.data)
            state["lease"]["expires"] = 0
            world.location.swap(JOURNAL, json.dumps(state).encode(), stored.tag)
            world.promoter().recover()
            assert read_intent(world.location) is None
        return act(*arguments, **named)

    monkeypatch.setattr(room, asleep_before, late)
    with pytest.raises(LeaseLost):
        world.promote(two, indexes[B], one)
    assert slept
    assert world.in_use() == (one if asleep_before == "move_alias" else two)
    assert read_intent(world.location) is None


def test_a_refresh_of_a_publication_that_is_not_in_use_any_more_is_refused(
    world: World, indexes: dict[str, Artifact]
) -> None:
    """A person went back to an earlier index, or a later refresh was quicker: the slow one must not undo that."""
    one = world.register(A)
    first = world.promote(one, indexes[A], None)
    second = world.promote(one, indexes["refreshed"], None)
    world.promoter().rollback(WHY, index=True)
    with pytest.raises(ChampionMoved, match=second.publication.version):
        world.promote(one, indexes["refreshed"], one, over=second.publication.version)
    assert world.pair() == Pair(version=one, publication=first.publication.version)
    again = world.promote(one, indexes["refreshed"], one, over=first.publication.version)
    assert again.entry.action == "refresh"
