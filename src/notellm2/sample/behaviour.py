"""The sample's behaviour: a week in which users with hidden interests view, click and like notes.

What a user wants is mostly a *combination*: a subject (in the text) together with a motif (in the picture), in a style
they like. Others want a motif alone and follow the notes without words. So which notes are viewed and clicked
together depends on text and picture at once, and neither explains half of it. On top: a skewed popularity, attention
for new notes, random browsing, light and heavy users, sessions, hours of the day.

Weights are integers and random numbers are drawn as integers: sums are exact in any order, so the same events come
out on every machine.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from notellm2.sample.text import chance

WEEK_START = datetime(2025, 3, 3, tzinfo=UTC)
SECOND = 1_000_000  # microseconds
DAY = 86_400 * SECOND
WEEK = 7 * DAY
HOURS = (3, 2, 1, 1, 1, 2, 5, 9, 11, 10, 9, 10, 13, 12, 9, 9, 10, 12, 15, 19, 23, 24, 17, 8)
"""Weight of a session's start for each hour of the day (UTC)."""

EXACT, OTHER_STYLE = 1000, 400
"""How much a note is wanted that fits an interest altogether, or in another style; the others relative to it."""
SAME_SUBJECT, SAME_SUBJECT_NO_IMAGE = 22, 100
SAME_MOTIF, SAME_MOTIF_NO_TEXT, SAME_SILENCE = 18, 50, 10
BROWSING = 20  # per cent of the views that follow popularity alone
CLICK_AT_RANDOM, CLICK_IF_WANTED = 4, 56  # per cent of the views; half a fit is enough for a click
LIKE = 30  # per cent of the clicks

Weights = NDArray[np.int64]


class Hidden(NamedTuple):
    """What behaviour depends on and no export contains; int64 arrays of one value a note.

    `subject` is -1 for a note without text, `motif` and `style` are -1 for a note without image; `created` is in
    microseconds from the start of the week, negative before it.
    """

    subject: Weights
    motif: Weights
    style: Weights
    created: Weights


class Interest(NamedTuple):
    """What a user wants: a subject with a motif (style preferred), or with -1 as subject: wordless notes of a motif."""

    subject: int
    motif: int
    style: int


class Event(NamedTuple):
    """One row of interactions; `at` in microseconds from the start of the week."""

    at: int
    user: int
    note: int
    event: str


def popularity(rng: np.random.Generator, notes: int) -> Weights:
    """Draw a skewed attraction for each note: like Zipf's law, but flat at its head. int64 of shape (notes,)."""
    head = max(1, notes // 30)
    return np.asarray(1000 * head // (rng.permutation(notes) + head), dtype=np.int64)


def score_notes(hidden: Hidden, interest: Interest) -> Weights:
    """Measure how well each note fits an interest, in thousandths; int64 of shape (notes,)."""
    silent = hidden.subject < 0
    motif = hidden.motif == interest.motif
    exact = np.where(hidden.style == interest.style, EXACT, OTHER_STYLE)
    if interest.subject < 0:
        return np.where(silent, np.where(motif, exact, SAME_SILENCE), np.where(motif, SAME_MOTIF_NO_TEXT, 0)).astype(
            np.int64
        )
    subject = hidden.subject == interest.subject
    other_picture = np.where(hidden.motif < 0, SAME_SUBJECT_NO_IMAGE, SAME_SUBJECT)
    other_subject = np.where(motif, np.where(silent, SAME_MOTIF_NO_TEXT, SAME_MOTIF), 0)
    return np.where(subject, np.where(motif, exact, other_picture), other_subject).astype(np.int64)


def simulate(rng: np.random.Generator, users: int, hidden: Hidden, kinds: tuple[int, int, int]) -> list[Event]:
    """Simulate the week of `users` users; returns the events in order of time.

    Args:
        kinds: number of subjects, motifs and styles that there are.
    """
    popular = popularity(rng, len(hidden.created))
    fits: dict[Interest, Weights] = {}
    events: list[Event] = []
    for user in range(users):
        interests = _interests(rng, kinds)
        for interest in interests:
            if interest not in fits:
                fits[interest] = score_notes(hidden, interest)
        events.extend(_live(rng, user, [fits[i] for i in interests], popular, hidden.created))
    # Users may act in the same microsecond: the note and the event make the order unique.
    return sorted(events)


def _interests(rng: np.random.Generator, kinds: tuple[int, int, int]) -> list[Interest]:
    """One to three interests; about a third of them in wordless notes. A user has one preferred style."""
    subjects, motifs, styles = kinds
    style = int(rng.integers(styles))
    interests = []
    for _ in range(int(rng.integers(1, 4))):
        subject = -1 if chance(rng, 36) else int(rng.integers(subjects))
        interests.append(Interest(subject, int(rng.integers(motifs)), style))
    return interests


def _live(rng: np.random.Generator, user: int, fits: list[Weights], popular: Weights, created: Weights) -> list[Event]:
    """A user's week: more sessions for few users, fewer for most; in a session one interest leads."""
    seen: set[int] = set()
    best = np.maximum.reduce(fits)
    events: list[Event] = []
    sessions = 1 + 34 // (2 + int(rng.integers(1, 14)))
    for at in sorted(_session_start(rng) for _ in range(sessions)):
        age = at - created
        attention = popular * np.where(age < 0, 0, np.where(age < DAY, 3, np.where(age < 3 * DAY, 2, 1)))
        feed = np.cumsum(attention)
        own = np.cumsum(attention * fits[int(rng.integers(len(fits)))])
        now = at
        for _ in range(int(rng.integers(3, 14))):
            browse = chance(rng, BROWSING) or own[-1] == 0
            note = _draw(rng, feed if browse else own, seen)
            if note is None:
                continue
            now += int(rng.integers(4 * SECOND, 60 * SECOND))
            events.append(Event(now, user, note, "view"))
            if chance(rng, CLICK_AT_RANDOM + CLICK_IF_WANTED * min(EXACT, 2 * int(best[note])) // EXACT):
                now += int(rng.integers(SECOND, 9 * SECOND))
                events.append(Event(now, user, note, "click"))
                if chance(rng, LIKE):
                    now += int(rng.integers(2 * SECOND, 20 * SECOND))
                    events.append(Event(now, user, note, "like"))
    return events


def _session_start(rng: np.random.Generator) -> int:
    hour = int(np.searchsorted(np.cumsum(HOURS), int(rng.integers(sum(HOURS))), side="right"))
    # The last half hour is left free, so that no session runs over the end of the week.
    return min(int(rng.integers(7)) * DAY + hour * DAY // 24 + int(rng.integers(DAY // 24)), WEEK - DAY // 48)


def _draw(rng: np.random.Generator, cumulated: Weights, seen: set[int]) -> int | None:
    """A note by weight that the user has not seen; None if eight draws find only seen ones, or all weights are 0."""
    total = int(cumulated[-1])
    if total == 0:
        return None
    for number in rng.integers(total, size=8):
        note = int(np.searchsorted(cumulated, number, side="right"))
        if note not in seen:
            seen.add(note)
            return note
    return None
