"""Ranks to figures: recall@k, MRR and NDCG@k by model and slice, under names that do not change.

Metrics are a tree model -> slice -> metric -> number. Models: `both`, `text_only`, `image_only` (the tuned model with
both inputs, its image withheld, its text withheld), `vision` (the frozen vision encoder alone), `tfidf` (text within
the model's limits), `tfidf_full` (whole text), `popular`, `random` (chance). Slices: `all`, `short_query`,
`long_query`, `short_target`, `long_target`; a note is short when title, topics and content, uncut, have fewer than
`short_text_chars` characters together. Metrics: `recall@K` and `ndcg@K` for each K the pool allows, `mrr`, `n` (queries
of the slice). In a slice without queries n is 0 and the rest is null.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from notellm2.evaluation.ranks import I64, Bool, Ranks

Figures = dict[str, float | None]
Metrics = dict[str, dict[str, Figures]]

TUNED = ("both", "text_only", "image_only")
BASELINES = ("vision", "tfidf", "tfidf_full", "popular", "random")
MODELS = (*TUNED, *BASELINES)
SLICES = ("all", "short_query", "long_query", "short_target", "long_target")


def usable_ks(ks: Sequence[int], pool: int) -> tuple[int, ...]:
    """The cut-offs that the pool allows, ascending: beyond the pool every recall is 1 and says nothing."""
    return tuple(sorted({k for k in ks if 1 <= k <= pool}))


def slice_masks(query_chars: I64, target_chars: I64, short_text_chars: int) -> dict[str, Bool]:
    """Name of each slice to a mask bool[Q] of its queries.

    Args:
        query_chars: i64[Q], characters of the query note's uncut text.
        target_chars: i64[Q], the same of the target note.
        short_text_chars: a note with fewer is short.
    """
    short_query = query_chars < short_text_chars
    short_target = target_chars < short_text_chars
    return {
        "all": np.ones(len(query_chars), np.bool_),
        "short_query": short_query,
        "long_query": ~short_query,
        "short_target": short_target,
        "long_target": ~short_target,
    }


def figures(ranks: Ranks, ks: Sequence[int]) -> Figures:
    """Means over queries; null, with n = 0, when there is none."""
    n = len(ranks)
    result: Figures = {f"recall@{k}": float(ranks.recall(k).mean()) if n else None for k in ks}
    result |= {f"ndcg@{k}": float(ranks.ndcg(k).mean()) if n else None for k in ks}
    result["mrr"] = float(ranks.reciprocal().mean()) if n else None
    result["n"] = n
    return result


def by_slice(ranks: Ranks, masks: Mapping[str, Bool], ks: Sequence[int]) -> dict[str, Figures]:
    """The figures of every slice."""
    return {name: figures(ranks[mask], ks) for name, mask in masks.items()}


def flatten(metrics: Mapping[str, Mapping[str, Mapping[str, float | None]]]) -> dict[str, float]:
    """The tree as one level, under names that MLflow takes: ``both/all/recall_at_10``. Nulls are left out."""
    return {
        f"{model}/{name}/{metric.replace('@', '_at_')}": float(value)
        for model, slices in metrics.items()
        for name, values in slices.items()
        for metric, value in values.items()
        if value is not None
    }
