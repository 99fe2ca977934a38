"""report.html: the page a person reads before deciding on a model; one file, no script, nothing from outside.

Everything shown comes as plain data in `ReportInput`; the page's own content security policy forbids scripts and
any request, so that a note's text can do no harm even if escaping were to fail somewhere.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
import yaml

from notellm2.artifacts import write_atomic
from notellm2.evaluation import plots
from notellm2.evaluation.metrics import MODELS, SLICES, Metrics
from notellm2.evaluation.verdict import headline

SLICE_LABELS = {
    "all": "all pairs",
    "short_query": "short query",
    "long_query": "long query",
    "short_target": "short target",
    "long_target": "long target",
}
GROUPS = {
    "ordinary": ("A random sample", "Drawn at random: what the model does on an ordinary day."),
    "gain": ("Largest gains over TF-IDF", "Where the target climbs furthest against TF-IDF on the same text."),
    "loss": ("Largest losses against TF-IDF", "Where TF-IDF on the same text does better by most."),
}
_TABLE_KS = 4
_FEW = 20
_RANKED = ("both", "text_only", "image_only", "vision", "tfidf")


@dataclass(frozen=True)
class ReportInput:
    """All that the page shows, as plain data.

    Attributes:
        recipe: the recipe in full; `name` is the title.
        data: facts of the data version, with `md5` and `name`.
        metrics: the tree of `metrics.py`.
        protocol: protocol.json of the evaluation.
        examples: examples.json of the evaluation.
        thumbnails: note_id to JPEG.
        training: summary of the training.
        history: rows of its metrics.jsonl.
        quality: summary of the quality stage.
        pairs: summary of the pairs stage.
        gate: {"passed", "rules": [{"name", "passed", "detail"}]}, or None.
        expectations: rows of the quality stage's result.json.
        provenance: where the run came from (git commit, ...).
    """

    recipe: Mapping[str, Any]
    data: Mapping[str, Any]
    metrics: Metrics
    protocol: Mapping[str, Any]
    examples: Sequence[Mapping[str, Any]]
    thumbnails: Mapping[str, bytes]
    training: Mapping[str, Any]
    history: Sequence[Mapping[str, Any]]
    quality: Mapping[str, Any]
    pairs: Mapping[str, Any]
    gate: Mapping[str, Any] | None = None
    expectations: Sequence[Mapping[str, Any]] = ()
    provenance: Mapping[str, Any] = field(default_factory=dict)


def write_report(path: Path, given: ReportInput) -> None:
    """Write the page, in one step."""
    write_atomic(path, render(given))


def render(given: ReportInput) -> str:
    """The page as HTML."""
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    source = resources.files("notellm2.evaluation").joinpath("report.html.jinja").read_text(encoding="utf-8")
    k = plots.headline_k(given.metrics)
    return environment.from_string(source).render(
        given=given,
        name=given.recipe["name"],
        headline=headline(given.metrics, given.gate, given.training, given.quality),
        k=k,
        tiles=_tiles(given, k),
        overall=_overall(given.metrics),
        slices=_by_slice(given.metrics, f"recall@{k}"),
        figures=_figures(given, k),
        gallery=_gallery(given),
        facts={
            "data": facts(given.data),
            "quality": facts(given.quality),
            "pairs": facts(given.pairs),
            "training": facts(given.training),
            "protocol": facts(given.protocol),
            "provenance": facts(given.provenance),
        },
        recipe_yaml=yaml.safe_dump(dict(given.recipe), sort_keys=False, allow_unicode=True),
        show=show,
    )


def show(value: Any) -> str:
    """A value of a summary, for reading."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{str(key).replace('_', ' ')}: {show(part)}" for key, part in value.items()) or "none"
    if isinstance(value, (list, tuple)):
        return ", ".join(show(part) for part in value) or "none"
    return str(value)


def facts(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    """A summary as labelled lines; a mapping of mappings gets a line for each part."""
    lines = []
    for key, value in summary.items():
        label = str(key).replace("_", " ")
        if isinstance(value, Mapping) and any(isinstance(part, Mapping) for part in value.values()):
            lines += [(f"{label}, {part}", show(inner)) for part, inner in value.items()]
        else:
            lines.append((label, show(value)))
    return lines


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f}"


def _tiles(given: ReportInput, k: int) -> list[tuple[str, str, str]]:
    """Key figures: label, value, note."""
    metrics, name = given.metrics, f"recall@{k}"
    shown = ("both", "text_only", "image_only", "tfidf", "vision")
    tiles = [
        (plots.LABELS[model], _percent(metrics[model]["all"][name]) + " %", f"recall@{k}")
        for model in shown
        if model in metrics
    ]
    pool = given.protocol.get("pool")
    tiles.append(("test", f"{metrics['both']['all']['n']:,.0f}", f"queries, pool of {show(pool)} notes"))
    return tiles


def _overall(metrics: Metrics) -> dict[str, Any]:
    """The table of models by metric, all pairs."""
    ks = plots.recall_ks(metrics)
    shown_ks = ks if len(ks) <= _TABLE_KS else [k for k in ks if k in {10, 50, 100, 1000}] or ks[:_TABLE_KS]
    names = [*(f"recall@{k}" for k in shown_ks), f"ndcg@{plots.headline_k(metrics)}", "mrr"]
    values = {model: [metrics[model]["all"][name] for name in names] for model in _models(metrics)}
    columns = [name.replace("recall", "R").replace("ndcg", "NDCG").replace("mrr", "MRR") for name in names]
    return {"columns": columns, "rows": _rows(values, [True] * len(names))}


def _by_slice(metrics: Metrics, name: str) -> dict[str, Any]:
    """The table of models by slice, one metric."""
    slices = [one for one in SLICES if one in metrics["both"]]
    values = {model: [metrics[model][one][name] for one in slices] for model in _models(metrics)}
    sizes = [int(metrics["both"][one]["n"] or 0) for one in slices]
    counts = [f"{n:,} queries" + (", too few" if n < _FEW else "") for n in sizes]
    columns = [SLICE_LABELS[one] for one in slices]
    return {"columns": columns, "counts": counts, "rows": _rows(values, [n >= _FEW for n in sizes])}


def _models(metrics: Metrics) -> list[str]:
    return [model for model in MODELS if model in metrics]


def _rows(values: Mapping[str, Sequence[float | None]], judged: Sequence[bool]) -> list[dict[str, Any]]:
    """Rows of a table, the best value marked in each column that is `judged`."""
    columns = zip(judged, zip(*values.values(), strict=True), strict=True)
    best = [max((v for v in column if v is not None), default=None) if marks else None for marks, column in columns]
    return [
        {
            "label": plots.LABELS[model],
            "tuned": model in {"both", "text_only", "image_only"},
            "cells": [
                (_percent(value), value is not None and value > 0 and value == top)
                for value, top in zip(of_model, best, strict=True)
            ],
        }
        for model, of_model in values.items()
    ]


def _figures(given: ReportInput, k: int) -> list[dict[str, str]]:
    """The plots in both themes, as data URIs, with words for who cannot see them."""
    metrics = given.metrics
    both = _percent(metrics["both"]["all"][f"recall@{k}"])
    drawn = [
        (
            f"Recall@{k} by model",
            f"Bar chart of recall at {k}: {both} percent with both inputs; the table above has every value.",
            plots.recall_bars(metrics, plots.LIGHT),
            plots.recall_bars(metrics, plots.DARK),
        ),
        (
            "Recall by number of notes recommended",
            "Line chart of recall at k by model; the table above has the values.",
            plots.recall_curve(metrics, plots.LIGHT),
            plots.recall_curve(metrics, plots.DARK),
        ),
    ]
    light, dark = (plots.training_curve(given.history, theme) for theme in (plots.LIGHT, plots.DARK))
    if light is not None and dark is not None:
        last = next(row for row in reversed(given.history) if row.get("loss") is not None)
        words = f"Line chart of the training loss by step; it ends at {show(last['loss'])}"
        words += f", chance is {show(last['chance'])}." if last.get("chance") is not None else "."
        drawn.append(("Training: loss against chance, and mean cosine of different notes", words, light, dark))
    return [
        {"title": title, "alt": alt, "light": _data_uri("png", light), "dark": _data_uri("png", dark)}
        for title, alt, light, dark in drawn
    ]


def _gallery(given: ReportInput) -> list[dict[str, Any]]:
    images = {note_id: _data_uri("jpeg", data) for note_id, data in given.thumbnails.items()}
    groups = []
    for group, (title, meaning) in GROUPS.items():
        chosen = [example for example in given.examples if example["group"] == group]
        if chosen:
            groups.append({"title": title, "meaning": meaning, "examples": [_example(one, images) for one in chosen]})
    return groups


def _example(example: Mapping[str, Any], images: Mapping[str, str]) -> dict[str, Any]:
    def note(given: Mapping[str, Any]) -> dict[str, Any]:
        return {**given, "title": given["title"].strip() or "(no title)", "image": images.get(given["note_id"])}

    return {
        "query": note(example["query"]),
        "target": note(example["target"]),
        "found": any(neighbour["is_target"] for neighbour in example["neighbours"]),
        "ranks": [(plots.LABELS[m], f"{example['ranks'][m]:,.0f}") for m in _RANKED if m in example["ranks"]],
        "neighbours": [note(neighbour) for neighbour in example["neighbours"]],
    }


def _data_uri(kind: str, data: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}"
