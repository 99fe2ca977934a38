"""Which queries belong to which slice."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest

from notellm2.evaluation.cases import Cases
from notellm2.evaluation.slices import deciles, images_read, slice_queries, slug, text_masks
from notellm2.notes.schema import NOTES
from notellm2.recipe import EvaluationConfig

NOW = datetime(2025, 3, 8, tzinfo=UTC)


def cases(categories: list[str | None], hours: list[float | None], popularity: list[int]) -> Cases:
    """Each note is once a query, its target the next note; the pool is all."""
    n = len(categories)
    rows = [
        {
            "note_id": str(i),
            "title": "t" * (i + 1),
            "topics": [],
            "content": "",
            "image": None,
            "category": categories[i],
            "created_at": None if hours[i] is None else NOW - timedelta(hours=hours[i] or 0),
        }
        for i in range(n)
    ]
    order = np.arange(n)
    return Cases(
        pa.Table.from_pylist(rows, schema=NOTES), order, np.roll(order, -1), order, np.array(popularity, np.int64), NOW
    )


def test_a_note_at_the_bound_is_long() -> None:
    masks = text_masks(np.array([79, 80]), np.array([80, 79]), 80)
    assert masks["short_query"].tolist() == [True, False]
    assert masks["long_target"].tolist() == [True, False]


def test_image_age_and_category_are_read_where_they_belong() -> None:
    test = cases(["Food", "food ", None, "Café", "Sea Side"], [1, 23.9, 24, None, 900], [1, 2, 3, 4, 5])
    found = slice_queries(test, np.array([True, False, True, True, True]), EvaluationConfig())
    assert found.masks["target_with_image"].tolist() == [False, True, True, True, True]
    assert found.masks["new_target"].tolist() == [True, False, False, False, True]
    assert found.masks["old_target"].tolist() == [False, True, False, True, False], "no time: neither new nor old"
    assert found.masks["category_food"].tolist() == [True, True, False, False, False]
    named = [name for name in found.masks if name.startswith("category_")]
    assert len(named) == 3
    assert all(name.isascii() and " " not in name and "." not in name for name in found.masks)
    assert set(found.labels) == set(found.masks)
    fewer = slice_queries(test, np.ones(5, bool), EvaluationConfig(categories=1))
    assert [name for name in fewer.masks if name.startswith("category_")] == ["category_food"]


def test_without_times_there_is_no_slice_of_age() -> None:
    found = slice_queries(cases([None] * 3, [None] * 3, [1, 2, 3]), np.ones(3, bool), EvaluationConfig())
    assert "new_target" not in found.masks


def test_tenths_never_part_equal_popularity_and_cover_all() -> None:
    spread = deciles(np.arange(100))
    assert [int((spread == i).sum()) for i in range(1, 11)] == [10] * 10
    assert spread[0] == 1
    assert spread[99] == 10
    tied = deciles(np.array([5] * 50 + [9] * 50))
    assert len(set(tied[:50])) == len(set(tied[50:])) == 1
    assert tied[0] < tied[99]
    assert len(deciles(np.empty(0, np.int64))) == 0


@pytest.mark.parametrize(("value", "name"), [("film-noir", "film-noir"), ("drama", "drama")])
def test_a_plain_category_keeps_its_name(value: str, name: str) -> None:
    assert slug(value) == name


def test_categories_that_read_alike_stay_apart() -> None:
    names = {slug(value) for value in ("sci fi", "sci.fi", "sci-fi", "美食", "旅行", "x" * 50, "x" * 60)}
    assert len(names) == 7


def test_an_image_that_was_not_read_is_a_zero_vector() -> None:
    assert images_read(np.array([[0, 0], [0, -1]], np.float32)).tolist() == [False, True]
