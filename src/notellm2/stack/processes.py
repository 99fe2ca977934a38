"""Find and end the processes of a native stack by the marks in their environment.

A parent that is killed leaves its children to the system, so neither supervisor nor a process id on disk names them.
The marks are inherited, and only processes that carry this very state folder are touched.

Run as a script with STATE SERVICE COMMAND… it is how supervisor starts a service: it becomes the command once what a
killed predecessor left is ended, whose port would be found in use.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil

STACK_MARK = "NOTELLM2_STACK_STATE"
SERVICE_MARK = "NOTELLM2_STACK_SERVICE"
_GRACE_S = 10.0


def processes(state: Path, service: str | None = None) -> Iterator[psutil.Process]:
    """Find the running processes of a stack, or of one of its services; never ourselves or those that started us."""
    ours = {os.getpid(), *(parent.pid for parent in psutil.Process().parents())}
    for process in psutil.process_iter():
        if process.pid in ours:
            continue
        try:
            marks = process.environ()
            if marks.get(STACK_MARK) != str(state) or process.status() == psutil.STATUS_ZOMBIE:
                continue
        except (psutil.Error, OSError):
            continue  # Another user's, or gone meanwhile: none of this stack.
        if service is None or marks.get(SERVICE_MARK) == service:
            yield process


def end_processes(state: Path, service: str | None = None) -> int:
    """End what still runs of a stack or of one service: ask, wait 10 s, kill.

    Returns:
        How many processes there were.
    """
    running = alive = list(processes(state, service))
    for how in (signal.SIGTERM, signal.SIGKILL):
        for process in alive:
            if process.is_running():  # psutil knows whether the number still names the same process.
                process.send_signal(how)
        _, alive = psutil.wait_procs(alive, timeout=_GRACE_S)
    return len(running)


if __name__ == "__main__":
    end_processes(Path(sys.argv[1]), sys.argv[2])
    os.execvp(sys.argv[3], sys.argv[3:])  # noqa: S606
