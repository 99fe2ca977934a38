"""`python -m notellm2.training ASSIGNMENT`: one process of a training that ``accelerate launch`` shares among several.

`notellm2.training.launch` starts it on one machine; for several, see docs/guides/train-larger.md. The leading process
leaves ``outcome.json`` beside the assignment: ``{"figures": …}``, or ``{"input_error": message}``. Exit code 2: the
input is wrong.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import threading
from pathlib import Path

from notellm2.artifacts import write_atomic
from notellm2.errors import InputError
from notellm2.threads import let_idle_threads_sleep

EXIT_INPUT = 2
EXIT_ORPHANED = 3


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m notellm2.training",
        description="One process of a training; start it with accelerate launch.",
        epilog="example: accelerate launch --num_processes 2 --multi_gpu -m notellm2.training "
        "store/training/.KEY.work/assignment.json",
    )
    parser.add_argument("assignment", type=Path, help="assignment.json, in the training's work folder")
    parser.add_argument("--exit-with-parent", action="store_true", help="end when standard input does")
    options = parser.parse_args(arguments)
    if options.exit_with_parent:
        threading.Thread(target=_exit_with_parent, daemon=True).start()
    let_idle_threads_sleep()
    from notellm2.training.fit import Assignment, fit
    from notellm2.training.launch import OUTCOME
    from notellm2.training.process_group import Team

    team = Team.joined()
    logging.basicConfig(
        stream=sys.stderr,
        level=logging.INFO if team.leads else logging.WARNING,
        format=f"%(asctime)s process {team.rank}: %(message)s",
    )
    assignment = Assignment.model_validate_json(options.assignment.read_text())
    try:
        outcome: dict[str, object] = {"figures": fit(assignment, team)}
    except InputError as error:
        outcome = {"input_error": str(error)}
    if team.leads:
        write_atomic(assignment.work / OUTCOME, json.dumps(outcome))
    # Whoever leaves first would be reported as lost by the others.
    team.wait()
    return 0 if "figures" in outcome else EXIT_INPUT


def _exit_with_parent() -> None:
    # Nobody writes to this pipe: reading returns when its last writer, the parent, is gone. By the descriptor, because
    # a thread that holds the lock of sys.stdin's buffer makes the interpreter abort at shutdown.
    while os.read(0, 4096):
        pass
    os._exit(EXIT_ORPHANED)


if __name__ == "__main__":
    sys.exit(main())
