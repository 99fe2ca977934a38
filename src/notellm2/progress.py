"""Tell how far long work is, how fast it goes and how long it will take: a bar on a terminal, log lines elsewhere."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

Advance = Callable[[int], None]
"""Called with the number of things that were done since the last call."""

LOG_EVERY_S = 30.0

logger = logging.getLogger(__name__)


class _Rate(TextColumn):
    """Things done a second."""

    def __init__(self, unit: str) -> None:
        super().__init__("")
        self._unit = unit

    def render(self, task: Task) -> Text:
        return Text("" if not task.speed else f"{task.speed:.3g} {self._unit}/s")


@contextlib.contextmanager
def track(
    label: str, total: int, unit: str, *, clock: Callable[[], float] = time.monotonic, console: Console | None = None
) -> Iterator[Advance]:
    """Show the progress of one piece of work on standard error while its block runs.

    Args:
        label: what is being done, such as "vision features".
        total: how many things there are to do.
        unit: what they are, such as "notes".
        clock: seconds; only for tests.
        console: where a bar is drawn if it is a terminal.

    Yields:
        To be called with the number of things done since the last call. Where there is no terminal a line is logged
        every `LOG_EVERY_S` seconds, so short work logs nothing.
    """
    console = console or Console(stderr=True)
    if not console.is_terminal:
        yield _logged(label, total, unit, clock)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), _Rate(unit), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(label, total=total)
        yield lambda count: bar.update(task, advance=count)


def _logged(label: str, total: int, unit: str, clock: Callable[[], float]) -> Advance:
    started = said = clock()
    done = 0

    def advance(count: int) -> None:
        nonlocal done, said
        done += count
        now = clock()
        if now - said < LOG_EVERY_S or not 0 < done < total:
            return
        said = now
        rate = done / (now - started)
        left = duration((total - done) / rate)
        logger.info("%s: %s of %s %s, %.3g/s, about %s left", label, f"{done:,}", f"{total:,}", unit, rate, left)

    return advance


def duration(seconds: float) -> str:
    """Write a length of time as a person would: "40 s", "12 min", "3.5 h"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
