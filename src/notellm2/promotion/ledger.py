"""The ledger: what was promoted, rolled back, mended or refused, by whom, why and against what. Append-only JSON lines.

It lies beside the pointer as ``ledger.jsonl`` and is replaced by compare-and-swap, so two writers cannot lose each
other's line. Each line carries the digest of the line before it, so accidental damage shows: a line lost, changed or
written twice. It proves nothing against someone who may write the file and computes the digests anew; for that, compare
with the tags of the versions, which only promoters may write, or with a backup.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence

from pydantic import ValidationError

from notellm2.errors import InputError
from notellm2.publication.location import Location, Moved
from notellm2.registry.decisions import Entry, Pair

LEDGER = "ledger.jsonl"
_CHAIN_CHARS = 16


class LedgerDamaged(InputError):
    """A line of the ledger is no entry, or not the one that was written; names the line."""


class Ledger:
    """The ledger of a location.

    Args:
        location: the published place it lies in.
    """

    def __init__(self, location: Location) -> None:
        self._location = location

    def entries(self) -> tuple[Entry, ...]:
        """Read all entries, oldest first.

        Raises:
            LedgerDamaged: a line is no entry or does not follow from the one before; names it.
        """
        return self._read()[0]

    def append(self, entry: Entry) -> Entry:
        """Add an entry at the end, with its number and its link to the line before; one that is there stays as it is.

        Returns:
            The entry as it stands in the file.

        Raises:
            LedgerDamaged: see `entries`.
            OSError: the place refused; nothing was written.
        """
        while True:
            entries, data, tag = self._read()
            for known in entries:
                if known.id == entry.id:
                    return known
            previous = _digest(entries[-1].line()) if entries else ""
            numbered = entry.model_copy(update={"sequence": len(entries) + 1, "previous": previous})
            try:
                self._location.swap(LEDGER, data + numbered.line(), tag)
            except Moved:
                continue
            return numbered

    def _read(self) -> tuple[tuple[Entry, ...], bytes, str | None]:
        stored = self._location.read(LEDGER)
        if stored is None:
            return (), b"", None
        return _parse(stored.data, f"{self._location}/{LEDGER}"), stored.data, stored.tag


def _parse(data: bytes, origin: str) -> tuple[Entry, ...]:
    entries: list[Entry] = []
    previous = ""
    for number, line in enumerate(data.splitlines(keepends=True), start=1):
        try:
            entry = Entry.model_validate_json(line)
        except ValidationError as error:
            raise LedgerDamaged(_damage(origin, number, error.errors()[0]["msg"])) from None
        if (entry.sequence, entry.previous) != (number, previous) or line != entry.line():
            raise LedgerDamaged(_damage(origin, number, "it was changed, or a line before it was changed or removed"))
        entries.append(entry)
        previous = _digest(line)
    return tuple(entries)


def _damage(origin: str, number: int, what: str) -> str:
    return (
        f"{origin} line {number}: {what}; restore the file from a backup, or move it aside to begin a new one "
        "(alias, pointer and published indexes do not depend on it)"
    )


def _digest(line: bytes) -> str:
    return hashlib.sha256(line).hexdigest()[:_CHAIN_CHARS]


def pairs_in_use(entries: Iterable[Entry]) -> tuple[Pair, ...]:
    """List the pairs a rollback goes back through, the present one last.

    A promotion or a refresh adds a pair; a rollback takes pairs off until the one it went to is the last. So a second
    rollback goes one further back, and never forward to what was rolled back. A pair that is back in use counts once.
    """
    stack: list[Pair] = []
    for entry in entries:
        if not entry.moved or entry.to.publication is None:
            continue
        if entry.action == "rollback" and entry.to in stack:
            del stack[stack.index(entry.to) + 1 :]
            continue
        if not stack and entry.over.publication is not None:
            stack.append(entry.over)
        if entry.to in stack:
            stack.remove(entry.to)
        stack.append(entry.to)
    return tuple(stack)


def rolled_back(entries: Sequence[Entry], version: str, bundle: str) -> Entry | None:
    """Find the rollback that took a model out of use, if nothing has brought it back since.

    Args:
        entries: the ledger.
        version: number of the version that carries it now.
        bundle: digest of its bundle; the same model may have been another version then.
    """
    same = _same_model(entries, version, bundle)
    return _standing(
        entries,
        decides=lambda entry: entry.action == "rollback" and entry.over.version in same,
        undoes=lambda entry: entry.to.version in same and (entry.moved or entry.action == "mend"),
    )


def refused(entries: Sequence[Entry], version: str, bundle: str) -> Entry | None:
    """Find the decision of a person against a model, if nothing has brought it into use since.

    Args:
        entries: the ledger.
        version: number of the version that carries it now.
        bundle: digest of its bundle; the same model may have been another version then.
    """
    same = _same_model(entries, version, bundle)
    return _standing(
        entries,
        decides=lambda entry: entry.to.version in same and entry.action == "refuse",
        undoes=lambda entry: entry.to.version in same and entry.moved,
    )


def waits(entries: Iterable[Entry]) -> tuple[Entry, ...]:
    """Find the versions that wait for a person, oldest first.

    A wait ends when its version comes into use, is refused or expires, and when another version comes into use: the
    gate compared with the champion before it. Without a form of its own (`gate.mode: manual`) it ends too when another
    version waits: the newer one is the challenger then.
    """
    open_: dict[str | None, Entry] = {}
    for entry in entries:
        number = entry.to.version
        if entry.action == "wait":
            open_ = {other: wait for other, wait in open_.items() if wait.mode == "approval"}
            open_[number] = entry
        elif entry.action in ("expire", "refuse"):
            open_.pop(number, None)
        elif entry.action in ("promote", "rollback"):
            open_ = {}
    return tuple(open_.values())


def _standing(
    entries: Iterable[Entry], *, decides: Callable[[Entry], bool], undoes: Callable[[Entry], bool]
) -> Entry | None:
    """The last entry that decides, unless a later one undoes it; one that does both undoes."""
    standing = None
    for entry in entries:
        if undoes(entry):
            standing = None
        elif decides(entry):
            standing = entry
    return standing


def _same_model(entries: Iterable[Entry], version: str, bundle: str) -> set[str | None]:
    return {version} | {entry.to.version for entry in entries if entry.bundle == bundle}
