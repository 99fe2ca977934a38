"""The page's tables, as rows of texts and marks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from notellm2.evaluation.metrics import IMAGE_GAIN, MODELS, RELIANCE, TUNED, Metrics, headline_k, recall_ks
from notellm2.evaluation.report.content import Opponent, ReportInput
from notellm2.evaluation.report.plots import LABELS
from notellm2.evaluation.report.words import percent, points, show

FEW = 20
_TABLE_KS = 4
_SLICE_MODELS = ("text_only", "image_only", "shuffled", "linear", "tfidf")
_SPACE = {
    "alignment": "alignment (distance of query and target, lower is better)",
    "uniformity": "uniformity (lower is more evenly spread)",
    "never_in_top_100_share": "notes in nobody's first hundred, %",
    "duplicate_share": "notes embedded like another, %",
    "effective_rank": "effective rank",
    "dim": "dimensions",
    "young_share": "recommendations to new notes, %",
}


def tiles(content: ReportInput) -> list[tuple[str, str, str]]:
    """List the key figures: label, value, note."""
    metrics, k = content.metrics, headline_k(content.metrics)
    name = f"recall@{k}"
    shown = [
        (LABELS[model], percent(metrics[model]["all"][name]) + " %", name)
        for model in ("both", "text_only", "image_only", "linear", "tfidf", "vision")
        if model in metrics
    ]
    if content.champion:
        theirs = content.champion.metrics["both"]["all"][name]
        shown.insert(1, ("champion", percent(theirs) + " %", f"{name}, {content.champion.name}"))
    reliance = metrics["both"]["all"].get(RELIANCE)
    gain = metrics["both"]["all"].get(IMAGE_GAIN)
    if gain is not None:
        shown.append(("images add", points(gain), "points of recall@10 over the same model without them"))
    if reliance is not None:
        shown.append(("visual reliance", points(reliance), "points lost by shuffling images"))
    n, pool = metrics["both"]["all"]["n"], content.protocol.get("pool")
    shown.append(("test", f"{n:,.0f}", f"queries, pool of {show(pool)} notes"))
    return shown


def overall(metrics: Metrics) -> dict[str, Any]:
    """Tabulate models by metric, all pairs, the best of each column marked; an older evaluation may lack a metric."""
    ks = recall_ks(metrics)
    shown_ks = ks if len(ks) <= _TABLE_KS else [k for k in ks if k in {10, 50, 100, 1000}] or ks[:_TABLE_KS]
    wanted = [*(f"recall@{k}" for k in shown_ks), f"ndcg@{headline_k(metrics)}", "mrr"]
    names = [name for name in wanted if name in metrics["both"]["all"]]
    models = [model for model in MODELS if model in metrics]
    values = {model: [metrics[model]["all"][name] for name in names] for model in models}
    columns = [name.replace("recall", "R").replace("ndcg", "NDCG").replace("mrr", "MRR") for name in names]
    return {"columns": columns, "rows": _best_marked(values)}


def space(content: ReportInput) -> dict[str, Any]:
    """Tabulate the health of the embedding space, beside the champion's."""
    sides = [content.space["both"], *([content.champion.space["both"]] if content.champion else [])]

    def cell(key: str, value: float | None) -> str:
        return percent(value) if key.endswith("_share") else show(value)

    rows = [(label, [cell(key, side.get(key)) for side in sides]) for key, label in _SPACE.items()]
    return {"columns": ["this model", *([content.champion.name] if content.champion else [])], "rows": rows}


def is_fine(name: str) -> bool:
    """Return whether a slice is one of many: a tenth of popularity or a category."""
    return name.startswith(("popularity_", "category_"))


def changes(champion: Opponent, labels: Mapping[str, str], *, fine: bool) -> list[dict[str, Any]]:
    """Compare model and champion by slice; `fine`: by popularity and category instead."""
    return [
        {
            "label": labels.get(name, name),
            "n": show(part["n"]),
            "few": part["n"] < FEW,
            "candidate": percent(part["recall@10"]["candidate"]),
            "champion": percent(part["recall@10"]["champion"]),
            "cells": [_change(part[metric], part["n"]) for metric in ("recall@10", "mrr", RELIANCE)],
            "wins": show(part["wins"]),
            "losses": show(part["losses"]),
        }
        for name, part in champion.comparison["slices"].items()
        if part["n"] and is_fine(name) == fine
    ]


def _change(difference: Mapping[str, float], n: int) -> dict[str, str]:
    """A difference with its interval, an arrow, and the arrow in words.

    Resampling a handful of queries shows hardly any spread: below `FEW` an interval beside zero is no evidence.
    """
    mark, word = "≈", "no clear difference"
    if n >= FEW and difference["low"] > 0:
        mark, word = "▲", "better"
    elif n >= FEW and difference["high"] < 0:
        mark, word = "▼", "worse"
    return {
        "tone": {"▲": "up", "▼": "down", "≈": "same"}[mark],
        "mark": mark,
        "word": word,
        "value": points(difference["difference"]),
        "interval": f"{points(difference['low'])} to {points(difference['high'])}",
    }


def slices(content: ReportInput, *, fine: bool) -> dict[str, Any]:
    """Tabulate the model's own figures by slice; `fine`: by popularity and category instead."""
    name = f"recall@{headline_k(content.metrics)}"
    models = [model for model in _SLICE_MODELS if model in content.metrics]
    rows = []
    for part, figures in content.metrics["both"].items():
        if is_fine(part) != fine or not figures["n"]:
            continue
        others = [percent(content.metrics[model][part][name]) for model in models]
        rows.append(
            {
                "label": content.labels.get(part, part),
                "n": f"{figures['n']:,.0f}",
                "few": figures["n"] < FEW,
                "both": percent(figures[name]),
                "interval": _interval(content, part, name, percent),
                "others": others,
                "reliance": "–" if figures.get(RELIANCE) is None else points(figures[RELIANCE] or 0.0),
                "reliance_interval": _interval(content, part, RELIANCE, points),
            }
        )
    return {"columns": [LABELS[model] for model in models], "rows": rows}


def _interval(content: ReportInput, part: str, metric: str, words: Any) -> str:
    interval = content.intervals["both"].get(part, {}).get(metric)
    return "" if interval is None else f"{words(interval['low'])} to {words(interval['high'])}"


def _best_marked(values: Mapping[str, Sequence[float | None]]) -> list[dict[str, Any]]:
    """Rows of a table, the best value marked in each column."""
    best = [max((v for v in column if v is not None), default=None) for column in zip(*values.values(), strict=True)]
    return [
        {
            "label": LABELS[model],
            "tuned": model in TUNED,
            "cells": [
                (percent(value), value is not None and value > 0 and value == top)
                for value, top in zip(of_model, best, strict=True)
            ],
        }
        for model, of_model in values.items()
    ]
