"""Which queries a figure is of: by text, by image, by age, by popularity and by category.

Names are stable (docs/reference/metrics.md) and plain ASCII, as they become parts of MLflow's metric names.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from notellm2.evaluation.cases import Cases
from notellm2.evaluation.ranks import I64, Bool
from notellm2.recipe import EvaluationConfig

DECILES = 10
_SLUG_CHARS = 32


@dataclass(frozen=True)
class Slices:
    """Parts of the test's queries; they overlap.

    Attributes:
        masks: name to bool[Q].
        labels: name to what people read.
    """

    masks: dict[str, Bool]
    labels: dict[str, str]


def slice_queries(cases: Cases, has_image: Bool, config: EvaluationConfig) -> Slices:
    """Divide the queries of a test into all its slices.

    Args:
        cases: queries and targets.
        has_image: bool[N], notes whose image the vision encoder could read, in the data set's order.
        config: bounds of short, new, and the number of categories.
    """
    chars = cases.chars()
    masks = text_masks(chars[cases.query_rows], chars[cases.target_rows], config.short_text_chars)
    labels = {name: name.replace("_", " ") for name in masks} | {"all": "all pairs"}
    with_image = has_image[cases.target_rows]
    masks |= {"target_with_image": with_image, "target_without_image": ~with_image}
    labels |= {"target_with_image": "target with image", "target_without_image": "target without image"}
    ages = cases.ages_h()
    if ages is not None:
        of_targets = ages[cases.target_rows]
        new = of_targets < config.new_hours
        masks |= {"new_target": new, "old_target": ~new & np.isfinite(of_targets)}
        labels |= {
            "new_target": f"new target (under {config.new_hours:g} h)",
            "old_target": f"older target ({config.new_hours:g} h or more)",
        }
    decile = deciles(cases.popularity[cases.columns(cases.target_rows)])
    for i in range(1, DECILES + 1):
        masks[f"popularity_{i:02d}"] = decile == i
        labels[f"popularity_{i:02d}"] = f"popularity of the target, tenth {i} of {DECILES}"
    named: list[str | None] = cases.notes["category"].take(pa.array(cases.query_rows)).to_pylist()
    category = [(name or "").strip().casefold() for name in named]
    for value, _ in ordered_counts(category)[: config.categories]:
        name = f"category_{slug(value)}"
        masks[name] = np.array([one == value for one in category], np.bool_)
        labels[name] = f"category {value}"
    return Slices(masks, labels)


def text_masks(query_chars: I64, target_chars: I64, short_text_chars: int) -> dict[str, Bool]:
    """Divide queries into the paper's slices: name to a mask bool[Q] of its queries.

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


def deciles(popularity: I64) -> I64:
    """Put each target into a tenth by popularity, i64[Q], 1 the least popular.

    Equal popularity is never parted, so that tenths differ in size and some may be empty.
    """
    if len(popularity) == 0:
        return np.zeros(0, np.int64)
    edges = np.quantile(popularity, np.arange(1, DECILES) / DECILES)
    tenth: I64 = np.searchsorted(edges, popularity, side="left").astype(np.int64) + 1
    return tenth


def ordered_counts(values: Sequence[str]) -> list[tuple[str, int]]:
    """Order values by how often they occur, most often first, then by name; the empty one is left out."""
    counts = Counter(value for value in values if value)
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))


def slug(value: str) -> str:
    """Make a name for MLflow that tells values apart: ``film-noir`` stays; what ASCII cannot spell gets a digest."""
    plain = re.sub(r"[^a-z0-9]+", "-", value).strip("-")[:_SLUG_CHARS]
    if plain and plain == value:
        return plain
    digest = hashlib.sha256(value.encode()).hexdigest()[:6]
    return f"{plain}-{digest}" if plain else digest


def images_read(vision_NV: npt.NDArray[np.float32]) -> Bool:
    """Mark notes whose frozen vision embedding f32[N, V] is not all zeros, bool[N]; zeros: no image was read."""
    readable: Bool = np.logical_or.reduce(vision_NV != 0, axis=1)
    return readable
