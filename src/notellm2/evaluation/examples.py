"""Choose a few queries to show with their neighbours: most of them ordinary, some the model's best and worst.

`ordinary` ones are drawn at random (seeded), so that they are a fair sample; `gain` and `loss` are where the model
with both inputs does best and worst against an opponent: the champion, or TF-IDF on the same text where there is none.
"""

from __future__ import annotations

from collections.abc import Mapping
from textwrap import shorten
from typing import Any

import numpy as np

from notellm2.evaluation.cases import Cases
from notellm2.evaluation.ranks import F64, I64, NOT_IN_POOL, Scorer, nearest

NEIGHBOURS = 10
_SNIPPET = 160


def choose(model: F64, opponent: F64, *, ordinary: int = 6, extreme: int = 3, seed: int = 0) -> dict[str, list[int]]:
    """Choose the queries of each group; no query is in two groups.

    A change of rank counts by its ratio: from 100 to 1 is more to a reader than from 900 to 700.

    Args:
        model: f64[Q], expected rank of each target.
        opponent: f64[Q], the same of what it is compared with.
        ordinary: queries drawn at random.
        extreme: queries of each end.
        seed: of the draw.
    """
    change = np.log(opponent) - np.log(model)
    order = np.argsort(-change, kind="stable")
    gain = [int(i) for i in order[:extreme] if change[i] > 0]
    loss = [int(i) for i in order[::-1][:extreme] if change[i] < 0]
    rest = np.setdiff1d(np.arange(len(model)), [*gain, *loss])
    drawn = np.random.default_rng(seed).permutation(rest)[:ordinary]
    return {"gain": gain, "loss": loss, "ordinary": sorted(int(i) for i in drawn)}


def describe(
    groups: Mapping[str, list[int]],
    cases: Cases,
    ranks: Mapping[str, F64],
    model: Scorer,
    champion: Scorer | None = None,
) -> list[dict[str, Any]]:
    """Describe the chosen queries and their neighbours as plain data.

    Each has `group`, `query` and `target` (note_id, title, text), `ranks` (model to expected rank, 1 the best) and
    `neighbours` (the same of a note, with `score` and `is_target`), best first; `champion_neighbours` likewise, or
    None without a champion.

    Args:
        groups: of `choose`.
        cases: queries, targets and pool.
        ranks: name to f64[Q].
        model: scores of all queries with the pool.
        champion: the champion's scores.
    """
    selves = cases.columns(cases.query_rows)
    targets = cases.columns(cases.target_rows)

    def neighbours(scorer: Scorer, i: int) -> list[dict[str, Any]]:
        ranked = nearest(scorer, i, NEIGHBOURS, int(selves[i]))
        notes = _notes(cases, cases.pool_rows[[column for column, _ in ranked]])
        return [
            {**note, "score": round(score, 4), "is_target": column == int(targets[i])}
            for note, (column, score) in zip(notes, ranked, strict=True)
        ]

    return [
        {
            "group": group,
            "query": _notes(cases, cases.query_rows[[i]])[0],
            "target": _notes(cases, cases.target_rows[[i]])[0],
            "ranks": {name: float(of_model[i]) for name, of_model in ranks.items()},
            "query_in_pool": bool(selves[i] != NOT_IN_POOL),
            "neighbours": neighbours(model, i),
            "champion_neighbours": None if champion is None else neighbours(champion, i),
        }
        for group, queries in groups.items()
        for i in queries
    ]


def _notes(cases: Cases, rows: I64) -> list[dict[str, str]]:
    notes = cases.notes.take(rows).to_pylist()
    return [
        {
            "note_id": note["note_id"],
            "title": note["title"],
            "text": shorten(
                " ".join([*(f"#{topic}" for topic in note["topics"]), note["content"]]), _SNIPPET, placeholder=" …"
            ),
        }
        for note in notes
    ]
