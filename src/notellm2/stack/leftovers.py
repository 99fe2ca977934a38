"""Find and end the processes of a native stack by the marks in their environment.

A parent that is killed leaves its children to the system, so neither supervisor nor a process id on disk names them.
The marks are inherited, and only processes that carry this very state folder are touched.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import psutil

from notellm2.stack.layout import SERVICE_MARK, STACK_MARK, StateFolder

_GRACE_S = 10.0


def processes(state: StateFolder, service: str | None = None) -> Iterator[psutil.Process]:
    """The running processes of a stack, or of one of its services; never ourselves or those that started us."""
    ours = {os.getpid(), *(parent.pid for parent in psutil.Process().parents())}
    for process in psutil.process_iter():
        if process.pid in ours:
            continue
        try:
            marks = process.environ()
            if marks.get(STACK_MARK) != str(state.root) or process.status() == psutil.STATUS_ZOMBIE:
                continue
        except (psutil.Error, OSError):
            continue  # Another user's, or gone meanwhile: none of this stack.
        if service is None or marks.get(SERVICE_MARK) == service:
            yield process


def end_processes(state: StateFolder, service: str | None = None, how: int = signal.SIGTERM) -> int:
    """End what still runs of a stack or of one service: ask, wait 10 s, kill.

    Returns:
        How many processes there were.
    """
    found = list(processes(state, service))
    for process in found:
        _signal(process, how)
    _, alive = psutil.wait_procs(found, timeout=_GRACE_S)
    for process in alive:
        _signal(process, signal.SIGKILL)
    psutil.wait_procs(alive, timeout=_GRACE_S)
    return len(found)


def _signal(process: psutil.Process, how: int) -> None:
    try:
        process.send_signal(how)  # psutil checks that the number still names the same process.
    except psutil.NoSuchProcess:
        return
