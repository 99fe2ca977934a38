from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from notellm2.errors import InputError
from notellm2.processes import process_tag
from notellm2.promotion.journal import JOURNAL, LeaseLost, LeaseTaken, hold, read_intent
from notellm2.publication.location import Location
from notellm2.publication.opening import open_location
from tests.unit.promotion.test_ledger import entry


@pytest.fixture
def location(tmp_path: Path) -> Location:
    return open_location(tmp_path)


def lease_of(location: Location) -> dict[str, Any] | None:
    stored = location.read(JOURNAL)
    assert stored is not None
    lease: dict[str, Any] | None = json.loads(stored.data)["lease"]
    return lease


def change(location: Location, **facts: Any) -> None:
    """Somebody else's hand in the journal's lease."""
    stored = location.read(JOURNAL)
    assert stored is not None
    state = json.loads(stored.data)
    state["lease"] |= facts
    location.swap(JOURNAL, json.dumps(state).encode(), stored.tag)


def ended_process() -> str:
    done = subprocess.run(
        [sys.executable, "-c", "from notellm2.processes import process_tag; print(process_tag())"],
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


def test_one_holds_it_and_gives_it_back(location: Location) -> None:
    with hold(location, "promoting", lease_s=60, wait_s=0) as held:
        lease = lease_of(location)
        assert lease is not None
        assert (lease["holder"], lease["purpose"]) == (process_tag(), "promoting")
        waited: list[float] = []
        other = hold(location, "another", lease_s=60, wait_s=0, on_wait=waited.append)
        with pytest.raises(LeaseTaken, match=r"under way by .* \(promoting, since"), other:
            pass
        assert held.intent is None
    assert lease_of(location) is None
    with hold(location, "another", lease_s=60, wait_s=0):
        pass


def test_who_waits_gets_it_when_it_is_free(location: Location) -> None:
    first = hold(location, "first", lease_s=60, wait_s=0)
    first.__enter__()
    turns = 0

    def wait(_seconds: float) -> None:
        nonlocal turns
        turns += 1
        if turns == 3:
            first.__exit__(None, None, None)

    with hold(location, "second", lease_s=60, wait_s=60, on_wait=wait):
        assert turns == 3


def test_an_intent_outlives_its_holder_and_the_next_one_sees_it(location: Location) -> None:
    intent = entry("promote", "2", "1")

    def die() -> None:
        with hold(location, "first", lease_s=60, wait_s=0) as held:
            held.record(intent)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        die()
    assert lease_of(location) is None
    assert read_intent(location) == intent
    with hold(location, "second", lease_s=60, wait_s=0) as held:
        assert held.intent == intent
        held.record(None)
    assert read_intent(location) is None


def test_an_expired_lease_is_taken_over_and_its_holder_stops_at_its_next_write(location: Location) -> None:
    def sleep_too_long() -> None:
        with hold(location, "slow", lease_s=60, wait_s=0) as slow:
            change(location, expires=0)
            with hold(location, "quick", lease_s=60, wait_s=0) as quick:
                with pytest.raises(LeaseLost):
                    slow.record(entry("promote", "2", "1"))
                quick.renew()
                assert quick.intent is None
            slow.renew()

    with pytest.raises(LeaseLost, match="taken over"):
        sleep_too_long()
    assert lease_of(location) is None


@pytest.mark.parametrize("renewed", ["renew", "record"])
def test_every_write_makes_the_lease_last_longer(location: Location, renewed: str) -> None:
    with hold(location, "long", lease_s=60, wait_s=0) as held:
        before = lease_of(location)
        held.record(held.intent) if renewed == "record" else held.renew()
        after = lease_of(location)
    assert before is not None
    assert after is not None
    assert after["expires"] > before["expires"]
    assert after["token"] == before["token"]


def test_the_lease_of_a_process_of_this_machine_that_has_ended_is_free_at_once(location: Location) -> None:
    dead = ended_process()
    for facts, free in (
        ({"holder": dead}, True),
        ({"holder": dead, "namespace": "pid:[1]"}, False),  # a container's numbers say nothing here
        ({"holder": "another-host:1:0"}, False),
        ({"holder": "another-host:1:0", "expires": 0}, True),
    ):
        stored = location.read(JOURNAL)
        if stored is not None:
            (Path(str(location)) / JOURNAL).unlink()
        first = hold(location, "first", lease_s=60, wait_s=0)
        first.__enter__()
        change(location, **facts)
        second = hold(location, "second", lease_s=60, wait_s=0)
        if free:
            with second:
                pass
        else:
            with pytest.raises(LeaseTaken), second:
                pass


@pytest.mark.parametrize("content", ["{", "[]", '{"lease": 3}', '{"format": 9}'])
def test_a_journal_that_is_none_says_how_to_go_on(location: Location, content: str) -> None:
    (Path(str(location)) / JOURNAL).write_text(content)
    with pytest.raises(InputError, match=r"promotion\.json: .*(remove it|use the release)"):
        read_intent(location)
    with pytest.raises(InputError), hold(location, "first", lease_s=60, wait_s=0):
        pass


def test_a_place_that_refuses_is_an_os_error_and_nothing_is_held(
    location: Location, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> str:
        raise OSError(os.strerror(28))

    monkeypatch.setattr(type(location), "swap", full)
    with pytest.raises(OSError, match="No space"), hold(location, "first", lease_s=60, wait_s=0):
        pass
    assert location.read(JOURNAL) is None
