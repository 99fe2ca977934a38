"""The window of time that a recipe allows."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from notellm2.errors import InputError
from notellm2.quality.window import Window
from notellm2.recipe import QualityConfig

NOW = datetime(2024, 6, 1, 12, tzinfo=UTC)


def _us(moment: datetime) -> int:
    return round(moment.timestamp() * 1_000_000)


@pytest.mark.parametrize(
    ("latest", "end"),
    [
        (None, NOW),
        ("2024-01-31", datetime(2024, 2, 1, tzinfo=UTC)),
        ("2024-01-31T12:00:00", datetime(2024, 1, 31, 12, 0, 0, 1, tzinfo=UTC)),
        ("2024-01-31T12:00:00+02:00", datetime(2024, 1, 31, 10, 0, 0, 1, tzinfo=UTC)),
    ],
)
def test_the_window_ends_after_the_latest_moment_allowed(latest: str | None, end: datetime) -> None:
    window = Window.of(QualityConfig(earliest="2020-01-01", latest=latest), NOW)
    assert window == Window(_us(datetime(2020, 1, 1, tzinfo=UTC)), _us(end))


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"earliest": "yesterday"}, r"quality\.earliest is 'yesterday'"),
        ({"latest": "2024-13-01"}, r"quality\.latest is '2024-13-01'"),
        ({"earliest": "2024-02-01", "latest": "2024-01-01"}, r"2024-02-01.* is not before .*2024-01-01"),
    ],
)
def test_a_window_that_is_none_is_refused(fields: dict[str, str], named: str) -> None:
    with pytest.raises(InputError, match=named):
        Window.of(QualityConfig(**fields), NOW)
