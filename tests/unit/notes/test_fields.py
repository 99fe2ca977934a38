"""Single values as people's tools write them."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from notellm2.notes.fields import is_listed, parse_list, topics


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("['baking', 'bread']", ["baking", "bread"]),
        ("[{'id': 18, 'name': 'Drama'}]", ["Drama"]),
        ('["a", "b|c"]', ["a", "b|c"]),
        ("['a' 'b'\n 'c']", ["a", "b", "c"]),
        (" [] ", []),
        ("['it\\'s', \"o'k\"]", ["it's", "o'k"]),
        ("['a\\d']", ["a\\d"]),
    ],
)
def test_the_text_of_a_list_is_that_list(written: str, read: list[str]) -> None:
    assert parse_list(written) == read
    assert is_listed(written.encode())
    assert topics(written) == read


@pytest.mark.parametrize("written", ["[sic]", "[1, 2]", "['a'", "[abc, def]", "a, 'b'", "[None]", "[" * 50_000 + "]"])
def test_other_brackets_stay_text(written: str) -> None:
    assert parse_list(written) is None
    assert topics(written) == [written]


@given(st.lists(st.text()))
def test_what_python_json_and_numpy_write_is_read_back(names: list[str]) -> None:
    assert parse_list(str(names)) == names
    assert parse_list(json.dumps(names)) == names
    words = [name for name in names if name and "\x00" not in name]
    if words:
        assert parse_list(str(np.array(words))) == words or len(words) > 1000


@given(st.text("[]'\"\\, abc{}:1"))
def test_no_text_is_an_error(written: str) -> None:
    parse_list(f"[{written}]")
