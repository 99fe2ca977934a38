"""The published index as a service has it: there when something is published, and the newest that is sound.

A service starts before the first publication, outlives the object store's outages, and never answers from a damaged
index. So opening is retried, and what stands in the way is shown (`Follower.problem`) while the last sound index goes
on answering.
"""

from __future__ import annotations

import logging
import threading
import time
from typing import Self

from notellm2.errors import InputError
from notellm2.publication.location import Location
from notellm2.publication.pointer import NothingPublished, Publication
from notellm2.publication.reader import OpenVersion, Published

logger = logging.getLogger(__name__)

SLOWEST_LOOK_S = 30.0
"""A look that keeps failing is repeated less and less often, down to this: a damaged index is read whole each time."""
_CLOSE_S = 10.0


class NotReady(RuntimeError):
    """No index is loaded; the message says why."""


class Follower:
    """The index that the pointer names, opened as soon as there is one and followed from then on.

    As a context it looks by itself; `look` is one look. Safe to share between threads.

    Args:
        location: the published place.
        every_s: seconds between two looks at the pointer.

    Attributes:
        location: the published place.
        problem: why the last look gave nothing new to serve; None: all is well.
        looked_at: when a look last was all well, seconds since 1970; None: never.
        loaded_at: when the index in use was loaded, seconds since 1970; None: none is.
        switches: indexes loaded so far.
        failures: looks that failed so far.
        first_look: set once the first look has ended, well or not.
    """

    def __init__(self, location: Location, *, every_s: float = 2.0) -> None:
        if not every_s > 0:
            raise InputError(f"{every_s} seconds between two looks at the pointer: expected a number above 0")
        self.location = location
        self.problem: str | None = f"still opening what is published in {location}"
        self.looked_at: float | None = None
        self.loaded_at: float | None = None
        self.switches = 0
        self.failures = 0
        self.first_look = threading.Event()
        self._every_s = every_s
        self._published: Published | None = None
        self._failed_in_a_row = 0
        self._closed = threading.Event()
        # A daemon: a download of gigabytes that is under way must not hold up the end of the process.
        self._thread = threading.Thread(target=self._run, name="follow-index", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closed.set()
        self._thread.join(_CLOSE_S)

    @property
    def current(self) -> OpenVersion:
        """The index in use. Hold on to it for one answer, which then is of one version whatever is published meanwhile.

        Raises:
            NotReady: none is loaded.
        """
        published = self._published
        if published is None:
            raise NotReady(self.problem or "no index is loaded")
        return published.current

    @property
    def loaded(self) -> OpenVersion | None:
        """The index in use, or None."""
        return None if self._published is None else self._published.current

    @property
    def pointer(self) -> Publication | None:
        """What the pointer named when it was last read; differs from what is loaded while that cannot be opened."""
        return None if self._published is None else self._published.pointer

    def look(self) -> bool:
        """Look at the pointer once and follow it; whatever goes wrong becomes `problem`.

        Returns:
            Whether another index is served now.
        """
        try:
            if self._published is None:
                self._published, moved = Published(self.location), True
            else:
                moved = self._published.refresh()
        except Exception as error:
            # Whatever it is, the service must live to see it mended; and three places show it.
            self._fail(error)
            return False
        now = time.time()
        if moved:
            self.loaded_at = now
            self.switches += 1
            publication = self._published.publication
            logger.info(
                "serving %s: model %s version %s, %d notes of data %s",
                *(
                    publication.version,
                    publication.model_name,
                    publication.model_version,
                    publication.count,
                    publication.data_md5,
                ),
            )
        elif self.problem is not None:
            logger.info("the pointer can be followed again")
        self._failed_in_a_row = 0
        self.looked_at = now
        self.problem = None
        return moved

    def _fail(self, error: Exception) -> None:
        expected = isinstance(error, InputError | OSError)
        problem = str(error) if expected else f"{type(error).__name__}: {error}"
        if problem != self.problem:  # A fault that stays is logged once.
            still = (
                "nothing to serve"
                if self._published is None
                else f"still serving {self._published.publication.version}"
            )
            logger.warning("%s: %s", still, problem, exc_info=None if expected else error)
        self.problem = problem
        self.failures += 1
        # To see that nothing is published is one small read: the first publication should not wait.
        self._failed_in_a_row = 0 if isinstance(error, NothingPublished) else self._failed_in_a_row + 1

    def _run(self) -> None:
        while True:
            self.look()
            self.first_look.set()
            slower = self._every_s * 2.0 ** min(self._failed_in_a_row, 10)
            if self._closed.wait(max(self._every_s, min(slower, SLOWEST_LOOK_S))):
                return
