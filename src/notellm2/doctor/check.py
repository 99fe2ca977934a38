"""One check's outcome: a line that says what was found and what to do."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from notellm2.errors import InputError

Status = Literal["ok", "warning", "failed"]


@dataclass(frozen=True)
class Check:
    """What came of one check.

    Attributes:
        name: what was looked at.
        status: failed: a retraining cannot end well; warning: it may not, or will be slow.
        found: what was found.
        advice: what to do; empty where there is nothing to do.
    """

    name: str
    status: Status
    found: str
    advice: str = ""

    def line(self) -> str:
        """Return the outcome as one line."""
        return f"{self.status:<7}  {self.name}: {self.found}" + (f"; {self.advice}" if self.advice else "")


def ok(name: str, found: str) -> Check:
    """Return the outcome of a check that found nothing wrong."""
    return Check(name, "ok", found)


def refused(name: str, look: Callable[[], str]) -> Check:
    """Return what a look at something says: its word where it finds nothing wrong, its `InputError` where it does."""
    try:
        return ok(name, look())
    except InputError as error:
        return Check(name, "failed", str(error))


def exit_status(checks: Sequence[Check]) -> int:
    """Return 1 if a check failed, else 0."""
    return int(any(check.status == "failed" for check in checks))
