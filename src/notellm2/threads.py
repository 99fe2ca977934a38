"""Make idle numeric threads sleep, and say how many there are.

torch's CPU build waits by spinning: beside other work, threads that wait hold the cores that the others need, and a
training of two threads has been seen twenty times slower than with threads that sleep. The OpenMP runtime reads its
environment when it is loaded, so this comes before the first import of torch, and child processes inherit it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, MutableMapping

PASSIVE = {"OMP_WAIT_POLICY": "PASSIVE"}
_CHOICES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
"""Any of these in the environment is a user's own choice of how threads wait."""


def let_idle_threads_sleep(environment: MutableMapping[str, str] = os.environ) -> None:
    """Set in an environment that idle threads sleep, unless the user has chosen how they wait."""
    if not any(name in environment for name in _CHOICES):
        environment.update(PASSIVE)


def describe_threads(count: int, environment: Mapping[str, str] = os.environ) -> str:
    """Say in a line how many threads compute, why so many, and how they wait.

    Args:
        count: threads of torch, ``torch.get_num_threads()``.
        environment: of this process.
    """
    chosen = environment.get("OMP_NUM_THREADS")
    reason = f"OMP_NUM_THREADS={chosen}" if chosen else f"torch's own choice for {os.cpu_count()} cores"
    wait = next((f"{name}={environment[name]}" for name in _CHOICES if name in environment), None)
    return f"{count} threads ({reason}); while idle they {'spin' if wait is None else 'wait by ' + wait}"
