"""A writer killed anywhere leaves nothing visible; two writers of the same work leave one artifact."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from notellm2.artifacts import Store

WRITER = """
import os, signal, sys
from pathlib import Path
from notellm2 import artifacts

root, where = Path(sys.argv[1]), sys.argv[2]

def die(*_args, **_kwargs):
    os.kill(os.getpid(), signal.SIGKILL)

def write(directory):
    (directory / "one.txt").write_text("one")
    if where == "writing":
        die()
    (directory / "two.txt").write_text("two")
    return {"files": 2}

if where == "hashing":
    artifacts.digest_file = die
elif where == "manifest":
    artifacts.write_atomic = die
elif where == "publishing":
    artifacts.Store._publish = die
elif where == "published":
    publish = artifacts.Store._publish
    artifacts.Store._publish = lambda *args: (publish(*args), die())
artifact = artifacts.Store(root).build("pairs", 1, {}, {}, write)
print(artifact.path)
"""


def run(root: Path, where: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", WRITER, str(root), where], capture_output=True, text=True, timeout=60, check=False
    )


@pytest.mark.parametrize("where", ["writing", "hashing", "manifest", "publishing"])
def test_killed_before_the_rename_nothing_exists_and_the_next_run_makes_it(tmp_path: Path, where: str) -> None:
    killed = run(tmp_path, where)
    assert killed.returncode == -9, killed.stderr
    store = Store(tmp_path)
    assert list(store.artifacts()) == []
    leftovers = list((tmp_path / "pairs").glob(".*.tmp-*"))
    assert len(leftovers) == 1

    assert run(tmp_path, "nowhere").returncode == 0
    (made,) = store.artifacts()
    assert store.problems(made) == []

    assert store.gc({(made.stage, made.key)}, older_than_s=-1) == leftovers
    assert list(store.artifacts()) == [made]


def test_killed_after_the_rename_the_artifact_is_whole_and_reused(tmp_path: Path) -> None:
    assert run(tmp_path, "published").returncode == -9
    store = Store(tmp_path)
    (made,) = store.artifacts()
    assert store.problems(made) == []
    before = made.path.stat().st_ino
    assert run(tmp_path, "nowhere").returncode == 0
    assert made.path.stat().st_ino == before


def test_two_writers_of_the_same_work_leave_one_whole_artifact(tmp_path: Path) -> None:
    racing = """
import sys
from pathlib import Path
from notellm2.artifacts import Store

def write(directory):
    (directory / "one.txt").write_text("one")
    print("written", flush=True)
    sys.stdin.readline()

print(Store(Path(sys.argv[1])).build("pairs", 1, {}, {}, write).path, flush=True)
"""
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", racing, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    # Both are inside `write` before either may go on to publish, so both publish: one wins, one must accept it.
    for writer in writers:
        assert writer.stdout is not None
        assert writer.stdout.readline().strip() == "written"
    paths = [writer.communicate("go\n", timeout=60)[0].strip() for writer in writers]
    assert [writer.returncode for writer in writers] == [0, 0]
    store = Store(tmp_path)
    (made,) = store.artifacts()
    assert paths == [str(made.path)] * 2
    assert store.problems(made) == []
    assert list((tmp_path / "pairs").glob(".*")) == []
