"""The service as a process: uvicorn, one process, stopped gracefully."""

from __future__ import annotations

import signal
import socket
import threading
from collections.abc import Callable

from notellm2.errors import InputError
from notellm2.publication.location import Location
from notellm2.serving.api import application
from notellm2.serving.pointer_follower import Follower

_DRAIN_S = 10
"""Seconds that requests in flight have to end at a stop."""
_BACKLOG = 2048
"""Connections that wait to be accepted."""


def serve(
    location: Location, host: str, port: int, *, every_s: float = 2.0, on_start: Callable[[str], object] | None = None
) -> None:
    """Answer requests until SIGTERM or SIGINT; those in flight are finished.

    Args:
        location: the published place; nothing need be published yet.
        host: address to listen on.
        port: 0: any free one.
        every_s: seconds between two looks at the pointer.
        on_start: called with the address, before the first request.

    Raises:
        InputError: the address cannot be listened on, or the extra "serve" is not installed.
    """
    try:
        import uvicorn
    except ImportError:
        raise InputError("serving needs uvicorn: pip install 'notellm2[serve]'") from None
    follower = Follower(location, every_s=every_s)
    with _listen(host, port) as listening:
        shown = f"[{host}]" if ":" in host else host
        address = f"http://{shown}:{listening.getsockname()[1]}"
        if on_start is not None:
            on_start(address)
        config = uvicorn.Config(
            application(follower),
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=_DRAIN_S,
        )
        if threading.current_thread() is threading.main_thread():
            # uvicorn raises the signal again once it has stopped: an end that was asked for is no failure.
            signal.signal(signal.SIGTERM, _end)
            signal.signal(signal.SIGINT, _end)
        uvicorn.Server(config).run(sockets=[listening])


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0][::4]
        # TCP by name: for no other socket asyncio switches Nagle's algorithm off, which costs 40 ms an answer.
        listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        try:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind(address)
            listening.listen(_BACKLOG)
        except BaseException:
            listening.close()
            raise
    except (OSError, OverflowError) as error:
        raise InputError(f"cannot listen on {host} port {port}: {error}; name another with --host and --port") from None
    return listening


def _end(_signal: int, _frame: object) -> None:
    raise SystemExit(0)
