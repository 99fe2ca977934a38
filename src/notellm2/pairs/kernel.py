"""The compiled loops of mining: group rows, collect histories, index them by query, count and select.

Why own loops: the work is the sum over users of history^2 additions into a dense array, without a hash table, a join
or an intermediate row. Scratch is O(notes) a thread. `benchmarks/mining.py` compares it with SQL and sparse products.

The functions are plain NumPy loops that numba turns into machine code (nopython, without the GIL); arrays that belong
together are one NamedTuple, which numba passes at no cost. Numba is imported with this module and takes a second, so
callers import it when they mine. Numba's own parallel loops are not used: their OpenMP layer would be one more runtime
beside torch's or faiss's, and threads over blocks of queries (see `mine`) are deterministic, as each query is summed by
one thread in order of users.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from notellm2.pairs.compilation import compiled
from notellm2.pairs.events import SOURCE, TARGET

Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]
Index = npt.NDArray[np.signedinteger[Any]]
"""Row numbers: int32 as long as they fit."""


class Rows(NamedTuple):
    """Events grouped by user.

    Attributes:
        indptr: int64[U + 1], from `group_by_user`.
        order: int[R], same.
        note: int32[R].
        kind: uint8[R].
    """

    indptr: Int64
    order: Index
    note: Int32
    kind: npt.NDArray[np.uint8]


class Clicks(NamedTuple):
    """Users' clicks: those of user u are ``note[indptr[u]:indptr[u + 1]]``; int64[U + 1] and int32[C]."""

    indptr: Int64
    note: Int32


class Views(NamedTuple):
    """Users' views: int64[U + 1], int32[V], and the offset of the first click after each view, int32[V].

    Offsets are within the user's clicks and never fall within a user.
    """

    indptr: Int64
    note: Int32
    start: Int32


class People(NamedTuple):
    """How much users and notes did: clicks of a user int32[U] (N_u), viewers and clickers of a note int32[N]."""

    clicked: Int32
    viewers: Int32
    clickers: Int32


class QueryIndex(NamedTuple):
    """From a note to the users who viewed it, for the notes of one split.

    Attributes:
        clicks: of the split's notes only.
        indptr: int64[N + 1]; the views of note n are at ``indptr[n]`` to ``indptr[n + 1]``.
        user: int32[Q], in order of users.
        start: int32[Q], offset of the first click after the view.
    """

    clicks: Clicks
    indptr: Int64
    user: Int32
    start: Int32


class Rules(NamedTuple):
    """How pairs are scored and which are dropped.

    Attributes:
        cosine: score by common users / sqrt(viewers * clickers); else by the sum of 1 / N_u (NoteLLM, 4.3).
        min_support: fewest users behind a pair.
        min_popularity: fewest viewers of the query and fewest clickers of the target.
        lower: least score.
        upper: largest score.
    """

    cosine: bool
    min_support: int
    min_popularity: int
    lower: float
    upper: float


class Scratch(NamedTuple):
    """Work space of one thread.

    Attributes:
        total: float64[N], zeros; left as zeros.
        users: int32[N], zeros; left as zeros.
        touched: int32[N].
    """

    total: npt.NDArray[np.float64]
    users: Int32
    touched: Int32


class Best(NamedTuple):
    """The best targets of q queries, and what was dropped.

    Attributes:
        target: int32[q, t], each query's targets: by score, then support descending, then data set order.
        score: float32[q, t].
        support: int32[q, t].
        counts: int32[q], number of targets of each query.
        tally: int64[6], raised by the number of candidates, then of those dropped by each of `mine.REASONS`.
    """

    target: Int32
    score: npt.NDArray[np.float32]
    support: Int32
    counts: Int32
    tally: Int64


@compiled
def group_by_user(user: Int32, by_time: Index, n_users: int, order: Index) -> Int64:
    """Order rows by user, keeping their order within each user (a counting sort).

    Args:
        user: int32[R].
        by_time: int[R], all rows in the order to keep. Sorting by time is left to NumPy: its sort in numba takes 3 s
            to compile, and exports mostly are in order already.
        n_users: number of users U.
        order: int[R], filled with row numbers.

    Returns:
        int64[U + 1]: where each user's rows begin in `order`.
    """
    indptr = np.zeros(n_users + 1, np.int64)
    for row in range(len(user)):
        indptr[user[row] + 1] += 1
    for u in range(n_users):
        indptr[u + 1] += indptr[u]
    position = indptr[:-1].copy()
    for i in range(len(by_time)):
        u = user[by_time[i]]
        order[position[u]] = by_time[i]
        position[u] += 1
    return indptr


@compiled
def _oldest_kept(row_notes: Int32, first_view: Int64, first_click: Int64, cap: int) -> int:
    """Position from which on a user's `cap` most recent notes lie; there must be more than `cap`."""
    oldest = len(row_notes)
    left = cap
    while left > 0:
        oldest -= 1
        n = row_notes[oldest]
        if max(first_view[n], first_click[n]) == oldest:
            left -= 1
    return oldest


@compiled
def collect(
    rows: Rows, n_notes: int, cap: int, symmetric: bool, click_note: Int32, views: Views
) -> tuple[Int64, People, int]:
    """Collect first views and first clicks of every user; `histories.Histories` says what the results mean.

    Args:
        rows: the events.
        n_notes: N.
        cap: most recent notes of a user that are kept.
        symmetric: each click is also a view, to be paired with all clicks.
        click_note: int32[R], filled from the front.
        views: zeros, int64[U + 1], int32[R] and int32[R]; filled from the front.

    Returns: click_indptr int64[U + 1], counts of users and notes, number of users cut to the cap.
    """
    n_users = len(rows.indptr) - 1
    click_indptr = np.zeros(n_users + 1, np.int64)
    people = People(np.zeros(n_users, np.int32), np.zeros(n_notes, np.int32), np.zeros(n_notes, np.int32))
    first_view = np.full(n_notes, -1, np.int64)  # of the current user: position of a note's first view, -1 for none
    first_click = np.full(n_notes, -1, np.int64)
    clicks = viewed = capped = 0
    for u in range(n_users):
        low = rows.indptr[u]
        own = rows.order[low : rows.indptr[u + 1]]
        distinct = 0
        for p in range(len(own)):
            n = rows.note[own[p]]
            click = rows.kind[own[p]] & TARGET != 0
            view = click if symmetric else rows.kind[own[p]] & SOURCE != 0
            if (view or click) and first_view[n] < 0 and first_click[n] < 0:
                distinct += 1
            if view and first_view[n] < 0:
                first_view[n] = p
                people.viewers[n] += 1
            if click and first_click[n] < 0:
                first_click[n] = p
                people.clickers[n] += 1
                people.clicked[u] += 1
        oldest = 0
        if distinct > cap:
            capped += 1
            oldest = _oldest_kept(rows.note[own], first_view, first_click, cap)
        begin = clicks
        for p in range(len(own)):
            n = rows.note[own[p]]
            if max(first_view[n], first_click[n]) < oldest:
                continue
            if first_click[n] == p:
                click_note[clicks] = n
                clicks += 1
            if first_view[n] == p:
                # After the click of the same row: a note is never followed by itself.
                views.note[viewed] = n
                views.start[viewed] = 0 if symmetric else clicks - begin
                viewed += 1
        for row in own:
            first_view[rows.note[row]] = first_click[rows.note[row]] = -1
        click_indptr[u + 1] = clicks
        views.indptr[u + 1] = viewed
    return click_indptr, people, capped


@compiled
def _clicks_of(member: npt.NDArray[np.bool_], clicks: Clicks) -> Clicks:
    """The clicks on one split's notes."""
    n_users = len(clicks.indptr) - 1
    indptr = np.zeros(n_users + 1, np.int64)
    kept = 0
    for u in range(n_users):
        for i in range(clicks.indptr[u], clicks.indptr[u + 1]):
            if member[clicks.note[i]]:
                kept += 1
        indptr[u + 1] = kept
    note = np.empty(kept, np.int32)
    position = 0
    for i in range(len(clicks.note)):
        if member[clicks.note[i]]:
            note[position] = clicks.note[i]
            position += 1
    return Clicks(indptr, note)


@compiled
def index_by_query(member: npt.NDArray[np.bool_], clicks: Clicks, views: Views) -> QueryIndex:
    """Keep one split's notes and turn views around: from a note to the users who viewed it.

    Views that no click of another note can follow are left out where that is plain (none left after them).

    Args:
        member: bool[N], the split's notes.
        clicks: of all notes.
        views: of all notes.
    """
    n_users = len(clicks.indptr) - 1
    n_notes = len(member)
    kept = _clicks_of(member, clicks)
    start = np.full(len(views.note), -1, np.int32)  # -1: not in the split, or nothing follows
    indptr = np.zeros(n_notes + 1, np.int64)
    for u in range(n_users):
        i = clicks.indptr[u]
        passed = 0
        total = kept.indptr[u + 1] - kept.indptr[u]
        for v in range(views.indptr[u], views.indptr[u + 1]):
            while i < clicks.indptr[u] + views.start[v]:
                if member[clicks.note[i]]:
                    passed += 1
                i += 1
            if member[views.note[v]] and passed < total:
                start[v] = passed
                indptr[views.note[v] + 1] += 1
    for n in range(n_notes):
        indptr[n + 1] += indptr[n]
    query_user = np.empty(indptr[n_notes], np.int32)
    query_start = np.empty(indptr[n_notes], np.int32)
    position = indptr[:-1].copy()
    for u in range(n_users):
        for v in range(views.indptr[u], views.indptr[u + 1]):
            if start[v] >= 0:
                at = position[views.note[v]]
                query_user[at] = u
                query_start[at] = start[v]
                position[views.note[v]] += 1
    return QueryIndex(kept, indptr, query_user, query_start)


@compiled
def _sum_users(query: int, index: QueryIndex, clicked: Int32, cosine: bool, scratch: Scratch) -> int:
    """Add up the users behind every target of a query; returns how many targets `scratch.touched` then names."""
    touched = 0
    for i in range(index.indptr[query], index.indptr[query + 1]):
        u = index.user[i]
        weight = 1.0 / clicked[u]
        for j in range(index.clicks.indptr[u] + index.start[i], index.clicks.indptr[u + 1]):
            n = index.clicks.note[j]
            if scratch.users[n] == 0:
                scratch.touched[touched] = n
                touched += 1
            scratch.users[n] += 1
            if not cosine:
                scratch.total[n] += weight
    return touched


@compiled
def _insert(best: Best, q: int, size: int, n: int, score: np.float32, support: int) -> int:
    """Put a target in its place among the `size` best of query q, if it is one of them; returns the new size."""
    top_t = best.target.shape[1]
    rank = size
    while rank > 0:
        s = best.score[q, rank - 1]
        c = best.support[q, rank - 1]
        if s > score or (s == score and (c > support or (c == support and best.target[q, rank - 1] < n))):
            break
        rank -= 1
    if rank == top_t:
        return size
    if size < top_t:
        size += 1
    for k in range(size - 1, rank, -1):
        best.target[q, k] = best.target[q, k - 1]
        best.score[q, k] = best.score[q, k - 1]
        best.support[q, k] = best.support[q, k - 1]
    best.target[q, rank] = n
    best.score[q, rank] = score
    best.support[q, rank] = support
    return size


@compiled
def count(queries: Int32, index: QueryIndex, people: People, rules: Rules, scratch: Scratch, best: Best) -> None:
    """Score every target of some queries and keep the best of each in `best`.

    Scores are summed in float64 and rounded to float32, the type they are published in, before they are compared:
    bounds and ties then mean what a reader of the file sees. `queries`: int32[q], notes.
    """
    least, most = np.float32(rules.lower), np.float32(rules.upper)
    tally = best.tally
    for q in range(len(queries)):
        query = queries[q]
        touched = _sum_users(query, index, people.clicked, rules.cosine, scratch)
        size = 0
        passed = 0
        for i in range(touched):
            n = scratch.touched[i]
            common = scratch.users[n]
            value = scratch.total[n]
            scratch.users[n] = 0
            scratch.total[n] = 0.0
            if n == query:
                continue
            tally[0] += 1
            if common < rules.min_support:
                tally[1] += 1
                continue
            if people.viewers[query] < rules.min_popularity or people.clickers[n] < rules.min_popularity:
                tally[2] += 1
                continue
            if rules.cosine:
                value = common / np.sqrt(np.float64(people.viewers[query]) * np.float64(people.clickers[n]))
            rounded = np.float32(value)
            if rounded < least:
                tally[3] += 1
                continue
            if rounded > most:
                tally[4] += 1
                continue
            passed += 1
            size = _insert(best, q, size, n, rounded, common)
        best.counts[q] = size
        tally[5] += passed - size
