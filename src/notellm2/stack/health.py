"""Ask a server whether it is well: ``python -m notellm2.stack.health URL``. Standard library only.

The health check of our containers, which have no curl, and of the native stack.
"""

from __future__ import annotations

import sys
import urllib.error
import urllib.request

_TIMEOUT_S = 10.0


def main(arguments: list[str]) -> int:
    """Return 0 where a GET of the URL answers with 200 within 10 s, 1 where not, 2 where it is no http URL."""
    if len(arguments) != 1 or not arguments[0].startswith(("http://", "https://")):
        sys.stderr.write("usage: python -m notellm2.stack.health http://HOST:PORT/PATH\n")
        return 2
    # A proxy of the surroundings has no business between a server and its own health check.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(arguments[0], timeout=_TIMEOUT_S) as answer:
            return 0 if answer.status == 200 else 1
    except (OSError, urllib.error.URLError) as error:
        sys.stderr.write(f"{arguments[0]}: {error}\n")
        return 1


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
