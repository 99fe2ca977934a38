"""A publisher that is killed before each of its file operations in turn; prints what readers would find each time.

Run as a program: `publish_crashes.py FOLDER OLD NEW` with two index artifacts as JSON references; OLD may be "null":
nothing was published before. The crash points are not listed here: Python's audit hook counts every file operation
below the published folder, and the n-th one ends the process.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

from notellm2.artifacts import Artifact
from notellm2.index.layout import damage
from notellm2.publication.pointer import NothingPublished, Publication, parse_publication, read_pointer
from notellm2.publication.publish import point, prepare, retain

DATA_MD5 = "0123456789abcdef0123456789abcdef.dir"
KILLED = 77
OPERATIONS = {"open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "fcntl.flock", "os.truncate", "os.link"}


def put(published: Path, index: Artifact, version: str) -> Publication:
    expected = None
    with contextlib.suppress(NothingPublished):
        expected = read_pointer(published).version
    publication = prepare(published, index, model_name="notes", model_version=version, data_md5=DATA_MD5)
    result = point(published, publication, expected=expected)
    # None is kept but the current one, so that removing the old one is among the crash points.
    retain(published, (), older_than_s=0)
    return result


def killed_at(point: int, published: Path, index: Artifact) -> bool:
    """Publish in a child that dies before its `point`-th file operation; False if it has fewer."""
    child = os.fork()
    if child:
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert code in (0, KILLED), f"crash point {point}: the publisher ended with {code}"
        return code == KILLED
    seen = 0

    def count(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal seen
        if event not in OPERATIONS:
            return
        target = str(arguments[0])
        # A lock is taken by descriptor, and rmtree removes by names relative to one: all of them are the publisher's.
        if target.startswith(str(published)) or not target.startswith("/"):
            seen += 1
            if seen == point:
                os._exit(KILLED)

    sys.addaudithook(count)
    put(published, index, "2")
    os._exit(0)


def found(published: Path) -> dict[str, Any]:
    """What a reader finds: the model version that the pointer names, and what is wrong with its files."""
    try:
        pointer = read_pointer(published)
    except NothingPublished:
        return {"version": None, "problems": []}
    return {"version": pointer.model_version, "problems": damage(published / pointer.folder, pointer.files)}


def incomplete(published: Path) -> list[str]:
    """Version directories under their own name that are not whole: a rollback could be sent there."""
    paths = list((published / "versions").glob("[!.]*"))
    return [p.name for p in paths if damage(p, parse_publication((p / "publication.json").read_bytes(), p.name).files)]


def main(folder: Path, old: dict[str, str] | None, new: dict[str, str]) -> None:
    index = Artifact.from_reference(new)
    start = folder / "start"
    start.mkdir()
    if old:
        put(start, Artifact.from_reference(old), "1")
    outcomes = []
    point, again = 0, True
    while again:
        point += 1
        published = folder / f"point-{point}"
        shutil.copytree(start, published)
        again = killed_at(point, published, index)
        outcome = {**found(published), "incomplete": incomplete(published)}
        put(published, index, "2")
        left = sum(1 for _ in published.rglob("*"))
        versions = [p.name for p in (published / "versions").iterdir()]
        outcomes.append({**outcome, "killed": again, "then": found(published), "versions": versions, "left": left})
        shutil.rmtree(published)
    print(json.dumps(outcomes))


if __name__ == "__main__":
    main(Path(sys.argv[1]), json.loads(sys.argv[2]), json.loads(sys.argv[3]))
