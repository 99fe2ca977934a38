"""The ledger as a table for people. For `notellm2 history`."""

from __future__ import annotations

from collections.abc import Sequence

from notellm2.promotion.ledger import pairs_in_use
from notellm2.registry.decisions import Entry

_HEAD = ("", "#", "when (UTC)", "action", "version", "over", "index", "by", "why")
_WIDTH = 60


def render(entries: Sequence[Entry]) -> str:
    """Format the ledger, a line an entry, the newest last; ``*`` marks the one whose pair is in use now."""
    if not entries:
        return "nothing has been promoted yet; start with: notellm2 retrain --recipe recipes/sample.yaml"
    pairs = pairs_in_use(entries)
    current = max((e.sequence for e in entries if pairs and e.to == pairs[-1]), default=0)
    table = [_HEAD, *(_cells(entry, entry.sequence == current) for entry in entries)]
    widths = [max(len(cell) for cell in column) for column in zip(*table, strict=True)]
    return "\n".join(_line(row, widths) for row in table)


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    return "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def _cells(entry: Entry, current: bool) -> tuple[str, ...]:
    action = f"{entry.action} ({'finished by the next start' if entry.recovered else entry.mode})"
    over = entry.over.version or "none"
    if entry.action == "promote" and entry.compared_with != entry.over.version:
        over += f" (gate: {entry.compared_with or 'none'})"
    return (
        "*" if current else "",
        str(entry.sequence),
        entry.at.removesuffix("+00:00").replace("T", " "),
        action,
        entry.to.version or "none",
        over,
        entry.to.publication or "none",
        entry.by,
        _short(entry.reason),
    )


def _short(text: str) -> str:
    words = " ".join(text.split())
    return words if len(words) <= _WIDTH else words[: _WIDTH - 1] + "…"
