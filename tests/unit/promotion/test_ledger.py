from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from notellm2.promotion.history import render
from notellm2.promotion.index_retention import names_to_keep
from notellm2.promotion.ledger import LEDGER, Ledger, LedgerDamaged, pairs_in_use, rolled_back
from notellm2.publication.opening import open_location
from notellm2.publication.pointer import Publication
from notellm2.registry.decisions import Action, Entry, Pair


def pair(version: str | None, publication: str | None = None) -> Pair:
    return Pair(version=version, publication=publication or (version and f"v{version}"))


def entry(action: Action, to: Pair | str, over: Pair | str | None, **facts: Any) -> Entry:
    to, over = (p if isinstance(p, Pair) else pair(p) for p in (to, over))
    told: dict[str, Any] = {
        "id": f"{action}-{to.publication}-{over.publication}",
        "at": "2026-11-24T10:00:00+00:00",
        "action": action,
        "model": "notes",
        "to": to,
        "over": over,
        "bundle": "b" * 20,
        "compared_with": over.version,
        "mode": "automatic",
        "by": "a test",
        "reason": "because",
    }
    return Entry(**{**told, **facts})


def publication(version: str, name: str) -> Publication:
    return Publication(
        version=name,
        model_name="notes",
        model_version=version,
        bundle="b" * 20,
        data_md5="1.dir",
        index_key="k",
        kind="flat",
        dimension=8,
        count=1,
        published="2026-11-24T10:00:00+00:00",
        files={},
    )


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(open_location(tmp_path))


def test_lines_are_appended_numbered_and_linked(ledger: Ledger, tmp_path: Path) -> None:
    assert ledger.entries() == ()
    first = ledger.append(entry("promote", "1", None))
    before = (tmp_path / LEDGER).read_bytes()
    second = ledger.append(entry("promote", "2", "1"))
    assert (tmp_path / LEDGER).read_bytes().startswith(before), "what is written stays as it is"
    assert ledger.entries() == (first, second)
    assert [e.sequence for e in ledger.entries()] == [1, 2]
    assert (first.previous, len(second.previous)) == ("", 16)
    assert json.loads((tmp_path / LEDGER).read_text().splitlines()[1])["over"] == {"version": "1", "publication": "v1"}


def test_the_same_change_is_written_once(ledger: Ledger) -> None:
    first = ledger.append(entry("promote", "1", None))
    assert ledger.append(entry("promote", "1", None, recovered=True)) == first
    assert ledger.entries() == (first,)


def test_writers_at_once_lose_no_line(ledger: Ledger) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: ledger.append(entry("promote", str(n), None)), range(40)))
    assert sorted(int(str(e.to.version)) for e in ledger.entries()) == list(range(40))


@pytest.mark.parametrize(
    ("harm", "line"),
    [
        (lambda lines: [lines[0].replace(b"because", b"of luck"), *lines[1:]], 2),
        (lambda lines: lines[1:], 1),
        (lambda lines: [lines[0], *lines[2:]], 2),
        (lambda lines: [lines[1], lines[0], lines[2]], 1),
        (lambda lines: [*lines[:2], lines[2][:20]], 3),
        (lambda lines: [*lines, b"\n"], 4),
        (lambda lines: [*lines[:2], lines[2].replace(b'"format":1', b'"format":2')], 3),
    ],
    ids=["changed", "first removed", "removed", "swapped", "torn", "empty line", "another format"],
)
def test_a_line_that_was_tampered_with_is_named(ledger: Ledger, tmp_path: Path, harm: Any, line: int) -> None:
    for version, over in (("1", None), ("2", "1"), ("3", "2")):
        ledger.append(entry("promote", version, over))
    path = tmp_path / LEDGER
    path.write_bytes(b"".join(harm(path.read_bytes().splitlines(keepends=True))))
    with pytest.raises(LedgerDamaged, match=f"ledger.jsonl line {line}: .*move it aside"):
        ledger.entries()
    with pytest.raises(LedgerDamaged):
        ledger.append(entry("promote", "4", "3"))


def test_rollbacks_take_pairs_off_and_promotions_add_them() -> None:
    a, b, c = pair("1"), pair("2"), pair("3")
    told = [entry("promote", a, pair(None)), entry("promote", b, a), entry("promote", c, b)]
    assert pairs_in_use([]) == ()
    assert pairs_in_use(told) == (a, b, c)
    told.append(entry("rollback", b, c))
    assert pairs_in_use(told) == (a, b)
    assert pairs_in_use([*told, entry("rollback", c, b)]) == (a, b, c)
    refreshed = pair("2", "v2-new")
    assert pairs_in_use([*told, entry("refresh", refreshed, b)]) == (a, b, refreshed)
    assert pairs_in_use([*told, entry("promote", a, b)]) == (b, a), "a pair that is back counts once"
    assert pairs_in_use([*told, entry("mend", b, Pair(version="9", publication="v2"))]) == (a, b)
    # The ledger was begun when something was in use already.
    assert pairs_in_use([entry("promote", b, a)]) == (a, b)


def test_what_a_person_took_out_of_use_is_known_until_it_is_brought_back() -> None:
    a, b = "a" * 20, "b" * 20
    told = [entry("promote", "1", None, bundle=a), entry("promote", "2", "1", bundle=b)]
    assert rolled_back(told, "2", b) is None
    told.append(entry("rollback", "1", "2", reason="clicks fell", bundle=a))
    found = rolled_back(told, "2", b)
    assert found is not None
    assert found.reason == "clicks fell"
    assert rolled_back(told, "1", a) is None
    assert rolled_back(told, "3", b) == found, "the same model, registered again"
    assert rolled_back(told, "3", "c" * 20) is None
    assert rolled_back([*told, entry("promote", "2", "1", bundle=b)], "2", b) is None
    # Back to an earlier index of the same version says nothing against the version.
    assert rolled_back([entry("rollback", pair("1"), pair("1", "v1-new"), bundle=a)], "1", a) is None


def test_publications_kept_are_the_last_ones_and_one_of_each_recent_version() -> None:
    told = [entry("promote", "1", None), entry("promote", "2", "1")]
    refreshes = [pair("2", f"v2-{n}") for n in range(4)]
    told += [entry("refresh", to, over) for over, to in zip([pair("2"), *refreshes], refreshes, strict=False)]
    assert names_to_keep(told, {}, (), keep=2) == {"v2-3", "v2-2", "v1"}
    assert names_to_keep(told, {}, (), keep=1) == {"v2-3"}
    assert names_to_keep([], {}, ("1",), keep=3) == set()


def test_a_mended_alias_is_no_pair_to_keep() -> None:
    """Its line names the version the alias had strayed to beside an index of another one."""
    told = [entry("promote", "1", None), entry("promote", "2", "1")]
    told += [entry("refresh", pair("2", f"v2-{n}"), pair("2", f"v2-{n - 1}")) for n in range(1, 4)]
    told.append(entry("mend", pair("2", "v2-3"), Pair(version="1", publication="v2-3")))
    assert names_to_keep(told, {}, (), keep=2) == {"v2-3", "v2-2", "v1"}


def test_an_index_refreshed_every_hour_does_not_fill_the_disk_while_its_version_has_an_alias() -> None:
    told = [entry("promote", "1", None)]
    told += [entry("refresh", pair("1", f"v1-{n}"), pair("1", f"v1-{n - 1}")) for n in range(1, 30)]
    stored = {f"v1-{n}": publication("1", f"v1-{n}") for n in reversed(range(1, 30))}
    stored |= {"v2-new": publication("2", "v2-new"), "v2-old": publication("2", "v2-old")}
    # A challenger's is kept though it was never in use: its promotion is to come.
    assert names_to_keep(told, stored, ("1", "2"), keep=3) == {"v1-29", "v1-28", "v1-27", "v2-new"}


def test_history_is_a_table_with_the_pair_in_use_marked() -> None:
    assert "nothing has been promoted yet" in render([])
    told = [
        entry("promote", "1", None, sequence=1),
        entry("promote", "2", "1", sequence=2, compared_with=None, mode="manual", by="kim", reason="a\nlong " * 30),
        entry("rollback", "1", "2", sequence=3, recovered=True),
    ]
    head, *lines = render(told).splitlines()
    assert head.split() == ["#", "when", "(UTC)", "action", "version", "over", "index", "by", "why"]
    assert [line.startswith("*") for line in lines] == [False, False, True]
    assert "1 (gate: none)" in lines[1]
    assert lines[1].endswith("…")
    assert "promote (manual)" in lines[1]
    assert "finished by the next start" in lines[2]
