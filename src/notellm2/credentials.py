"""Secrets come from the environment or from files, and never leave again: reading them, and masking what is shown.

Every secret variable ``NAME`` may be set as ``NAME_FILE`` instead, the path of a file that holds it, as Docker and
Kubernetes hand secrets to a process.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from notellm2.errors import InputError

_IN_URL = re.compile(r"(?<=://)(?P<user>[^/\s:@'\"]*):[^/\s'\"]*@")


def secret(name: str) -> str | None:
    """Read a secret variable, or the file that ``NAME_FILE`` names; None where neither is set.

    Raises:
        InputError: both are set and differ, or the file cannot be read or is empty; never tells the value.
    """
    value, path = os.environ.get(name), os.environ.get(f"{name}_FILE")
    if not path:
        return value or None
    try:
        held = Path(path).read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{name}_FILE {path}: expected a readable text file with the secret ({error})") from None
    if not held:
        raise InputError(f"{name}_FILE {path}: the file is empty; expected the secret in it")
    if value and value != held:
        raise InputError(f"{name} and {name}_FILE {path} are both set, to two secrets: set one of them")
    return held


def redacted(text: str) -> str:
    """Replace every password in a text's URLs (``scheme://user:password@host``) by ``***``."""
    return _IN_URL.sub(r"\g<user>:***@", text)
