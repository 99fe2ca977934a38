"""A promotion keeps every note that readers get: it embeds what refreshes have added before it moves anything."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from notellm2.artifacts import Artifact, Store
from notellm2.promotion.completion import Complete, NotesMissing, Preparation, complete_index, promote_complete
from notellm2.promotion.transaction import ChampionMoved, Step
from notellm2.publication.pointer import read_pointer
from notellm2.publication.stored import stored_ids
from tests.unit.index.examples import DATA_MD5, note_ids
from tests.unit.promotion.added import ADDED, LATER, keep_data, refresh_with_added_notes, workshop
from tests.unit.registry.world import WHY, A, B, World


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def own(index: Artifact, md5: str = DATA_MD5) -> Complete:
    return Complete(index, md5, added=0)


def served(world: World) -> set[str]:
    return set(stored_ids(world.location, read_pointer(world.published)))


def test_what_refreshes_have_added_is_embedded_before_anything_moves(
    world: World, indexes: dict[str, Artifact], store: Store
) -> None:
    first, second = world.register(A), world.register(B)
    world.promote(first, indexes[A], None)
    refresh_with_added_notes(world, store, first, A)
    before, seen = world.pair(), []

    def watch(step: Any) -> None:
        seen.append(step)
        if step in (*Preparation, Step.LEASE, Step.ALIAS):
            assert world.pair() == before

    promoter = world.promoter(on_step=watch)
    done = promote_complete(promoter, second, own(indexes[B]), first, WHY, workshop(store, watch))
    assert seen[:3] == [Preparation.EMBED, Preparation.BUILD, Step.LEASE]
    assert done.publication.model_version == world.in_use() == second
    assert served(world) == {*note_ids(40), *ADDED}
    assert done.publication.data_md5 == LATER, "the next refresh goes on from there"


def test_nothing_is_embedded_where_nothing_is_missing(world: World, indexes: dict[str, Artifact], store: Store) -> None:
    first, second = world.register(A), world.register(B)
    seen: list[Any] = []
    done = promote_complete(world.promoter(), first, own(indexes[A]), None, WHY, workshop(store, seen.append))
    assert done.publication.index_key == indexes[A].key
    promote_complete(world.promoter(), second, own(indexes[B], DATA_MD5), first, WHY, workshop(store, seen.append))
    assert (world.in_use(), seen) == (second, [])


def test_what_cannot_be_embedded_is_told_and_nothing_moves(
    world: World, indexes: dict[str, Artifact], store: Store, tmp_path: Path
) -> None:
    first, second = world.register(A), world.register(B)
    world.promote(first, indexes[A], None)
    refresh_with_added_notes(world, store, first, A)
    before, seen = world.pair(), []
    elsewhere = workshop(Store(tmp_path / "elsewhere"))
    with pytest.raises(NotesMissing, match=rf"2 notes that refreshes have added \({', '.join(ADDED)}\)") as missing:
        promote_complete(world.promoter(on_step=seen.append), second, own(indexes[B]), first, WHY, elsewhere)
    assert LATER in str(missing.value)
    assert "nothing was changed" in str(missing.value)
    assert (world.pair(), seen) == (before, [])


def test_what_newer_data_has_dropped_is_not_brought_back(
    world: World, indexes: dict[str, Artifact], store: Store
) -> None:
    first, second = world.register(A), world.register(B)
    world.promote(first, indexes[A], None)
    refresh_with_added_notes(world, store, first, A)
    newest = "00" * 16 + ".dir"
    keep_data(store, newest, note_ids(40), "2026-11-27T00:00:00+00:00")
    pointer = read_pointer(world.published)
    whole = complete_index(world.promoter(), second, own(indexes[B], newest), pointer, workshop(store))
    assert (whole.added, whole.index) == (0, indexes[B])


def test_a_refresh_that_publishes_meanwhile_loses_no_note(
    world: World, indexes: dict[str, Artifact], store: Store
) -> None:
    first, second = world.register(A), world.register(B)
    world.promote(first, indexes[A], None)
    refresh_with_added_notes(world, store, first, A)
    evenlater, seen = "11" * 16 + ".dir", []

    def refresh(step: Any) -> None:
        seen.append(step)
        if seen.count(Preparation.BUILD) == 1 and step is Preparation.BUILD:
            refresh_with_added_notes(world, store, first, A, evenlater, [*ADDED, "added-3"])

    promote_complete(world.promoter(), second, own(indexes[B]), first, WHY, workshop(store, refresh))
    assert seen == [*Preparation, *Preparation]
    assert world.in_use() == second
    assert "added-3" in served(world)


def test_another_champion_is_still_a_refusal(world: World, indexes: dict[str, Artifact], store: Store) -> None:
    first, second = world.register(A), world.register(B)
    world.promote(first, indexes[A], None)
    refresh_with_added_notes(world, store, first, A)
    before = world.pair()
    with pytest.raises(ChampionMoved, match="was compared with champion version 9"):
        promote_complete(world.promoter(), second, own(indexes[B]), "9", WHY, workshop(store))
    assert world.pair() == before


def test_a_version_in_use_keeps_its_refreshed_index(world: World, indexes: dict[str, Artifact], store: Store) -> None:
    first = world.register(A)
    world.promote(first, indexes[A], None)
    refreshed = refresh_with_added_notes(world, store, first, A)
    done = promote_complete(world.promoter(), first, own(indexes[A]), None, WHY, workshop(store))
    assert (done.entry, done.publication) == (None, refreshed)
    assert world.pair().publication == refreshed.version
