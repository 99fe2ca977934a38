"""Each user's history of first views and first clicks, in CSR form.

What counts, for a user u and a note n:

- *viewed* n: u has a source event on n; *clicked* n: u has a target event on n. One event can be both.
- Rows of a user are ordered by time, rows of equal time as in the file. Only the first view and the first
  click of a note count: a repeat is a habit, not a discovery.
- *u viewed A and then clicked B*: A's first view is on an earlier row, in that order, than B's first click. (Rows, not
  timestamps, so that bulk-entered behaviour keeps the order of its file.)
- symmetric: u clicked A and B, in any order; source events are not read.
- the history cap keeps a user's most recent notes (by the later of first view and first click) as material for pairs.
  N_u, viewers and clickers are counted before it: the cap bounds work (a history of h notes costs h^2), it does not
  change what a user did or how popular a note is.

Memory at 10 M rows: 8 bytes a row for the order of the events, 12 bytes a row at most for the histories.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from notellm2.pairs.events import Events

_INT32_MAX = np.iinfo(np.int32).max


@dataclass(frozen=True)
class Histories:
    """Users' histories: clicks in CSR form, and for each view the clicks that came after it.

    Attributes:
        click_indptr: int64[U + 1]; the clicks of user u are ``click_note[click_indptr[u]:click_indptr[u + 1]]``.
        click_note: int32[C], in the user's order.
        view_indptr: int64[U + 1].
        view_note: int32[V].
        view_start: int32[V]: a view is paired with the clicks of its user from this offset on (symmetric: 0).
        clicked: int32[U]: N_u, number of notes the user clicked, before the cap.
        viewers: int32[N]: users who viewed the note, before the cap (symmetric: who clicked it).
        clickers: int32[N]: users who clicked the note, before the cap.
        capped: number of users whose history was cut.
    """

    click_indptr: npt.NDArray[np.int64]
    click_note: npt.NDArray[np.int32]
    view_indptr: npt.NDArray[np.int64]
    view_note: npt.NDArray[np.int32]
    view_start: npt.NDArray[np.int32]
    clicked: npt.NDArray[np.int32]
    viewers: npt.NDArray[np.int32]
    clickers: npt.NDArray[np.int32]
    capped: int


def build_histories(events: Events, *, cap: int, symmetric: bool) -> Histories:
    """Order each user's rows, keep first views and first clicks, cut to the cap.

    Args:
        events: counted rows.
        cap: most recent notes of a user that count.
        symmetric: pair clicks with clicks in any order.
    """
    from notellm2.pairs import kernel  # imports numba

    rows = len(events.user)
    order, indptr = _ordered(events)
    click_note = np.empty(rows, np.int32)
    views = kernel.Views(np.zeros(len(indptr), np.int64), np.empty(rows, np.int32), np.empty(rows, np.int32))
    click_indptr, people, capped = kernel.collect(
        kernel.Rows(indptr, order, events.note, events.kind), events.n_notes, cap, symmetric, click_note, views
    )
    viewed, clicks = int(views.indptr[-1]), int(click_indptr[-1])
    return Histories(
        click_indptr=click_indptr,
        click_note=click_note[:clicks].copy(),
        view_indptr=views.indptr,
        view_note=views.note[:viewed].copy(),
        view_start=views.start[:viewed].copy(),
        clicked=people.clicked,
        viewers=people.viewers,
        clickers=people.clickers,
        capped=int(capped),
    )


def _ordered(events: Events) -> tuple[npt.NDArray[np.signedinteger[Any]], npt.NDArray[np.int64]]:
    """Rows by user, then time, then position in the file; and where each user's rows begin, int64[U + 1]."""
    from notellm2.pairs import kernel

    rows = len(events.user)
    size: type[np.signedinteger[Any]] = np.int32 if rows <= _INT32_MAX else np.int64
    if (events.time[1:] >= events.time[:-1]).all():
        by_time = np.arange(rows, dtype=size)
    else:
        by_time = np.argsort(events.time, kind="stable").astype(size)
    order = np.empty(rows, size)
    return order, kernel.group_by_user(events.user, by_time, events.n_users, order)
