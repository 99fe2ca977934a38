"""Decisions about a version as runs, versions and the ledger record them: verdicts of the gate, ledger entries."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

Action = Literal["promote", "refresh", "rollback", "mend", "wait", "expire", "refuse"]
MOVES = frozenset({"promote", "refresh", "rollback"})
"""Actions that bring a pair into use; `mend` puts the alias back to it, the others move nothing."""
Mode = Literal["automatic", "approval", "manual"]


class Rule(BaseModel):
    """One rule's outcome.

    Attributes:
        name: short and stable.
        passed: whether it holds.
        detail: what was compared, with its numbers.
        required: whether a failure refuses the challenger; otherwise it is a warning.
    """

    model_config = ConfigDict(frozen=True)

    name: str
    passed: bool
    detail: str
    required: bool = True


class Verdict(BaseModel):
    """What the gate says of a challenger.

    Attributes:
        passed: whether every required rule holds.
        rules: all of them, in the order they were judged.
        sentence: the verdict for people, with the reasons of a refusal.
    """

    model_config = ConfigDict(frozen=True)

    passed: bool
    rules: tuple[Rule, ...]
    sentence: str

    @property
    def warnings(self) -> tuple[Rule, ...]:
        """Rules that failed without refusing the challenger."""
        return tuple(rule for rule in self.rules if not rule.passed and not rule.required)


class Pair(BaseModel):
    """What alias and pointer name together.

    Attributes:
        version: number of the registered version; None: no alias was set.
        publication: name of the published index; None: there was no pointer.
    """

    model_config = ConfigDict(frozen=True)

    version: str | None
    publication: str | None


class Entry(BaseModel):
    """One line of the ledger.

    Attributes:
        format: of the line.
        sequence: 1 for the first line.
        id: of the change; the same in the intent it was written from.
        at: when the change began, ISO 8601, UTC.
        action: promote: a version became champion. refresh: another index of the champion. rollback: an earlier pair.
            mend: the alias had left the pointer and was put back. wait: a version passed the gate, and a person is
            to decide. expire: nobody decided in time. refuse: a person decided against it.
        model: name of the registered model.
        to: the pair in use since; where nothing moved, the version that was decided on, without an index.
        over: the pair in use before.
        bundle: digest of the model bundle of `to`.
        compared_with: the champion that the gate compared with; None: there was none, or no gate was asked.
        mode: how it was decided.
        by: who decided.
        reason: why.
        verdict: the gate's sentence; empty where no gate was asked.
        recovered: whether a later start finished it after its process had died.
        until: of a wait, when it expires, ISO 8601, UTC; None: it does not.
        link: address of the page where a person decides.
        flow_run: id of the Prefect flow run that waits.
        previous: digest of the line before; empty in the first.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = 1
    sequence: int = 0
    id: str
    at: str
    action: Action
    model: str
    to: Pair
    over: Pair
    bundle: str
    compared_with: str | None
    mode: Mode
    by: str
    reason: str
    verdict: str = ""
    recovered: bool = False
    until: str | None = None
    link: str | None = None
    flow_run: str | None = None
    previous: str = ""

    @property
    def moved(self) -> bool:
        """Whether a pair came into use by it."""
        return self.action in MOVES

    def line(self) -> bytes:
        """Write the entry as its line of the file."""
        absent = {name for name in ("until", "link", "flow_run") if getattr(self, name) is None}
        return self.model_dump_json(exclude=absent).encode() + b"\n"
