"""The compiled loops of mining: group rows, collect histories, index them by query, count and select.

Why own loops: the work is the sum over users of history^2 additions into a dense array, without a hash table, a join
or an intermediate row. Scratch is O(notes) a thread. `benchmarks/mining.py` compares it with SQL and sparse products.

The functions are plain NumPy loops; `compiled` turns one into machine code with numba (nopython, without the GIL).
Numba's own parallel loops are not used: their OpenMP layer would be one more runtime beside torch's or faiss's, and
threads over blocks of queries (see `mine`) are deterministic, as each query is summed by one thread in order of users.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

SOURCE, TARGET = 1, 2
"""Bits of an event's kind: counts as viewing, counts as clicking."""

REASONS = ("support", "popularity", "lower", "upper", "top_t")
"""Why a candidate pair was dropped, in the order of the tests and of `count`'s tally."""

Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]
Index = npt.NDArray[np.signedinteger[Any]]
"""Row numbers: int32 as long as they fit."""


@functools.cache
def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function of this module as machine code, compiled at its first call and kept on disk where that is possible.

    Numba keeps it in ``__pycache__`` or the user's cache folder; where neither can be written (a read-only install
    without a home) it refuses to cache, and we compile in each process instead (a few seconds).
    """
    import numba

    try:
        return numba.njit(cache=True, nogil=True)(function)
    except RuntimeError as error:
        if "cannot cache" not in str(error):
            raise
        return numba.njit(nogil=True)(function)


def group_by_user(user: Int32, by_time: Index, n_users: int, order: Index) -> Int64:
    """Order rows by user, keeping a given order within each user (a counting sort).

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
    place = indptr[:-1].copy()
    for i in range(len(by_time)):
        u = user[by_time[i]]
        order[place[u]] = by_time[i]
        place[u] += 1
    return indptr


def collect(
    indptr: Int64,
    order: Index,
    note: Int32,
    kind: npt.NDArray[np.uint8],
    n_notes: int,
    cap: int,
    symmetric: bool,
    click_note: Int32,
    view_note: Int32,
    view_start: Int32,
) -> tuple[Int64, Int64, Int32, Int32, Int32, int]:
    """First views and first clicks of every user; `histories.Histories` says what the results mean.

    Args:
        indptr: int64[U + 1], from `group_by_user`.
        order: int[R], same.
        note: int32[R].
        kind: uint8[R].
        n_notes: number of notes N.
        cap: most recent notes of a user that are kept.
        symmetric: each click is also a view, to be paired with all clicks.
        click_note: int32[R], filled from the front.
        view_note: int32[R], same.
        view_start: int32[R], same.

    Returns:
        click_indptr, view_indptr, clicked, viewers, clickers, number of users cut to the cap.
    """
    n_users = len(indptr) - 1
    click_indptr = np.zeros(n_users + 1, np.int64)
    view_indptr = np.zeros(n_users + 1, np.int64)
    clicked = np.zeros(n_users, np.int32)
    viewers = np.zeros(n_notes, np.int32)
    clickers = np.zeros(n_notes, np.int32)
    first_view = np.full(n_notes, -1, np.int64)  # of the current user: position of a note's first view, -1 for none
    first_click = np.full(n_notes, -1, np.int64)
    clicks = views = capped = 0
    for u in range(n_users):
        low = indptr[u]
        length = indptr[u + 1] - low
        distinct = 0
        for p in range(length):
            row = order[low + p]
            n = note[row]
            click = kind[row] & TARGET != 0
            view = click if symmetric else kind[row] & SOURCE != 0
            if (view or click) and first_view[n] < 0 and first_click[n] < 0:
                distinct += 1
            if view and first_view[n] < 0:
                first_view[n] = p
                viewers[n] += 1
            if click and first_click[n] < 0:
                first_click[n] = p
                clickers[n] += 1
                clicked[u] += 1
        oldest = 0
        if distinct > cap:
            capped += 1
            oldest = length
            left = cap
            while left > 0:
                oldest -= 1
                n = note[order[low + oldest]]
                if max(first_view[n], first_click[n]) == oldest:
                    left -= 1
        begin = clicks
        for p in range(length):
            n = note[order[low + p]]
            if max(first_view[n], first_click[n]) < oldest:
                continue
            if first_click[n] == p:
                click_note[clicks] = n
                clicks += 1
            if first_view[n] == p:
                # After the click of the same row: a note is never followed by itself.
                view_note[views] = n
                view_start[views] = 0 if symmetric else clicks - begin
                views += 1
        for p in range(length):
            n = note[order[low + p]]
            first_view[n] = -1
            first_click[n] = -1
        click_indptr[u + 1] = clicks
        view_indptr[u + 1] = views
    return click_indptr, view_indptr, clicked, viewers, clickers, capped


def index_by_query(
    member: npt.NDArray[np.bool_],
    click_indptr: Int64,
    click_note: Int32,
    view_indptr: Int64,
    view_note: Int32,
    view_start: Int32,
) -> tuple[Int64, Int32, Int64, Int32, Int32]:
    """Keep one split's notes and turn views around: from a note to the users who viewed it.

    Args:
        member: bool[N], the split's notes.
        click_indptr: int64[U + 1], and the rest as in `histories.Histories`.
        click_note: int32[C].
        view_indptr: int64[U + 1].
        view_note: int32[V].
        view_start: int32[V], never falling within a user.

    Returns:
        kept click_indptr int64[U + 1] and click_note int32[C']; query_indptr int64[N + 1], query_user int32[Q] in
        order of users, query_start int32[Q]: offset of the first click after the view. Views that no click of
        another note can follow are left out where that is plain (none left after them).
    """
    n_users = len(click_indptr) - 1
    n_notes = len(member)
    kept_indptr = np.zeros(n_users + 1, np.int64)
    kept = 0
    for u in range(n_users):
        for i in range(click_indptr[u], click_indptr[u + 1]):
            if member[click_note[i]]:
                kept += 1
        kept_indptr[u + 1] = kept
    kept_note = np.empty(kept, np.int32)
    start = np.full(len(view_note), -1, np.int32)  # -1: not in the split, or nothing follows
    query_indptr = np.zeros(n_notes + 1, np.int64)
    for u in range(n_users):
        place = kept_indptr[u]
        for i in range(click_indptr[u], click_indptr[u + 1]):
            if member[click_note[i]]:
                kept_note[place] = click_note[i]
                place += 1
        i = click_indptr[u]
        passed = 0
        total = kept_indptr[u + 1] - kept_indptr[u]
        for v in range(view_indptr[u], view_indptr[u + 1]):
            while i < click_indptr[u] + view_start[v]:
                if member[click_note[i]]:
                    passed += 1
                i += 1
            if member[view_note[v]] and passed < total:
                start[v] = passed
                query_indptr[view_note[v] + 1] += 1
    for n in range(n_notes):
        query_indptr[n + 1] += query_indptr[n]
    query_user = np.empty(query_indptr[n_notes], np.int32)
    query_start = np.empty(query_indptr[n_notes], np.int32)
    places = query_indptr[:-1].copy()
    for u in range(n_users):
        for v in range(view_indptr[u], view_indptr[u + 1]):
            if start[v] >= 0:
                at = places[view_note[v]]
                query_user[at] = u
                query_start[at] = start[v]
                places[view_note[v]] += 1
    return kept_indptr, kept_note, query_indptr, query_user, query_start


def count(
    queries: Int32,
    click_indptr: Int64,
    click_note: Int32,
    query_indptr: Int64,
    query_user: Int32,
    query_start: Int32,
    clicked: Int32,
    viewers: Int32,
    clickers: Int32,
    cosine: bool,
    min_support: int,
    min_popularity: int,
    lower: float,
    upper: float,
    total: npt.NDArray[np.float64],
    users: Int32,
    touched: Int32,
    target: npt.NDArray[np.int32],
    score: npt.NDArray[np.float32],
    support: npt.NDArray[np.int32],
    kept: Int32,
    tally: Int64,
) -> None:
    """Score every target of some queries and keep the best of each.

    Scores are summed in float64 and rounded to float32, the type they are published in, before they are compared:
    bounds and ties then mean what a reader of the file sees.

    Args:
        queries: int32[q], notes.
        click_indptr: int64[U + 1], and the four after it from `index_by_query`.
        click_note: int32[C'].
        query_indptr: int64[N + 1].
        query_user: int32[Q].
        query_start: int32[Q].
        clicked: int32[U], N_u.
        viewers: int32[N], users of a note as a query.
        clickers: int32[N], users of a note as a target.
        cosine: score by common users / sqrt(viewers * clickers); else by the sum of 1 / N_u (NoteLLM, 4.3).
        min_support: fewest users behind a pair.
        min_popularity: fewest viewers of the query and fewest clickers of the target.
        lower: least score.
        upper: largest score.
        total: float64[N], zeros; scratch, left as zeros.
        users: int32[N], zeros; scratch, left as zeros.
        touched: int32[N]; scratch.
        target: int32[q, t], filled with each query's targets: score, then support descending, then data set order.
        score: float32[q, t], same.
        support: int32[q, t], same.
        kept: int32[q], filled with the number of targets of each query.
        tally: int64[6], raised by the number of candidates, then of those dropped by each of `REASONS`.
    """
    least, most = np.float32(lower), np.float32(upper)
    top_t = target.shape[1]
    for q in range(len(queries)):
        query = queries[q]
        n_touched = 0
        for i in range(query_indptr[query], query_indptr[query + 1]):
            u = query_user[i]
            weight = 1.0 / clicked[u]
            for j in range(click_indptr[u] + query_start[i], click_indptr[u + 1]):
                n = click_note[j]
                if users[n] == 0:
                    touched[n_touched] = n
                    n_touched += 1
                users[n] += 1
                if not cosine:
                    total[n] += weight
        size = 0
        passed = 0
        for i in range(n_touched):
            n = touched[i]
            common = users[n]
            value = total[n]
            users[n] = 0
            total[n] = 0.0
            if n == query:
                continue
            tally[0] += 1
            if common < min_support:
                tally[1] += 1
                continue
            if viewers[query] < min_popularity or clickers[n] < min_popularity:
                tally[2] += 1
                continue
            if cosine:
                value = common / np.sqrt(np.float64(viewers[query]) * np.float64(clickers[n]))
            rounded = np.float32(value)
            if rounded < least:
                tally[3] += 1
                continue
            if rounded > most:
                tally[4] += 1
                continue
            passed += 1
            place = size
            while place > 0:
                s = score[q, place - 1]
                c = support[q, place - 1]
                if s > rounded or (s == rounded and (c > common or (c == common and target[q, place - 1] < n))):
                    break
                place -= 1
            if place == top_t:
                continue
            if size < top_t:
                size += 1
            for k in range(size - 1, place, -1):
                target[q, k] = target[q, k - 1]
                score[q, k] = score[q, k - 1]
                support[q, k] = support[q, k - 1]
            target[q, place] = n
            score[q, place] = rounded
            support[q, place] = common
        kept[q] = size
        tally[5] += passed - size
