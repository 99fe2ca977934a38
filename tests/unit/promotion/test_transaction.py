from __future__ import annotations

import errno
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from notellm2.artifacts import Artifact, Store
from notellm2.errors import InputError
from notellm2.index.layout import INDEX
from notellm2.promotion import release, transaction
from notellm2.promotion.journal import JOURNAL, LeaseTaken, hold, read_intent
from notellm2.promotion.ledger import LEDGER, Ledger, LedgerDamaged
from notellm2.promotion.transaction import ChampionMoved, Step
from notellm2.publication.pointer import POINTER, PublicationDamaged, read_pointer
from notellm2.publication.publish import PublishFailed
from notellm2.registry import names, versions
from notellm2.registry.decisions import Pair
from notellm2.registry.tracking import Tracking
from tests.unit.registry.world import WHY, A, B, World, index_of


def test_alias_and_pointer_move_together_and_the_ledger_says_so(world: World, indexes: dict[str, Artifact]) -> None:
    one, two = world.register(A), world.register(B)
    first = world.promote(one, indexes[A], None)
    assert world.in_use() == one
    second = world.promote(two, indexes[B], one)
    assert world.in_use() == two
    assert second.publication.bundle == B
    entries = Ledger(world.location).entries()
    assert entries == (first.entry, second.entry)
    assert (entries[1].to, entries[1].over) == (
        Pair(version=two, publication=second.publication.version),
        Pair(version=one, publication=first.publication.version),
    )
    assert (entries[1].by, entries[1].reason, entries[1].mode, entries[1].bundle) == (
        "a test",
        "because",
        "automatic",
        B,
    )
    assert read_intent(world.location) is None
    registered = world.tracking.client.get_model_version(world.tracking.model_name, two)
    tags, said = registered.tags, str(registered.description)
    minute = second.entry.at.replace("T", " ")[:16]
    assert f"{minute} UTC: **put into use, in the place of version {one}** by a test (automatic): because" in said
    assert tags[names.PUBLISHED] == f"{world.location}/{second.publication.folder}"
    replaced = world.tracking.client.get_model_version(world.tracking.model_name, one).description
    assert f"**replaced by version {two}** by a test" in str(replaced)
    assert tags[names.PROMOTED_OVER] == one
    assert tags[names.PROMOTED_AT] == second.entry.at


def test_what_is_in_use_already_is_left_as_it_is(world: World, indexes: dict[str, Artifact]) -> None:
    one = world.register(A)
    world.promote(one, indexes[A], None)
    before = {path: path.read_bytes() for path in world.published.glob("*") if path.name in (POINTER, LEDGER)}
    again = world.promote(one, indexes[A], "99")
    assert again.entry is None
    assert again.publication.model_version == one
    assert {path: path.read_bytes() for path in before} == before


def test_another_index_of_the_champion_is_a_refresh(world: World, indexes: dict[str, Artifact]) -> None:
    one = world.register(A)
    first = world.promote(one, indexes[A], None)
    refreshed = world.promote(one, indexes["refreshed"], None)
    assert refreshed.entry.action == "refresh"
    assert world.in_use() == one
    assert world.pair().publication == refreshed.publication.version != first.publication.version
    world.promoter().rollback(WHY, index=True)
    assert world.pair() == Pair(version=one, publication=first.publication.version)


def test_a_champion_that_is_another_one_by_now_is_a_refusal(world: World, indexes: dict[str, Artifact]) -> None:
    one, two, three = world.register(A), world.register(B), world.register(B)
    world.promote(one, indexes[A], None)
    world.promote(two, indexes[B], one)
    before = world.pair()
    for wrong in (None, one, three):
        with pytest.raises(ChampionMoved, match=f"by now there is champion version {two}"):
            world.promote(three, indexes[B], wrong)
    assert world.pair() == before
    assert len(world.lines()) == 2
    assert read_intent(world.location) is None
    assert versions.get_version(world.tracking, three).promoted_at is None


def test_an_index_of_another_bundle_is_refused_before_anything_moves(
    world: World, indexes: dict[str, Artifact]
) -> None:
    two = world.register(B)
    with pytest.raises(InputError, match=f"holds vectors of bundle {A}"):
        world.promote(two, indexes[A], None)
    assert world.pair() == Pair(version=None, publication=None)
    assert not world.published.exists()


def test_an_unknown_version_is_an_input_error(world: World, indexes: dict[str, Artifact]) -> None:
    world.register(A)
    with pytest.raises(InputError, match="version '7'"):
        world.promote("7", indexes[A], None)


def test_a_promotion_waits_for_the_other_and_then_says_who_it_is(world: World, indexes: dict[str, Artifact]) -> None:
    one = world.register(A)
    other = hold(world.location, "promoting version 9", lease_s=60, wait_s=0)
    with other, pytest.raises(LeaseTaken, match="promoting version 9"):
        world.promote(one, indexes[A], None)
    world.promote(one, indexes[A], None)
    assert world.in_use() == one


def test_rolling_back_goes_back_one_by_one_and_never_forward(world: World, indexes: dict[str, Artifact]) -> None:
    one, two, three = world.register(A), world.register(B), world.register(A)
    world.promote(one, indexes[A], None)
    world.promote(two, indexes[B], one)
    world.promote(three, indexes[A], two)
    back = world.promoter().rollback(WHY.model_copy(update={"reason": "clicks fell"}))
    assert world.in_use() == two
    assert back.entry is not None
    assert (back.entry.action, back.entry.reason, back.entry.over.version) == ("rollback", "clicks fell", three)
    world.promoter().rollback(WHY)
    assert world.in_use() == one
    with pytest.raises(InputError, match=f"no earlier version.*version {three}"):
        world.promoter().rollback(WHY)
    # By name it goes anywhere that was in use, forward too.
    world.promoter().rollback(WHY, to=three)
    assert world.in_use() == three
    assert world.lines()[3:] == [("rollback", two, three), ("rollback", one, two), ("rollback", three, one)]
    with pytest.raises(InputError, match="in use already"):
        world.promoter().rollback(WHY, to=three)


def test_rolling_back_after_a_refresh_leaves_the_bad_model(world: World, indexes: dict[str, Artifact]) -> None:
    one, two = world.register(A), world.register(B)
    first = world.promote(one, indexes[A], None)
    refreshed = world.promote(one, indexes["refreshed"], None)
    world.promote(two, indexes[B], one)
    world.promote(two, index_of(Store(indexes[B].path.parents[1]), B, seed=11), two)
    assert [line[0] for line in world.lines()] == ["promote", "refresh", "promote", "refresh"]
    plan = world.promoter().plan_rollback()
    assert plan.publication.version == refreshed.publication.version, "the newest index of the version before"
    world.promoter().rollback(WHY)
    assert world.pair() == Pair(version=one, publication=refreshed.publication.version)
    with pytest.raises(InputError, match=r"no earlier version.*--index"):
        world.promoter().rollback(WHY)
    world.promoter().rollback(WHY, index=True)
    assert world.pair() == Pair(version=one, publication=first.publication.version)


def test_a_rollback_that_was_shown_is_not_done_to_something_else(world: World, indexes: dict[str, Artifact]) -> None:
    one, two, three = world.register(A), world.register(B), world.register(B)
    world.promote(one, indexes[A], None)
    world.promote(two, indexes[B], one)
    plan = world.promoter().plan_rollback()
    world.promote(three, indexes[B], two)
    with pytest.raises(ChampionMoved, match="nothing was changed"):
        world.promoter().rollback(WHY, to=plan.publication.version, over=plan.over)
    assert world.in_use() == three


def test_rolling_back_only_goes_to_what_was_in_use_and_is_kept(world: World, indexes: dict[str, Artifact]) -> None:
    one, two = world.register(A), world.register(B)
    with pytest.raises(InputError, match="no earlier version"):
        world.promoter().rollback(WHY)
    world.promote(one, indexes[A], None)
    with pytest.raises(InputError, match="no published index of that version is kept"):
        world.promoter().rollback(WHY, to="7")
    with pytest.raises(ChampionMoved):
        world.promote(two, indexes[B], "99")
    # Its index was stored before it was refused.
    with pytest.raises(InputError, match=f"version {two} was never champion"):
        world.promoter().rollback(WHY, to=two)
    assert world.in_use() == one


def test_a_pair_whose_files_are_damaged_is_no_place_to_go_back_to(world: World, indexes: dict[str, Artifact]) -> None:
    one, two = world.register(A), world.register(B)
    first = world.promote(one, indexes[A], None)
    world.promote(two, indexes[B], one)
    path = world.published / first.publication.folder / INDEX
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(PublicationDamaged, match="nothing was changed"):
        world.promoter().rollback(WHY)
    assert world.in_use() == two
    assert read_intent(world.location) is None


def test_a_damaged_pointer_refuses_promotions_and_a_rollback_writes_it_anew(
    world: World, indexes: dict[str, Artifact]
) -> None:
    one, two = world.register(A), world.register(B)
    world.promote(one, indexes[A], None)
    (world.published / POINTER).write_text("{")
    with pytest.raises(PublicationDamaged, match="notellm2 rollback --to"):
        world.promote(two, indexes[B], one)
    world.promoter().rollback(WHY, to=one)
    assert world.in_use() == one


def test_a_pointer_to_nothing_is_left_by_a_promotion_and_never_gone_back_to(
    world: World, indexes: dict[str, Artifact]
) -> None:
    one, two, three = world.register(A), world.register(B), world.register(A)
    world.promote(one, indexes[A], None)
    second = world.promote(two, indexes[B], one)
    shutil.rmtree(world.published / second.publication.folder)
    world.promote(three, indexes[A], two)
    assert world.in_use() == three
    world.promoter().rollback(WHY)
    assert world.in_use() == one, "the pair before is gone, so the one before that"
    with pytest.raises(InputError, match="no published index of that version is kept"):
        world.promoter().rollback(WHY, to=two)


def test_an_alias_moved_by_hand_is_put_back_where_the_readers_are(world: World, indexes: dict[str, Artifact]) -> None:
    one, two = world.register(A), world.register(B)
    world.promote(one, indexes[A], None)
    world.tracking.client.set_registered_model_alias(world.tracking.model_name, names.CHAMPION, two)
    world.promoter().recover()
    assert world.in_use() == one
    assert world.lines()[-1] == ("mend", one, two)
    before = (world.published / JOURNAL).read_bytes()
    world.promoter().recover()
    assert (world.published / JOURNAL).read_bytes() == before, "nothing to settle: the lease is not even taken"


def test_a_registry_begun_anew_does_not_mend_towards_another_model(world: World, indexes: dict[str, Artifact]) -> None:
    world.promote(world.register(A), indexes[A], None)
    anew = World(world.tracking, world.published)
    client, name = world.tracking.client, world.tracking.model_name
    client.delete_registered_model(name)
    one = anew.register(B)
    anew.promoter().recover()
    assert anew.pair().version is None
    anew.promote(one, indexes[B], None)
    assert anew.in_use() == one


def test_another_model_is_not_published_at_the_same_address(world: World, indexes: dict[str, Artifact]) -> None:
    import dataclasses

    world.promote(world.register(A), indexes[A], None)
    other = World(dataclasses.replace(world.tracking, model_name=world.tracking.model_name + "-b"), world.published)
    with pytest.raises(InputError, match="use another store"):
        other.promote(other.register(A), indexes[A], None)


@pytest.mark.parametrize("at", [Step.ALIAS, Step.POINTER, Step.LEDGER, Step.TAGS, Step.CLEAR])
def test_an_error_at_any_step_is_settled_at_once(world: World, indexes: dict[str, Artifact], at: Step) -> None:
    one, two = world.register(A), world.register(B)
    world.promote(one, indexes[A], None)
    failed = False

    def fail(step: Step) -> None:
        nonlocal failed
        if step is at and not failed:
            failed = True
            raise OSError(errno.EIO, "the network is gone")

    with pytest.raises(OSError, match="the network is gone"):
        world.promote(two, indexes[B], one, on_step=fail)
    assert world.in_use() == (one if at in (Step.ALIAS, Step.POINTER) else two)
    assert read_intent(world.location) is None
    assert [line[0] for line in world.lines()] == ["promote"] * (1 if at in (Step.ALIAS, Step.POINTER) else 2)


@pytest.mark.parametrize("full", [POINTER, JOURNAL, LEDGER])
def test_a_full_disk_leaves_one_pair_and_the_next_start_ends_it(
    world: World, indexes: dict[str, Artifact], full: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No write of that file succeeds until there is room again."""
    import notellm2.artifacts

    one, two = world.register(A), world.register(B)
    world.promote(one, indexes[A], None)
    write: Callable[..., None] = notellm2.artifacts.write_atomic

    def refuse(path: Path, content: Any) -> None:
        if path.name == full:
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        write(path, content)

    with monkeypatch.context() as patch:
        patch.setattr(notellm2.artifacts, "write_atomic", refuse)
        with pytest.raises((OSError, PublishFailed), match="No space left"):
            world.promote(two, indexes[B], one)
    assert read_pointer(world.published).model_version == (two if full == LEDGER else one)
    world.promoter(wait_s=5).recover()
    assert world.in_use() == (two if full == LEDGER else one)
    assert read_intent(world.location) is None
    assert [e.recovered for e in Ledger(world.location).entries()] == [False] + [True] * (full == LEDGER)


def test_a_ledger_that_was_tampered_with_stops_the_next_change(world: World, indexes: dict[str, Artifact]) -> None:
    one, two = world.register(A), world.register(B)
    world.promote(one, indexes[A], None)
    path = world.published / LEDGER
    path.write_text(path.read_text().replace("because", "of luck"))
    world.promote(one, indexes[A], None)
    path.write_text(path.read_text() + "{}\n")
    with pytest.raises(LedgerDamaged, match="line 2"):
        world.promote(two, indexes[B], one)
    assert world.in_use() == one


def test_published_indexes_are_kept_for_the_last_pairs_and_versions(
    world: World, indexes: dict[str, Artifact], monkeypatch: pytest.MonkeyPatch
) -> None:
    retain = transaction.publish.retain
    monkeypatch.setattr(transaction.publish, "retain", lambda place, keep: retain(place, keep, older_than_s=-1))
    numbers = [world.register(B if i % 2 else A) for i in range(5)]
    published = []
    for i, number in enumerate(numbers):
        expected = numbers[i - 1] if i else None
        published.append(world.promote(number, indexes[B if i % 2 else A], expected, keep=3).publication.version)
    assert set(transaction.publish.versions(world.published)) == set(published[-3:])
    # Refreshing an index often does not push earlier models out.
    for index in (indexes["refreshed"], indexes[A], indexes["refreshed"]):
        world.promote(numbers[-1], index, None, keep=3)
    stored = {p.model_version for p in transaction.publish.versions(world.published).values()}
    assert stored == set(numbers[-3:])
    world.promoter(keep=3).rollback(WHY, to=numbers[2])
    assert world.in_use() == numbers[2]


def test_an_old_index_that_cannot_be_removed_does_not_undo_a_promotion(
    world: World, indexes: dict[str, Artifact], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: Any) -> None:
        raise OSError("permission denied")

    monkeypatch.setattr(transaction.publish, "retain", refuse)
    one = world.register(A)
    world.promote(one, indexes[A], None, keep=3)
    assert world.in_use() == one
    assert "old published indexes stay until the next promotion: permission denied" in caplog.text
    two = world.register(B)
    world.promote(two, indexes[B], one)
    assert caplog.text.count("permission denied") == 1, "without a number nothing is removed"


def test_every_step_is_passed_once_and_in_order(world: World, indexes: dict[str, Artifact]) -> None:
    """The fault tests kill a process at each of them: none must be missing."""
    seen: list[Step] = []
    world.promote(world.register(A), indexes[A], None, on_step=seen.append)
    assert seen == list(Step)


def test_a_settled_change_is_logged(
    world: World, indexes: dict[str, Artifact], caplog: pytest.LogCaptureFixture
) -> None:
    one = world.register(A)

    def die(step: Step) -> None:
        if step is Step.POINTER:
            raise KeyboardInterrupt

    with caplog.at_level(logging.WARNING), pytest.raises(KeyboardInterrupt):
        world.promote(one, indexes[A], None, on_step=die)
    assert "undoing: promote of version 1" in caplog.text
    assert world.pair() == Pair(version=None, publication=None)


def test_the_same_on_s3(tracking: Tracking, s3_place: str, indexes: dict[str, Artifact]) -> None:
    world = World(tracking, s3_place)
    one, two, three = world.register(A), world.register(B), world.register(B)
    world.promote(one, indexes[A], None)
    world.promote(two, indexes[B], one)
    with pytest.raises(ChampionMoved):
        world.promote(three, indexes[B], one)

    def die(step: Step) -> None:
        if step is Step.TAGS:
            raise SystemExit

    with pytest.raises(SystemExit):
        world.promote(three, indexes[B], two, on_step=die)
    world.promoter().recover()
    assert world.in_use() == three
    world.promoter().rollback(WHY)
    assert world.in_use() == two
    assert world.lines() == [
        ("promote", one, None),
        ("promote", two, one),
        ("promote", three, two),
        ("rollback", two, three),
    ]
    with hold(world.location, "another", lease_s=60, wait_s=0), pytest.raises(LeaseTaken, match="another"):
        world.promoter().rollback(WHY)


def test_the_person_and_the_host_are_told_where_the_system_knows_no_name(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "@" in transaction.this_actor()

    def nameless() -> str:
        raise KeyError("uid not found")

    monkeypatch.setattr(release.getpass, "getuser", nameless)
    assert transaction.this_actor().startswith("uid-")
