"""Co-occurrence mining within one split: from histories to scored pairs (NoteLLM, section 4.3).

The score of A -> B over the users u who viewed A and then clicked B (symmetric: clicked both) is

- notellm: the sum of 1 / N_u, N_u the number of notes u clicked: heavy users do not define relatedness;
- cosine: their number / sqrt(viewers of A * clickers of B) (symmetric: clickers of both): popular notes do not either.

Support is the number of those users. Each query keeps its `top_t` best targets: by score, then support, then data set
order. The result depends on neither the number of threads nor their timing.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from notellm2.pairs.histories import Histories
from notellm2.recipe import PairsConfig

if TYPE_CHECKING:
    from notellm2.pairs import kernel

_Part = tuple[npt.NDArray[np.int32], npt.NDArray[np.int32], npt.NDArray[np.float32], npt.NDArray[np.int32]]

REASONS = ("support", "popularity", "lower", "upper", "top_t")
"""Why a candidate pair was dropped, in the order of the tests and of the kernel's tally."""

RELATED = 512
"""Related notes of a query that are looked at, the best first."""

_BLOCK = 256
"""Queries a thread takes at once: few calls, and an even load where some queries have far more users than others."""


@dataclass(frozen=True)
class Mined:
    """Pairs, ordered by query in data set order, then score, support (descending) and target.

    Attributes:
        query: int32[P], row of the note in the data set.
        target: int32[P], same.
        score: float32[P].
        support: int32[P], users behind the pair.
        candidates: pairs with at least one user.
        dropped: candidates that were dropped, by reason (`REASONS`).
    """

    query: npt.NDArray[np.int32]
    target: npt.NDArray[np.int32]
    score: npt.NDArray[np.float32]
    support: npt.NDArray[np.int32]
    candidates: int
    dropped: dict[str, int]

    def __len__(self) -> int:
        return len(self.query)

    def where(self, mask: npt.NDArray[np.bool_], reason: str) -> Mined:
        """Return the pairs under a mask, bool[P]; the others are counted as dropped for `reason`."""
        dropped = {**self.dropped, reason: int(np.count_nonzero(~mask))}
        return Mined(
            self.query[mask], self.target[mask], self.score[mask], self.support[mask], self.candidates, dropped
        )


def mine_pairs(
    histories: Histories,
    member: npt.NDArray[np.bool_],
    config: PairsConfig,
    *,
    top_t: int | None = None,
    threads: int | None = None,
) -> Mined:
    """Score and select pairs between the notes of one split.

    Args:
        histories: of the behaviour that this split may see.
        member: bool[N], the split's notes.
        config: score, thresholds and bounds; shares, seeds and protocol are not read.
        top_t: targets kept for each query; None: the configured number.
        threads: None: one for each CPU this process may use.
    """
    work = _Work.prepare(histories, member, config, config.top_t if top_t is None else top_t)
    workers = max(1, min(threads or _usable_cpus(), len(work.blocks)))
    with ThreadPoolExecutor(workers, thread_name_prefix="mine") as pool:
        tallies = [future.result() for future in [pool.submit(work.run) for _ in range(workers)]]
    tally = np.sum(tallies, axis=0)
    parts = [work.parts[number] for number in range(len(work.blocks))]
    query, target, score, support = zip(*parts, strict=True) if parts else ((), (), (), ())
    return Mined(
        query=np.concatenate(query, dtype=np.int32) if query else np.empty(0, np.int32),
        target=np.concatenate(target, dtype=np.int32) if target else np.empty(0, np.int32),
        score=np.concatenate(score, dtype=np.float32) if score else np.empty(0, np.float32),
        support=np.concatenate(support, dtype=np.int32) if support else np.empty(0, np.int32),
        candidates=int(tally[0]),
        dropped={reason: int(n) for reason, n in zip(REASONS, tally[1:], strict=True)},
    )


def related_pairs(histories: Histories, member: npt.NDArray[np.bool_], config: PairsConfig, kept: Mined) -> Mined:
    """Find notes that behaviour relates to a query almost as much as its kept pairs: no good negatives of it.

    `top_t` and `min_support` make the kept pairs few and sure. What is left out is not unrelated: on a film data set
    every ninth random negative scores at least half of its query's weakest kept pair.

    Args:
        histories, member, config: as for the kept pairs; `related_share` is set.
        kept: pairs of `mine_pairs`; queries without any have no related notes.

    Returns:
        Pairs that score at least ``related_share`` of their query's weakest kept one and are not kept themselves; of
        each query the best `RELATED` are looked at.
    """
    loose = config.model_copy(update={"min_support": 1, "lower": 0.0})
    near = mine_pairs(histories, member, loose, top_t=RELATED)
    weakest = np.full(len(member), np.inf, np.float32)
    np.minimum.at(weakest, kept.query, kept.score)
    related = near.score >= np.float32(config.related_share or 1.0) * weakest[near.query]
    codes = [pairs.query.astype(np.int64) * len(member) + pairs.target for pairs in (near, kept)]
    return near.where(related & ~np.isin(codes[0], codes[1]), "unrelated")


@dataclass
class _Work:
    """Blocks of queries that threads take one by one, and the pairs of each finished block by its number."""

    index: kernel.QueryIndex
    people: kernel.People
    rules: kernel.Rules
    blocks: list[npt.NDArray[np.int32]]
    top_t: int
    parts: dict[int, _Part]
    numbers: _Shared

    @classmethod
    def prepare(cls, histories: Histories, member: npt.NDArray[np.bool_], config: PairsConfig, top_t: int) -> _Work:
        from notellm2.pairs import kernel  # imports numba

        index = kernel.index_by_query(
            np.ascontiguousarray(member),
            kernel.Clicks(histories.click_indptr, histories.click_note),
            kernel.Views(histories.view_indptr, histories.view_note, histories.view_start),
        )
        people = kernel.People(histories.clicked, histories.viewers, histories.clickers)
        cosine = config.score == "cosine"
        rules = kernel.Rules(cosine, config.min_support, config.min_popularity, config.lower, config.upper)
        queries = np.flatnonzero(np.diff(index.indptr)).astype(np.int32)
        blocks = [queries[i : i + _BLOCK] for i in range(0, len(queries), _BLOCK)]
        return cls(index, people, rules, blocks, top_t, {}, _Shared(iter(range(len(blocks)))))

    def run(self) -> npt.NDArray[np.int64]:
        """Mine blocks until none is left; returns the tally of candidates and dropped ones."""
        from notellm2.pairs import kernel

        # Scratch is made once a thread, not once a block: it is as long as the data set has notes.
        n_notes, t = len(self.people.viewers), self.top_t
        scratch = kernel.Scratch(
            np.zeros(n_notes, np.float64), np.zeros(n_notes, np.int32), np.empty(n_notes, np.int32)
        )
        tally = np.zeros(1 + len(REASONS), np.int64)
        for number in self.numbers:
            block = self.blocks[number]
            shape = (len(block), t)
            best = kernel.Best(
                target=np.empty(shape, np.int32),
                score=np.empty(shape, np.float32),
                support=np.empty(shape, np.int32),
                counts=np.empty(len(block), np.int32),
                tally=tally,
            )
            kernel.count(block, self.index, self.people, self.rules, scratch, best)
            filled = np.arange(t) < best.counts[:, None]
            query = np.repeat(block, best.counts)
            self.parts[number] = (query, best.target[filled], best.score[filled], best.support[filled])
        return tally


def _usable_cpus() -> int:
    """CPUs this process may use: fewer than the machine has under taskset or in a container (Linux only)."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class _Shared:
    """An iterator that several threads draw from."""

    def __init__(self, items: Iterator[int]) -> None:
        self._items = items
        self._lock = threading.Lock()

    def __iter__(self) -> Iterator[int]:
        return self

    def __next__(self) -> int:
        with self._lock:
            return next(self._items)
