"""One registered model and the location where its index is published: what is in use there, and who may change it.

Planning, carrying out and recovering a change (`transaction`, `execution`, `recovery`) all look at the same release
through this module, under one lease.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import socket
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict

from notellm2.errors import InputError
from notellm2.promotion.journal import Held, hold
from notellm2.publication.location import Location
from notellm2.publication.pointer import NothingPublished, Publication, PublicationDamaged, read_pointer
from notellm2.registry import names, versions
from notellm2.registry.decisions import Action, Entry, Mode, Pair
from notellm2.registry.tracking import Tracking


class Step(StrEnum):
    """The transaction, in order. Tests kill a process before each of them."""

    LEASE = "take the lease"
    RECOVER = "finish or undo what a killed process began"
    INTENT = "write the intent"
    CHECK = "check that the champion is the one compared with"
    ALIAS = "set the alias"
    POINTER = "move the pointer"
    LEDGER = "append to the ledger"
    TAGS = "tag the version"
    DESCRIBE = "say it in the descriptions of the versions"
    CLEAR = "clear the intent"
    RETAIN = "remove what no rollback can reach"
    RELEASE = "give the lease back"


class Refused(RuntimeError):
    """The promotion was refused, and nothing was changed; the message says why and what to do."""


class ChampionMoved(Refused):
    """The champion is not the one the candidate was compared with."""


class IndexMoved(ChampionMoved):
    """Another index is published than the one that the new index was made to follow."""


class Why(BaseModel):
    """Who decided, and why.

    Attributes:
        by: a person, or the process that acted by itself.
        reason: in words.
        mode: how it was decided.
        verdict: the gate's sentence; empty where no gate was asked.
        compared_with: the champion the gate compared with; None: there was none.
        link: of a change that was asked for by moving the alias in MLflow's page: the address of that page.
    """

    model_config = ConfigDict(frozen=True)

    by: str
    reason: str
    mode: Mode
    verdict: str = ""
    compared_with: str | None = None
    link: str | None = None


class Outcome(NamedTuple):
    """What is in use after a call.

    Attributes:
        publication: what the pointer names.
        entry: the ledger's line about it; None where it was in use already and nothing was written.
    """

    publication: Publication
    entry: Entry | None


def carry_on(step: object) -> None:
    """Do nothing before a step: what is called where nobody watches."""
    del step


@dataclass(frozen=True)
class Release:
    """A registered model and the location of its published index.

    Attributes:
        tracking: the registry.
        location: of the pointer.
        lease_s: seconds until others may take over the lease of a holder that does not renew it.
        wait_s: seconds to wait for another promotion.
        on_step: called before each step.
    """

    tracking: Tracking
    location: Location
    lease_s: float = 60.0
    wait_s: float = 90.0
    on_step: Callable[[Step], None] = carry_on

    @contextlib.contextmanager
    def held(self, purpose: str) -> Iterator[Held]:
        """Hold the lease for the length of the block.

        Raises:
            LeaseTaken: another promotion is under way.
        """
        self.on_step(Step.LEASE)
        with hold(self.location, purpose, lease_s=self.lease_s, wait_s=self.wait_s) as held:
            self.on_step(Step.RECOVER)
            yield held

    def pointer(self, *, damaged_is_none: bool = False) -> Publication | None:
        """Read what readers follow; None where nothing is published.

        Raises:
            PublicationDamaged: the pointer is not readable, unless `damaged_is_none`.
            InputError: another model is published there.
        """
        try:
            pointer = read_pointer(self.location)
        except NothingPublished:
            return None
        except PublicationDamaged as error:
            if damaged_is_none:
                return None
            raise PublicationDamaged(f"{error}, or `notellm2 rollback --to VERSION` writes it anew") from None
        if pointer.model_name != self.tracking.model_name:
            raise InputError(
                f"{self.location} publishes model {pointer.model_name!r}, asked to publish there "
                f"{self.tracking.model_name!r}: readers would get other vectors at the same address; use another store"
            )
        return pointer

    def present(self, *, damaged_is_none: bool = False) -> tuple[Publication | None, Pair]:
        """Read the pointer, and the pair that alias and pointer name."""
        pointer = self.pointer(damaged_is_none=damaged_is_none)
        champion = versions.alias_version(self.tracking, names.CHAMPION)
        return pointer, Pair(version=champion, publication=None if pointer is None else pointer.version)

    def present_for(self, version: str, why: Why, *, damaged_is_none: bool = False) -> tuple[Publication | None, Pair]:
        """Read the pointer, and the pair in use: while the alias only asks for a version, the pointer says which."""
        pointer, present = self.present(damaged_is_none=damaged_is_none)
        if why.link is None or present.version != version:
            return pointer, present
        return pointer, Pair(version=pointer and pointer.model_version, publication=present.publication)

    def entry(self, action: Action, publication: Publication, over: Pair, why: Why) -> Entry:
        """Make the ledger's line of a change, without its number."""
        return Entry(
            id=uuid.uuid4().hex,
            at=datetime.now(UTC).isoformat(timespec="seconds"),
            action=action,
            model=publication.model_name,
            to=Pair(version=publication.model_version, publication=publication.version),
            over=over,
            bundle=publication.bundle,
            **why.model_dump(),
        )

    def alias_strayed(self, pointer: Publication | None) -> bool:
        """Return whether the alias is not where the pointer is, though the registry has the pointer's version."""
        if pointer is None or versions.alias_version(self.tracking, names.CHAMPION) == pointer.model_version:
            return False
        # In a registry that was lost and begun anew, versions are others.
        return versions.with_bundle(self.tracking, pointer.model_version, pointer.bundle) is not None


def this_actor() -> str:
    """Name who acts, for the record: the system's user and host."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # A container whose user has no name.
        user = f"uid-{os.getuid()}"
    return f"{user}@{socket.gethostname()}"
