"""Progress of long work: what a log gets, and what a terminal gets."""

from __future__ import annotations

import io
import logging

import pytest
from rich.console import Console

from notellm2.progress import LOG_EVERY_S, duration, track


class Clock:
    """A clock that goes only when it is told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_log_gets_rate_and_time_left_now_and_then(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    with caplog.at_level(logging.INFO), track("vision features", 1000, "notes", clock=clock) as advance:
        advance(100)
        assert not caplog.messages, "short work says nothing"
        clock.now = LOG_EVERY_S
        advance(200)
        clock.now += LOG_EVERY_S / 2
        advance(10)
        clock.now += LOG_EVERY_S / 2
        advance(290)
        clock.now += LOG_EVERY_S
        advance(400)
    assert caplog.messages == [
        "vision features: 300 of 1,000 notes, 10/s, about 70 s left",
        "vision features: 600 of 1,000 notes, 10/s, about 40 s left",
    ]


def test_a_terminal_gets_a_bar_with_what_is_done() -> None:
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=100)
    with track("vectors", 50, "notes", console=console) as advance:
        advance(20)
        advance(5)
    assert "vectors" in screen.getvalue()
    assert "25/50" in screen.getvalue()


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0 s"), (89, "89 s"), (600, "10 min"), (9000, "2.5 h")])
def test_lengths_of_time_read_like_a_person_wrote_them(seconds: float, text: str) -> None:
    assert duration(seconds) == text
