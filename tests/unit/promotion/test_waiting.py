"""Decisions that move nothing: a version waits, nobody decides, somebody refuses."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from notellm2.promotion.ledger import Ledger, pairs_in_use, refused, rolled_back, waits
from notellm2.promotion.release import Why
from notellm2.promotion.waiting import Notice, expiring, record, said, unsettled
from notellm2.registry import names
from notellm2.registry.decisions import Entry
from tests.unit.promotion.test_ledger import entry, pair
from tests.unit.registry.world import A, B, World

KIM = Why(by="Kim", reason="worse on short queries", mode="approval")


def decided(action: Any, version: str, **facts: Any) -> Entry:
    """A line that moves nothing; each its own."""
    facts = {"id": f"{action}-{version}-{facts.get('flow_run')}", "mode": "approval", "bundle": B, **facts}
    to = pair(version).model_copy(update={"publication": None})
    return entry(action, to, "1", **facts)


def waiting(entries: list[Entry]) -> list[str | None]:
    return [one.to.version for one in waits(entries)]


def test_lines_of_before_stay_as_they_were_written() -> None:
    line = entry("promote", "1", None).line()
    assert not any(field in line for field in (b"until", b"link", b"flow_run"))
    asked = decided("wait", "2", until="2026-11-25T10:00:00+00:00", link="http://prefect/r", flow_run="r")
    assert Entry.model_validate_json(asked.line()) == asked


def test_a_version_waits_until_somebody_decides_or_nobody_has() -> None:
    first = entry("promote", "1", None)
    assert waiting([first, decided("wait", "2")]) == ["2"]
    for end in (decided("refuse", "2"), decided("expire", "2"), entry("promote", "2", "1")):
        assert waiting([first, decided("wait", "2"), end]) == []
    # What waits was compared with the champion of that time.
    assert waiting([first, decided("wait", "2"), entry("promote", "3", "1")]) == []
    assert waiting([first, decided("wait", "2"), entry("refresh", pair("1", "v1-new"), "1")]) == ["2"]
    # Each has a form of its own; without one the newer challenger takes the older one's place.
    assert waiting([decided("wait", "2"), decided("wait", "3")]) == ["2", "3"]
    assert waiting([decided("wait", "2", mode="manual"), decided("wait", "3", mode="manual")]) == ["3"]


def test_what_a_person_refused_is_known_until_it_is_brought_into_use() -> None:
    told = [decided("wait", "2"), decided("refuse", "2", by="Kim", reason="not on a Friday")]
    against = refused(told, "2", B)
    assert against is not None
    assert (against.by, against.reason) == ("Kim", "not on a Friday")
    assert refused(told, "3", B) == against, "the same model, registered again"
    assert refused(told, "3", A) is None
    assert refused([*told, decided("wait", "2", flow_run="another")], "2", B) == against
    assert refused([*told, entry("promote", "2", "1", bundle=B)], "2", B) is None


def test_decisions_are_no_pairs_and_bring_nothing_back() -> None:
    moves = [entry("promote", "1", None, bundle=A), entry("promote", "2", "1", bundle=B)]
    back = entry("rollback", "1", "2", bundle=A)
    decisions = [decided(action, "2") for action in ("wait", "expire", "refuse")]
    assert pairs_in_use([*moves, *decisions]) == (pair("1"), pair("2"))
    assert rolled_back([*moves, back, *decisions], "2", B) == back


def test_a_form_is_unsettled_until_its_run_s_end_is_written_down() -> None:
    asked = decided("wait", "2", flow_run="r")
    assert unsettled([asked, entry("promote", "3", "1")]) == (asked,), "another came into use; its run still waits"
    assert unsettled([asked, decided("expire", "2", flow_run="r")]) == ()
    assert unsettled([decided("wait", "2")]) == ()


@pytest.mark.parametrize(
    ("now", "soon"), [("2026-11-24T21:00:00", False), ("2026-11-25T05:00:00", True), ("2026-11-25T11:00:00", False)]
)
def test_the_last_quarter_of_a_wait_is_said(now: str, soon: bool) -> None:
    asked = decided("wait", "2", until="2026-11-25T10:00:00+00:00")
    assert bool(expiring([asked], datetime.fromisoformat(now).replace(tzinfo=UTC))) is soon
    assert expiring([decided("wait", "2")], datetime.fromisoformat(now).replace(tzinfo=UTC)) == ()


def test_a_decision_is_a_line_of_the_ledger_and_a_tag_of_the_version(world: World) -> None:
    version = world.register(B)
    notice = Notice(version, B, ["once"], until="2026-11-25T10:00:00+00:00", link="http://prefect/runs/1")
    asked, new = record(world.promoter(), "wait", notice, KIM)
    assert new
    assert record(world.promoter(), "wait", notice, KIM) == (asked, False)
    tags = world.tracking.client.get_model_version(world.tracking.model_name, version).tags
    assert tags[names.DECISION].startswith("waits for a person since 20")
    assert tags[names.DECISION].endswith("until 2026-11-25 10:00 UTC: decide on http://prefect/runs/1")
    against, _ = record(world.promoter(), "refuse", Notice(version, B), KIM)
    tags = world.tracking.client.get_model_version(world.tracking.model_name, version).tags
    assert tags[names.DECISION] == said(against)
    assert "refused by Kim at" in tags[names.DECISION]
    described = world.tracking.client.get_model_version(world.tracking.model_name, version).description
    assert "**refused** by Kim (" in str(described)
    assert "(ledger 2)" in str(described)
    assert world.lines() == [("wait", version, None), ("refuse", version, None)]
    assert [one.sequence for one in Ledger(world.location).entries()] == [1, 2]
    gone, _ = record(world.promoter(), "refuse", Notice("99", A), KIM)
    assert gone.to.version == "99", "a version that was deleted meanwhile has no page"
