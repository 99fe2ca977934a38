"""This tree as an installed package: its metadata, which name the commands that plug into `notellm2`.

An editable installation keeps the metadata of the day it was made; tests must see the commands of the tree they test.
"""

from __future__ import annotations

import atexit
import functools
import shutil
import sys
import tempfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]


@functools.cache
def metadata_folder() -> Path:
    """A folder for Python's path with the metadata that an installation of this tree would have."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    folder = Path(tempfile.mkdtemp(prefix="notellm2-metadata-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    info = folder / f"notellm2-{project['version']}.dist-info"
    info.mkdir()
    fields = ["Metadata-Version: 2.1", "Name: notellm2", f"Version: {project['version']}"]
    fields += [f"Requires-Dist: {requirement}" for requirement in project["dependencies"]]
    (info / "METADATA").write_text("\n".join(fields) + "\n")
    lines = []
    for group, points in {"console_scripts": project["scripts"], **project["entry-points"]}.items():
        lines += [f"[{group}]", *(f"{name} = {value}" for name, value in points.items())]
    (info / "entry_points.txt").write_text("\n".join(lines) + "\n")
    return folder


def use() -> str:
    """Put the tree and its metadata first on this process's path; returns the same for ``PYTHONPATH`` of others."""
    path = [str(ROOT / "src"), str(ROOT), str(metadata_folder())]
    sys.path[:0] = [entry for entry in path if entry not in sys.path]
    return ":".join(path)
