"""The commands of before, ``python -m flows.retrain`` and its like, for one more release."""

from __future__ import annotations

import sys
from typing import NoReturn


def run_as(command: str) -> NoReturn:
    """Run ``notellm2 <command>`` with the arguments of this process, after a line that says so."""
    from notellm2.cli import main

    module = command.replace("-", "_")
    sys.stderr.write(f"python -m flows.{module} will go with the next release: use `notellm2 {command}`\n")
    sys.argv[1:1] = [command]
    main()
    raise SystemExit(0)
