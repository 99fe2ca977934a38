from __future__ import annotations

import socket
import subprocess
import sys

import psutil
import pytest

from notellm2.processes import has_ended, process_tag, tagged_process

HOST = socket.gethostname()


def test_a_tag_names_this_process_until_it_ends() -> None:
    assert tagged_process(process_tag()) == psutil.Process()
    assert not has_ended(process_tag())
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        tag = process_tag(psutil.Process(child.pid))
        assert tagged_process(tag) is not None
        child.kill()
        psutil.wait_procs([psutil.Process(child.pid)], timeout=0.2)
        assert has_ended(tag), "killed, and a zombie until its parent asks for it"
    assert has_ended(tag)


def test_a_later_process_of_the_same_number_is_another_one() -> None:
    host, number, created = process_tag().rsplit(":", 2)
    assert has_ended(f"{host}:{number}:{int(created) - 60}")


@pytest.mark.parametrize("tag", ["", "x", f"{HOST}:1", f"{HOST}:one:two", f"{HOST}-other:1:1", "a:b:c:d"])
def test_what_names_no_process_of_this_machine_tells_nothing(tag: str) -> None:
    assert tagged_process(tag) is None
    assert not has_ended(tag)
