from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from notellm2.pairs.events import read_events
from notellm2.pairs.histories import build_histories
from notellm2.pairs.mine import Mined, mine_pairs
from notellm2.recipe import PairsConfig
from tests.unit.pairs import naive
from tests.unit.pairs.conftest import Row, behaviour

NOTES = [f"n{i}" for i in range(8)]
LIKES = {"source_events": ("like",), "target_events": ("like",)}


def mined_from(
    rows: Sequence[Row],
    config: PairsConfig,
    members: Sequence[str] = NOTES,
    batches: int = 1,
    threads: int = 1,
) -> Mined:
    table = behaviour(rows)
    size = max(1, -(-len(rows) // batches))
    parts = [table.slice(i, size) for i in range(0, len(rows), size)]
    symmetric = config.direction == "symmetric"
    events = read_events(
        parts, pa.array(NOTES), source=() if symmetric else config.source_events, target=config.target_events
    )
    histories = build_histories(events, cap=config.history_cap, symmetric=symmetric)
    member = np.array([note in members for note in NOTES])
    return mine_pairs(histories, member, config, threads=threads)


def named(mined: Mined) -> list[naive.Pair]:
    columns = (mined.query.tolist(), mined.target.tolist(), mined.score.tolist(), mined.support.tolist())
    return [(NOTES[q], NOTES[t], s, n) for q, t, s, n in zip(*columns, strict=True)]


def rules(**changes: object) -> PairsConfig:
    return PairsConfig.model_validate({"min_support": 1, **changes})


rows_strategy = st.lists(
    st.tuples(
        st.sampled_from(["u0", "u1", "u2"]),
        st.sampled_from(NOTES),
        st.sampled_from(["view", "click", "like", "share"]),
        st.integers(0, 6),  # few distinct times: most rows tie
    ),
    min_size=25,  # long enough that caps below 8 notes bite and notes repeat
    max_size=70,
).map(lambda rows: [*rows, ("u0", "n0", "view", 0), ("u0", "n1", "like", 1)])


@pytest.mark.parametrize("score", ["notellm", "cosine"])
@pytest.mark.parametrize("direction", ["directed", "symmetric"])
@settings(max_examples=60, deadline=None, derandomize=True)
@given(data=st.data())
def test_kernel_agrees_with_the_definition(score: str, direction: str, data: st.DataObject) -> None:
    rows = data.draw(rows_strategy)
    config = rules(
        score=score,
        direction=direction,
        source_events=data.draw(st.sampled_from([("view",), ("view", "click"), ("view", "click", "like")])),
        target_events=data.draw(st.sampled_from([("like",), ("click", "like")])),
        history_cap=data.draw(st.integers(2, 9)),
        min_support=data.draw(st.integers(1, 3)),
        min_popularity=data.draw(st.integers(1, 3)),
        lower=data.draw(st.sampled_from([0.0, 0.2, 1 / 3, 0.5])),
        upper=data.draw(st.sampled_from([1e9, 1.0, 0.5])),
        top_t=data.draw(st.integers(1, 7)),
    )
    members = data.draw(st.sampled_from([NOTES, NOTES[::2], NOTES[3:]]))
    mined = mined_from(rows, config, members, batches=data.draw(st.integers(1, 4)))
    assert named(mined) == naive.mine(rows, NOTES, set(members), config, config.top_t)
    assert mined.candidates == len(mined) + sum(mined.dropped.values())
    everything = naive.mine(rows, NOTES, set(members), rules(**_loose(config)), len(NOTES))
    assert mined.candidates == len(everything)


def _loose(config: PairsConfig) -> dict[str, object]:
    kept = ("score", "direction", "source_events", "target_events", "history_cap")
    return {name: getattr(config, name) for name in kept}


def test_score_follows_the_paper() -> None:
    # u0 viewed n0 and clicked 2 notes after it, u1 clicked 1: s(n0 -> n1) = 1/2 + 1/1.
    rows: list[Row] = [
        ("u0", "n0", "view", 0),
        ("u0", "n1", "click", 1),
        ("u0", "n2", "click", 2),
        ("u1", "n0", "view", 0),
        ("u1", "n1", "click", 5),
    ]
    assert named(mined_from(rows, rules())) == [
        ("n0", "n1", 1.5, 2),
        ("n0", "n2", 0.5, 1),
        ("n1", "n2", 0.5, 1),  # a click counts as a view too
    ]


def test_cosine_divides_by_the_users_of_either_role() -> None:
    rows: list[Row] = [
        ("u0", "n0", "view", 0),
        ("u0", "n1", "like", 1),
        ("u1", "n0", "view", 0),
        ("u2", "n1", "like", 0),
        ("u3", "n1", "like", 0),
    ]
    (pair,) = named(mined_from(rows, rules(score="cosine", source_events=("view",))))
    assert pair == ("n0", "n1", float(np.float32(1 / np.sqrt(2 * 3))), 1)


def test_a_click_before_the_view_makes_no_pair() -> None:
    rows: list[Row] = [("u0", "n1", "click", 0), ("u0", "n0", "view", 1)]
    config = rules(source_events=("view",))
    assert named(mined_from(rows, config)) == []
    assert named(mined_from([*rows, ("u0", "n2", "click", 2)], config)) == [("n0", "n2", 0.5, 1)]


def test_equal_times_follow_the_file() -> None:
    forward: list[Row] = [("u0", "n0", "view", 3), ("u0", "n1", "like", 3)]
    config = rules(source_events=("view",))
    assert named(mined_from(forward, config)) == [("n0", "n1", 1.0, 1)]
    assert named(mined_from(forward[::-1], config)) == []


def test_repeats_of_a_user_count_once() -> None:
    rows: list[Row] = [("u0", note, event, t) for t in range(5) for note, event in (("n0", "view"), ("n1", "like"))]
    assert named(mined_from(rows, rules(source_events=("view",)))) == [("n0", "n1", 1.0, 1)]


def test_symmetric_pairs_come_in_both_directions_with_one_score() -> None:
    rows: list[Row] = [(u, n, "like", t) for t, (u, n) in enumerate([("u0", "n3"), ("u0", "n1"), ("u1", "n1")])]
    config = rules(score="cosine", direction="symmetric", **LIKES)
    score = float(np.float32(1 / np.sqrt(2)))
    assert named(mined_from(rows, config)) == [("n1", "n3", score, 1), ("n3", "n1", score, 1)]


def test_cap_keeps_the_most_recent_notes_and_leaves_counts_alone() -> None:
    rows: list[Row] = [("u0", note, "like", t) for t, note in enumerate(NOTES)]
    pairs = named(mined_from(rows, rules(direction="symmetric", history_cap=3, **LIKES)))
    assert {note for pair in pairs for note in pair[:2]} == set(NOTES[-3:])
    assert {pair[2] for pair in pairs} == {0.125}  # N_u = 8 notes, not 3


def test_repeats_do_not_use_up_the_cap() -> None:
    notes = ["n0", "n1", "n2", "n2", "n2"]
    rows: list[Row] = [("u0", note, "like", t) for t, note in enumerate(notes)]
    pairs = named(mined_from(rows, rules(direction="symmetric", history_cap=2, **LIKES)))
    assert [pair[:2] for pair in pairs] == [("n1", "n2"), ("n2", "n1")]


def test_ties_go_to_support_then_to_the_earlier_note() -> None:
    # n5 and n2 tie at 1 (n5 by two users of weight 1/2); n1 and n3 tie at 1/2 by one user each.
    rows: list[Row] = [
        ("u0", "n0", "view", 0),
        ("u0", "n5", "like", 1),
        ("u0", "n3", "like", 2),
        ("u1", "n0", "view", 0),
        ("u1", "n5", "like", 1),
        ("u1", "n1", "like", 2),
        ("u2", "n0", "view", 0),
        ("u2", "n2", "like", 1),
    ]
    config = rules(source_events=("view",))
    assert [(p[1], p[2]) for p in named(mined_from(rows, config))] == [
        ("n5", 1.0),
        ("n2", 1.0),
        ("n1", 0.5),
        ("n3", 0.5),
    ]
    assert [p[1] for p in named(mined_from(rows, rules(source_events=("view",), top_t=3)))] == ["n5", "n2", "n1"]


def test_result_does_not_depend_on_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("notellm2.pairs.mine._BLOCK", 1)
    rng = np.random.default_rng(5)
    rows: list[Row] = [
        (f"u{rng.integers(40)}", NOTES[rng.integers(8)], str(rng.choice(["view", "like"])), int(rng.integers(50)))
        for _ in range(600)
    ]
    one = mined_from(rows, rules(top_t=4), threads=1)
    three = mined_from(rows, rules(top_t=4), threads=3)
    assert named(one) == named(three)
    assert len(one) == 32
    assert one.dropped == three.dropped


def test_mask_counts_what_it_drops() -> None:
    rows: list[Row] = [("u0", note, "like", t) for t, note in enumerate(NOTES[:3])]
    mined = mined_from(rows, rules(direction="symmetric", **LIKES))
    kept = mined.where(mined.query == 0, "not_first")
    assert (len(mined), len(kept), kept.dropped["not_first"]) == (6, 2, 4)
