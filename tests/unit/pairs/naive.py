"""Mining as its definition reads, with dictionaries and loops: what the compiled kernel is checked against."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from notellm2.recipe import PairsConfig
from tests.unit.pairs.conftest import Row

Pair = tuple[str, str, float, int]


def mine(rows: Sequence[Row], notes: Sequence[str], members: set[str], config: PairsConfig, top_t: int) -> list[Pair]:
    """Pairs between `members`: query, target, score (float32), support; by query, then best first."""
    of_user: dict[str, list[tuple[int, int, str, str]]] = {}
    for place, (user, note, event, time) in enumerate(rows):
        of_user.setdefault(user, []).append((time, place, note, event))
    weights: dict[tuple[str, str], list[float]] = defaultdict(list)
    viewers: dict[str, set[str]] = defaultdict(set)
    clickers: dict[str, set[str]] = defaultdict(set)
    for user, events in of_user.items():
        views: dict[str, int] = {}
        clicks: dict[str, int] = {}
        for rank, (_, _, note, event) in enumerate(sorted(events)):
            if event in config.source_events:
                views.setdefault(note, rank)
            if event in config.target_events:
                clicks.setdefault(note, rank)
        if config.direction == "symmetric":
            views = clicks
        for note in views:
            viewers[note].add(user)
        for note in clicks:
            clickers[note].add(user)
        recency = {note: max(views.get(note, -1), clicks.get(note, -1)) for note in {*views, *clicks}}
        recent = set(sorted(recency, key=recency.__getitem__)[-config.history_cap :])
        for a in views:
            for b in clicks:
                follows = config.direction == "symmetric" or views[a] < clicks[b]
                if a != b and follows and {a, b} <= recent and {a, b} <= members:
                    weights[a, b].append(1.0 / len(clicks))
    rank_of = {note: rank for rank, note in enumerate(notes)}
    found: dict[str, list[Pair]] = defaultdict(list)
    for (a, b), users in weights.items():
        n_a, n_b = len(viewers[a]), len(clickers[b])
        total = 0.0  # one by one: sum() compensates rounding from Python 3.12 on
        for weight in users:
            total += weight
        value = len(users) / np.sqrt(n_a * n_b) if config.score == "cosine" else total
        score = float(np.float32(value))
        if (
            len(users) >= config.min_support
            and min(n_a, n_b) >= config.min_popularity
            and np.float32(config.lower) <= score <= np.float32(config.upper)
        ):
            found[a].append((a, b, score, len(users)))
    pairs: list[Pair] = []
    for note in notes:
        best = sorted(found[note], key=lambda p: (-p[2], -p[3], rank_of[p[1]]))
        pairs.extend(best[:top_t])
    return pairs
