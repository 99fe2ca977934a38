"""Turn ranks into figures with intervals: recall@k, NDCG@k, MRR and visual reliance by model and slice.

Names and meanings are an interface, listed in docs/reference/metrics.md. Metrics are a tree model -> slice -> metric ->
number, intervals the same tree with {"low", "high"} at its leaves (95 %, bootstrap over queries).

Every model has the slices of `SLICES`. The finer ones (`slices.py`: image, age, popularity, category) are kept for
`FINE_MODELS` and the headline cut-off only: a figure nobody compares is noise in MLflow, and a version's tag must hold
them all (100,000 characters). In a slice without queries `n` is 0, the rest is null, and there is no interval.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from notellm2.evaluation.bootstrap import resample
from notellm2.evaluation.ranks import F64, Bool, Ranks

Figures = dict[str, float | None]
Metrics = dict[str, dict[str, Figures]]
Intervals = dict[str, dict[str, dict[str, dict[str, float]]]]

TUNED = ("both", "text_only", "image_only", "shuffled")
BASELINES = ("linear", "vision", "tfidf", "tfidf_full", "popular", "random")
VARIANTS = ("variant_text", "variant_basic")
MODELS = (*TUNED, *VARIANTS, *BASELINES)
SLICES = ("all", "short_query", "long_query", "short_target", "long_target")
FINE_MODELS = (*TUNED, *VARIANTS, "linear", "tfidf")
RELIANCE = "visual_reliance"
RELIANCE_K = 10
IMAGE_GAIN = "image_gain"
IMAGE_GAIN_OVER_TEXT = "image_gain_over_text_variant"
_GAINS = {IMAGE_GAIN: "text_only", IMAGE_GAIN_OVER_TEXT: "variant_text"}


def usable_ks(ks: Sequence[int], pool: int) -> tuple[int, ...]:
    """Return the cut-offs that the pool allows, ascending: beyond the pool every recall is 1 and says nothing."""
    return tuple(sorted({k for k in ks if 1 <= k <= pool}))


def headline(ks: Sequence[int]) -> int:
    """Choose the cut-off that tables, plots and sentences quote: 10 where it was measured, else the smallest."""
    return 10 if 10 in ks else min(ks)


def headline_k(metrics: Metrics) -> int:
    """Choose the cut-off that plots and sentences quote: 10 where it was measured, else the smallest."""
    return headline(recall_ks(metrics))


def recall_ks(metrics: Metrics) -> list[int]:
    """List the cut-offs that were measured, ascending."""
    return sorted(int(name.partition("@")[2]) for name in metrics["both"]["all"] if name.startswith("recall@"))


def per_query(ranks: Ranks, ks: Sequence[int]) -> dict[str, F64]:
    """Compute every metric for each query: name to f64[Q]."""
    values = {f"recall@{k}": ranks.recall(k) for k in ks}
    values |= {f"ndcg@{k}": ranks.ndcg(k) for k in ks}
    return values | {"mrr": ranks.reciprocal()}


def visual_reliance(both: Ranks, shuffled: Ranks) -> F64:
    """Subtract recall@10 with another note's image from recall@10 with the note's own, f64[Q]."""
    reliance: F64 = both.recall(RELIANCE_K) - shuffled.recall(RELIANCE_K)
    return reliance


def image_gains(ranks: Mapping[str, Ranks]) -> dict[str, F64]:
    """Compute what the images add, f64[Q] by figure: recall@10 with them less recall@10 without, where measured.

    A model that was trained with images may be helpless without them, so that a gain over its own text proves little:
    where the text variant was trained, the gain over it counts as well.
    """
    with_images = ranks["both"].recall(RELIANCE_K)
    return {name: with_images - ranks[row].recall(RELIANCE_K) for name, row in _GAINS.items() if row in ranks}


def measure(
    ranks: Mapping[str, Ranks], masks: Mapping[str, Bool], ks: Sequence[int], resamples: int
) -> tuple[Metrics, Intervals]:
    """Compute the figures of every model and slice, and their intervals.

    Args:
        ranks: model to the ranks of the same queries.
        masks: slice to bool[Q].
        ks: cut-offs, each allowed by the pool.
        resamples: of the bootstrap.
    """
    metrics: Metrics = {model: {} for model in ranks}
    intervals: Intervals = {model: {} for model in ranks}
    for name, mask in masks.items():
        core = name in SLICES
        shown_ks = ks if core else (headline(ks),)
        columns: dict[tuple[str, str], F64] = {}
        for model, of_model in ranks.items():
            if core or model in FINE_MODELS:
                columns |= {(model, metric): v for metric, v in per_query(of_model[mask], shown_ks).items()}
        if "shuffled" in ranks:
            columns["both", RELIANCE] = visual_reliance(ranks["both"][mask], ranks["shuffled"][mask])
        gains = image_gains({model: of_model[mask] for model, of_model in ranks.items()})
        columns |= {("both", name): gain for name, gain in gains.items()}
        n = int(mask.sum())
        table_NM = np.column_stack(list(columns.values()))
        spread = resample(table_NM, resamples) if n else None
        for i, (model, metric) in enumerate(columns):
            figures = metrics[model].setdefault(name, {})
            figures[metric] = float(table_NM[:, i].mean()) if n else None
            of_slice = intervals[model].setdefault(name, {})
            if spread is not None:
                of_slice[metric] = {"low": float(spread.low[i]), "high": float(spread.high[i])}
        for model in dict.fromkeys(model for model, _ in columns):
            metrics[model][name]["n"] = n
    return metrics, intervals
