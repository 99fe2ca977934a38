"""Names of runs as the list of runs shows them: recipe, data version, when it began, and what came of it.

A name that a person gave is theirs: nothing is added to it.
"""

from __future__ import annotations

import re
from datetime import datetime

_OWN = re.compile(r"(?P<base>.+ · data \S{1,8} · \d{4}-\d\d-\d\d \d\d:\d\d)(?: · .+)?")


def run_name(recipe: str, data_md5: str, begun: datetime) -> str:
    """Make a new run's name.

    Args:
        recipe: its name.
        data_md5: the data version.
        begun: when, UTC.
    """
    return f"{recipe} · data {data_md5[:8]} · {begun:%Y-%m-%d %H:%M}"


def named(name: str, outcome: str | None) -> str:
    """Say in a run's name what came of it, in place of what it said before; None: not known yet."""
    own = _OWN.fullmatch(name)
    if own is None:
        return name
    return own["base"] if outcome is None else f"{own['base']} · {outcome}"
