"""Prepare queries and their neighbours for the page."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

from notellm2.evaluation.report.content import ReportInput
from notellm2.evaluation.report.plots import LABELS

_RANKED = ("both", "champion", "text_only", "image_only", "shuffled", "linear", "vision", "tfidf")
_AGAINST_CHAMPION = {
    "gain": ("Largest wins over the champion", "Where the target climbs furthest against the champion."),
    "loss": ("Largest losses against the champion", "Where the target falls furthest against the champion."),
}
_AGAINST_TFIDF = {
    "gain": ("Largest gains over TF-IDF", "Where the target climbs furthest against TF-IDF on the same text."),
    "loss": ("Largest losses against TF-IDF", "Where TF-IDF on the same text does better by most."),
}
_ORDINARY = {"ordinary": ("A random sample", "Drawn at random: what the model does on an ordinary day.")}


def gallery(content: ReportInput) -> list[dict[str, Any]]:
    """Group the examples, the largest wins first; images as data URIs."""
    images = {note_id: data_uri("jpeg", data) for note_id, data in content.thumbnails.items()}
    groups = []
    for group, (title, meaning) in ((_AGAINST_CHAMPION if content.champion else _AGAINST_TFIDF) | _ORDINARY).items():
        chosen = [example for example in content.examples if example["group"] == group]
        if chosen:
            groups.append(
                {"title": title, "meaning": meaning, "examples": [_example(content, one, images) for one in chosen]}
            )
    return groups


def data_uri(kind: str, data: bytes) -> str:
    """Put an image into a data URI, so that it is inside the page."""
    return f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}"


def _example(content: ReportInput, example: Mapping[str, Any], images: Mapping[str, str]) -> dict[str, Any]:
    def note(one: Mapping[str, Any]) -> dict[str, Any]:
        return {**one, "title": one["title"].strip() or "(no title)", "image": images.get(one["note_id"])}

    def side(label: str, neighbours: Any) -> dict[str, Any]:
        return {
            "label": label,
            "has_target": any(neighbour["is_target"] for neighbour in neighbours),
            "neighbours": [note(neighbour) for neighbour in neighbours],
        }

    sides = [side("this model", example["neighbours"])]
    if content.champion and example.get("champion_neighbours") is not None:
        sides.append(side(f"champion, {content.champion.name}", example["champion_neighbours"]))
    words = LABELS | {"champion": "champion"}
    return {
        "query": note(example["query"]),
        "target": note(example["target"]),
        "sides": sides,
        "ranks": [(words[model], f"{example['ranks'][model]:,.0f}") for model in _RANKED if model in example["ranks"]],
    }
