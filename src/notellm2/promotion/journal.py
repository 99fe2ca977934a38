"""The journal of the promotion: who holds the lease, and what its holder is about to do.

One small object beside the pointer, ``promotion.json``, replaced by compare-and-swap only:

    {"format": 1, "lease": {"token", "holder", "purpose", "since", "expires"} | null, "intent": {...} | null}

Lease and intent are one object so that every write proves the lease: a holder that slept past its expiry finds another
one's token at its next write and stops. A lease is free when it has expired, or at once when its holder was a process
of this machine that has ended. Expiry is judged by the clock of whoever asks, so machines' clocks must agree better
than `lease_s`. Pointer and ledger are compare-and-swap too; what a late holder still moved between its last look at the
lease and its next is settled when it finds the lease gone, or by the next start: the pointer decides.
"""

from __future__ import annotations

import contextlib
import json
import logging
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from notellm2.errors import InputError
from notellm2.processes import has_ended, process_tag
from notellm2.publication.location import Location, Moved
from notellm2.registry.decisions import Entry

logger = logging.getLogger(__name__)

JOURNAL = "promotion.json"
FORMAT = 1
_POLL_S = 0.05


class LeaseTaken(RuntimeError):
    """Another promotion is under way, and did not end in the time waited; nothing was changed."""


class LeaseLost(RuntimeError):
    """The lease expired and another process took it over; the next start finishes or undoes what was begun."""


class Lease(BaseModel):
    """Who may change alias and pointer, and until when.

    Attributes:
        token: of this one holding; no other has it.
        holder: host, process and its time of creation (`processes.process_tag`).
        namespace: of process numbers, as the system names it: in another one the number says nothing.
        purpose: for whoever waits.
        since: seconds since 1970.
        expires: seconds since 1970.
    """

    model_config = ConfigDict(frozen=True)

    token: str
    holder: str
    namespace: str
    purpose: str
    since: float
    expires: float

    def is_free(self, now: float) -> bool:
        """Return whether another may take it: it has expired, or its holder has ended."""
        return now >= self.expires or (self.namespace == _namespace() and has_ended(self.holder))


class _State(BaseModel):
    model_config = ConfigDict(frozen=True)

    format: int = FORMAT
    lease: Lease | None = None
    intent: Entry | None = None


class Held:
    """The lease, held: reads and writes the intent. See `hold`."""

    def __init__(self, location: Location, state: _State, tag: str, lease_s: float) -> None:
        self._location = location
        self._state = state
        self._tag = tag
        self._lease_s = lease_s

    @property
    def intent(self) -> Entry | None:
        """What is recorded as begun and not ended."""
        return self._state.intent

    def record(self, intent: Entry | None) -> None:
        """Replace the intent; the lease lasts `lease_s` from now.

        Raises:
            LeaseLost: it is another process's now.
            OSError: the place refused; the recorded intent is the old one.
        """
        lease = self._state.lease
        if lease is None:
            raise LeaseLost("the lease was given back already")
        self._write(_State(lease=lease.model_copy(update={"expires": time.time() + self._lease_s}), intent=intent))

    def renew(self) -> None:
        """Make the lease last `lease_s` from now; proves that it is still ours.

        Raises:
            LeaseLost, OSError: as `record`.
        """
        self.record(self.intent)

    def release(self) -> None:
        """Give the lease back; an intent that is recorded stays for the next holder."""
        self._write(_State(intent=self.intent))

    def _write(self, state: _State) -> None:
        try:
            self._tag = self._location.swap(JOURNAL, _bytes(state), self._tag)
        except Moved:
            raise LeaseLost(
                f"{self._location}/{JOURNAL}: the lease expired and was taken over by another process; see "
                "`notellm2 history` for what is in use now, then try again"
            ) from None
        self._state = state


@contextlib.contextmanager
def hold(
    location: Location,
    purpose: str,
    *,
    lease_s: float,
    wait_s: float,
    on_wait: Callable[[float], None] = time.sleep,
) -> Iterator[Held]:
    """Hold the lease of a location.

    Args:
        location: the published place.
        purpose: what for, shown to whoever waits.
        lease_s: seconds after the last write until others may take it over.
        wait_s: seconds to wait for another holder; 0: not at all.
        on_wait: waits that many seconds.

    Raises:
        LeaseTaken: another process held it all the time; nothing was changed.
        InputError: the journal is not readable; says how to go on.
    """
    deadline = time.monotonic() + wait_s
    while True:
        held, other = _try(location, purpose, lease_s)
        if held is not None:
            break
        if time.monotonic() >= deadline:
            raise LeaseTaken(_taken(location, other, wait_s))
        on_wait(_POLL_S)
    try:
        yield held
    except LeaseLost:
        raise
    except BaseException:
        # The error on its way matters more; a lease that cannot be given back expires.
        with contextlib.suppress(LeaseLost, OSError):
            held.release()
        raise
    try:
        held.release()
    except (LeaseLost, OSError) as error:
        # All is done and recorded: what is left is a lease that others see expire.
        logger.warning("could not give the promotion's lease back: %s", error)


def _try(location: Location, purpose: str, lease_s: float) -> tuple[Held | None, Lease | None]:
    stored = location.read(JOURNAL)
    state = _State() if stored is None else _parse(stored.data, f"{location}/{JOURNAL}")
    now = time.time()
    if state.lease is not None:
        if not state.lease.is_free(now):
            return None, state.lease
        logger.warning("taking over the promotion's lease of %s (%s)", state.lease.holder, state.lease.purpose)
    lease = Lease(
        token=uuid.uuid4().hex,
        holder=process_tag(),
        namespace=_namespace(),
        purpose=purpose,
        since=now,
        expires=now + lease_s,
    )
    taken = _State(lease=lease, intent=state.intent)
    try:
        tag = location.swap(JOURNAL, _bytes(taken), None if stored is None else stored.tag)
    except Moved:
        return None, state.lease
    return Held(location, taken, tag, lease_s), None


def read_intent(location: Location) -> Entry | None:
    """Read what is recorded as begun and not ended, for people; says nothing of whether its process still runs.

    Raises:
        InputError: the journal is not readable.
    """
    stored = location.read(JOURNAL)
    return None if stored is None else _parse(stored.data, f"{location}/{JOURNAL}").intent


def _parse(data: bytes, origin: str) -> _State:
    try:
        state = _State.model_validate_json(data)
    except ValidationError as error:
        raise InputError(
            f"{origin}: not readable as the promotion's journal ({error.errors()[0]['msg']}): restore it, or, if no "
            "promotion is under way, remove it; the next promotion then puts the alias where the pointer is"
        ) from None
    if state.format != FORMAT:
        raise InputError(f"{origin}: format {state.format}, this release reads {FORMAT}: use the release that wrote it")
    return state


def _bytes(state: _State) -> bytes:
    return (json.dumps(state.model_dump(mode="json"), indent=2) + "\n").encode()


def _taken(location: Location, other: Lease | None, waited_s: float) -> str:
    by = "another process"
    if other is not None:
        since = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(other.since))
        by = f"{other.holder} ({other.purpose}, since {since})"
    return (
        f"{location}: a promotion is under way by {by}, and did not end within {waited_s:g} s; nothing was changed: "
        "look at `notellm2 history` when it has ended, and decide again"
    )


def _namespace() -> str:
    try:
        return str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return ""
