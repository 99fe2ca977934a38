"""Which process: a number comes round, so its host and its time of creation tell it from a later one."""

from __future__ import annotations

import socket

import psutil

_PLAY_S = 5.0
"""Seconds by which a time of creation may differ: the system derives it from a clock that may have been set."""


def process_tag(process: psutil.Process | None = None) -> str:
    """Identify a process on this machine as ``host:number:created``, seconds since 1970; None: this one."""
    process = process or psutil.Process()
    return f"{socket.gethostname()}:{process.pid}:{process.create_time():.0f}"


def tagged_process(tag: str) -> psutil.Process | None:
    """Find the running process of this machine that a tag names; None if it has ended or is elsewhere."""
    host, number, created = _parts(tag)
    if host != socket.gethostname() or not (number.isdigit() and created.isdigit()):
        return None
    try:
        process = psutil.Process(int(number))
        same = abs(process.create_time() - int(created)) < _PLAY_S
        return process if same and process.status() != psutil.STATUS_ZOMBIE else None
    except psutil.NoSuchProcess:
        return None


def has_ended(tag: str) -> bool:
    """Return whether a tag names a process of this machine that runs no more; False for other machines."""
    host, number, created = _parts(tag)
    ours = host == socket.gethostname() and number.isdigit() and created.isdigit()
    return ours and tagged_process(tag) is None


def _parts(tag: str) -> tuple[str, str, str]:
    host, number, created = ["", "", "", *tag.rsplit(":", 2)][-3:]
    return host, number, created
