"""Become one service of the native stack: ``python -m notellm2.stack.launch STATE SERVICE``, started by supervisor.

Supervisor's own file would hold the service's environment, secrets among it, in clear and in its own quoting. So
supervisor starts this instead, which reads the service's file (readable by its owner alone), ends what a killed
predecessor left behind, gives up root where the service runs as another user, and becomes the service.
"""

from __future__ import annotations

import os
import pwd
import sys
from pathlib import Path

from notellm2.stack.layout import Program, StateFolder
from notellm2.stack.leftovers import end_processes


def launch(state: StateFolder, name: str) -> None:
    """Replace this process by the service's program.

    A predecessor killed with -9 leaves children that hold its port, and the port would be found in use.
    """
    program = Program.read(state.program(name))
    end_processes(state, service=name)
    state.launched(name).write_text(program.digest())
    environment = {**program.whole_environment(), **state.marks(name)}
    if program.user and os.geteuid() == 0:
        entry = pwd.getpwnam(program.user)
        environment.update(HOME=entry.pw_dir, USER=entry.pw_name, LOGNAME=entry.pw_name)
        os.initgroups(entry.pw_name, entry.pw_gid)
        os.setgid(entry.pw_gid)
        os.setuid(entry.pw_uid)
    os.chdir(program.folder)
    os.execvpe(program.command[0], program.command, environment)  # noqa: S606


if __name__ == "__main__":
    launch(StateFolder(Path(sys.argv[1])), sys.argv[2])
