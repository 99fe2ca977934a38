"""Run a flow from a terminal: with Prefect at home in the store, where the user names no server."""

from __future__ import annotations

import sys
from collections.abc import Callable

from flows.handoffs import Outcome
from flows.runtime import environment
from notellm2.credentials import redacted
from notellm2.errors import InputError
from notellm2.workspace import Workspace

FAILED = 1
INTERRUPTED = 130


def run_command(workspace: Workspace, purpose: str, start: Callable[[], object]) -> int:
    """Hold a workspace, run a flow there, and print its text.

    Args:
        workspace: whose lock is held, and whose Prefect home is used where the user names no server.
        purpose: what it is held for; others see it.
        start: imports the flow and runs it; Prefect must not be imported before.

    Returns:
        The exit status: 0, `FAILED` with the cause on stderr, or `INTERRUPTED`.

    Raises:
        InputError: from the flow, or another process holds the workspace.
    """
    try:
        with workspace.exclusive(purpose):
            return _run(workspace, start)
    except KeyboardInterrupt:
        sys.stderr.write("interrupted; the same command continues where it was\n")
        return INTERRUPTED


def _run(workspace: Workspace, start: Callable[[], object]) -> int:
    embedded = environment.prepare(workspace)
    if embedded:
        ended = environment.end_stale_server(workspace.prefect_home)
        if ended is not None:
            sys.stderr.write(f"ended the server that a killed run left behind (process {ended})\n")
    with environment.recorded_server(workspace.prefect_home, watch=embedded):
        # Only now: Prefect reads its settings when it is imported.
        from prefect import tags

        from flows.runtime import recovery

        if embedded:
            for name in recovery.crash_orphaned_runs():
                sys.stderr.write(f"marked run {name} of a killed process as crashed\n")
        try:
            with tags(recovery.run_tag()):
                outcome = start()
        except InputError:
            raise
        except Exception as error:  # the flow's own log has the traceback; here the cause in one line
            cause = redacted(" ".join(str(error).split()))[:500]
            sys.stderr.write(f"failed: {type(error).__name__}: {cause}\n")
            return FAILED
    if isinstance(outcome, Outcome):
        sys.stdout.write(outcome.text + "\n")
    return 0
