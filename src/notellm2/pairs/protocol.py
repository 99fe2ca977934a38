"""From mined pairs of held-out notes to test pairs and the pool they are searched in.

Two protocols. ``paper`` (NoteLLM-2, section 4.1): of the pairs keep, in file order, those in which neither note
appeared in an earlier kept pair, in either role; the pool is every held-out note that is not a query.
``best-partner``: each held-out note's best held-out partner; the pool is the held-out notes with at least
`min_popularity` users who clicked them, so the queries themselves too (a query is never its own neighbour).
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt

from notellm2.pairs.mine import Mined

Protocol = Literal["paper", "best-partner"]


def targets_per_query(protocol: Protocol, top_t: int) -> int:
    """Return how many targets of a query to mine for the protocol."""
    return 1 if protocol == "best-partner" else top_t


def unseen(query: npt.NDArray[np.int32], target: npt.NDArray[np.int32]) -> npt.NDArray[np.bool_]:
    """Mark which pairs, read in order, have neither note in an earlier kept pair.

    Args:
        query: int32[P], rows of notes.
        target: int32[P], same.

    Returns:
        bool[P]; no note occurs twice among the pairs under it.
    """
    seen: set[int] = set()
    keep = np.zeros(len(query), bool)
    for i, (a, b) in enumerate(zip(query.tolist(), target.tolist(), strict=True)):
        if a not in seen and b not in seen:
            seen.update((a, b))
            keep[i] = True
    return keep


def held_out_pairs(
    mined: Mined,
    member: npt.NDArray[np.bool_],
    clickers: npt.NDArray[np.int32],
    *,
    protocol: Protocol,
    min_popularity: int,
) -> tuple[Mined, npt.NDArray[np.int32]]:
    """Apply the protocol to the mined pairs of one held-out split.

    Args:
        mined: pairs with `targets_per_query` targets a query.
        member: bool[N], the split's notes.
        clickers: int32[N], users who clicked each note, in the behaviour the split may see.
        protocol: see the module.
        min_popularity: fewest clickers of a note in the pool; ``best-partner`` only.

    Returns:
        the pairs kept, and the pool: int32, rows of notes in data set order. Every kept target is in the pool.
    """
    if protocol == "best-partner":
        return mined, np.flatnonzero(member & (clickers >= min_popularity)).astype(np.int32)
    kept = mined.where(unseen(mined.query, mined.target), "repeated_note")
    pool = member.copy()
    pool[kept.query] = False
    return kept, np.flatnonzero(pool).astype(np.int32)
