"""What an import set aside: every problem counted by reason and written down with its place."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

QUARANTINE = "quarantine.jsonl"
SHOWN = 10
"""Places kept for each reason in memory, for the report; the file holds all."""

Kind = Literal["note", "interaction", "image", "archive"]

_MAX_DETAIL = 300


class Quarantine:
    """Writes ``quarantine.jsonl``: one JSON object a line with reason, kind, location, id and detail.

    kind ``note`` and ``interaction``: the row is left out. kind ``image``: the note stays, without its image. kind
    ``archive``: a member of the image archive that no note asked for, or damage of the archive itself.

    Attributes:
        counts: reason to number of problems.
        locations: reason to the first `SHOWN` places.
    """

    def __init__(self, path: Path):
        self.counts: Counter[str] = Counter()
        self.locations: dict[str, list[str]] = {}
        self._file = path.open("w", encoding="ascii")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def add(self, kind: Kind, reason: str, location: str, identifier: str | None, detail: str) -> None:
        """Set one thing aside.

        Args:
            kind: what it is.
            reason: short name of the problem, such as ``duplicate-id``.
            location: file and row, line or member.
            identifier: note id (user id and note id for an interaction) where known.
            detail: the value and what was expected; cut at 300 characters.
        """
        self.counts[reason] += 1
        shown = self.locations.setdefault(reason, [])
        if len(shown) < SHOWN:
            shown.append(location)
        record = {
            "reason": reason,
            "kind": kind,
            "location": location,
            "id": identifier,
            "detail": detail[:_MAX_DETAIL],
        }
        # ASCII escapes: a name that is not valid UTF-8 must be recorded too.
        self._file.write(json.dumps(record, ensure_ascii=True) + "\n")
