from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from notellm2.pairs.mine import Mined
from notellm2.pairs.protocol import held_out_pairs, targets_per_query, unseen


def pairs_of(pairs: list[tuple[int, int]]) -> Mined:
    query, target = (np.array([p[i] for p in pairs], np.int32) for i in (0, 1))
    return Mined(query, target, np.ones(len(pairs), np.float32), np.ones(len(pairs), np.int32), len(pairs), {})


def test_paper_reads_pairs_in_order() -> None:
    kept, pool = held_out_pairs(
        pairs_of([(0, 1), (0, 2), (1, 3), (2, 0), (2, 4), (5, 3)]),
        np.array([True] * 6 + [False, True]),
        np.zeros(8, np.int32),
        protocol="paper",
        min_popularity=3,
    )
    assert list(zip(kept.query.tolist(), kept.target.tolist(), strict=True)) == [(0, 1), (2, 4), (5, 3)]
    assert kept.dropped == {"repeated_note": 3}
    assert pool.tolist() == [1, 3, 4, 7]  # every test note that is no query, whatever its popularity


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.lists(st.tuples(st.integers(0, 12), st.integers(0, 12)).filter(lambda p: p[0] != p[1]), max_size=60))
def test_unseen_is_the_greedy_matching(pairs: list[tuple[int, int]]) -> None:
    mined = pairs_of(pairs)
    keep = unseen(mined.query, mined.target)
    kept = [p for p, k in zip(pairs, keep, strict=True) if k]
    assert len({note for pair in kept for note in pair}) == 2 * len(kept)
    used: set[int] = set()
    for pair, k in zip(pairs, keep, strict=True):
        assert k == used.isdisjoint(pair)
        if k:
            used.update(pair)


def test_best_partner_pools_the_popular() -> None:
    mined = pairs_of([(0, 1), (1, 0)])
    kept, pool = held_out_pairs(
        mined,
        np.array([True, True, False, True, True]),
        np.array([5, 3, 9, 2, 3], np.int32),
        protocol="best-partner",
        min_popularity=3,
    )
    assert kept is mined
    assert pool.tolist() == [0, 1, 4]


def test_best_partner_mines_one_target() -> None:
    assert (targets_per_query("best-partner", 10), targets_per_query("paper", 10)) == (1, 10)
