"""What an import set aside: every problem counted by reason and written down with its place."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

QUARANTINE = "quarantine.jsonl"
SHOWN = 10
"""Places kept for each reason in memory, for the report; the file holds all."""

Kind = Literal["note", "interaction", "image", "archive"]

_MAX_DETAIL = 300


@dataclass(frozen=True)
class Problem:
    """Why one row, image or archive member cannot be used.

    Attributes:
        kind: what it is.
        reason: short name of the problem, such as ``duplicate-id``.
        location: file and row, line or member.
        detail: field, value and what was expected; 300 characters of it are written.
        identifier: note id (user id and note id for an interaction) where known.
        lines: how many rows or lines are lost.
    """

    kind: Kind
    reason: str
    location: str
    detail: str
    identifier: str | None = None
    lines: int = 1


class Quarantine:
    """Writes ``quarantine.jsonl``: one JSON object a line with reason, kind, location, id, detail and lines.

    ``lines`` is there for a span of lines that are lost together; else one row or line is.

    kind ``note`` and ``interaction``: the row is left out. kind ``image``: the note stays, without its image. kind
    ``archive``: a member of the image archive that no note asked for, or damage of the archive itself.

    Attributes:
        counts: reason to number of rows, lines, images or members.
        locations: reason to the first `SHOWN` places.
        unshown: reason to number of rows, lines, images or members at further places.
    """

    def __init__(self, path: Path):
        self.counts: Counter[str] = Counter()
        self.locations: dict[str, list[str]] = {}
        self.unshown: Counter[str] = Counter()
        self._first: dict[tuple[Kind, str], Problem] = {}
        self._lines: Counter[tuple[Kind, str]] = Counter()
        self._file = path.open("w", encoding="ascii")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def add(self, problem: Problem) -> None:
        """Set one thing aside."""
        self.counts[problem.reason] += problem.lines
        shown = self.locations.setdefault(problem.reason, [])
        if len(shown) < SHOWN:
            shown.append(problem.location)
        else:
            self.unshown[problem.reason] += problem.lines
        self._first.setdefault((problem.kind, problem.reason), problem)
        self._lines[problem.kind, problem.reason] += problem.lines
        record: dict[str, str | int | None] = {
            "reason": problem.reason,
            "kind": problem.kind,
            "location": problem.location,
            "id": problem.identifier,
            "detail": problem.detail[:_MAX_DETAIL],
        }
        if problem.lines != 1:
            record["lines"] = problem.lines
        # ASCII escapes: a name that is not valid UTF-8 must be recorded too.
        self._file.write(json.dumps(record, ensure_ascii=True) + "\n")

    def reasons(self, *kinds: Kind) -> list[Problem]:
        """Return the first problem of each reason of some kinds (none named: of all); `lines` counts all of them."""
        return [
            replace(problem, lines=self._lines[kind, reason])
            for (kind, reason), problem in self._first.items()
            if kind in kinds or not kinds
        ]
