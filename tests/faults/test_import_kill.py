"""An import killed at any step leaves the old data set, whole, and nothing that the next import does not clear."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from notellm2.notes.dataset import Dataset
from notellm2.notes.import_export import import_export
from notellm2.notes.versions import data_md5
from notellm2.recipe import ImageLimits
from tests.unit.notes.exports import INTERACTIONS, NOTES, write_export

_CHILD = """
import os, signal, sys
from pathlib import Path
from notellm2.notes import import_export, replace
from notellm2.recipe import ImageLimits

def die(*arguments, **options):
    os.kill(os.getpid(), signal.SIGKILL)

{hook}
import_export.import_export(Path(sys.argv[1]), Path(sys.argv[2]), limits=ImageLimits(), progress=False)
"""

HOOKS = {
    "first image": "import_export.decode_image = die",
    "interactions": "import_export._import_interactions = die",
    "swap": "replace.publish = die",
    "exchange": "replace._exchange = die",
}


def _killed(hook: str, export: Path, into: Path) -> None:
    command = [sys.executable, "-c", _CHILD.format(hook=hook), str(export), str(into)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == -9, done.stderr


def _import(export: Path, into: Path) -> None:
    import_export(export, into, limits=ImageLimits(), progress=False)


@pytest.mark.parametrize("hook", HOOKS.values(), ids=HOOKS.keys())
def test_a_kill_before_the_swap_leaves_the_old_data_set(hook: str, tmp_path: Path) -> None:
    into = tmp_path / "data"
    _import(write_export(tmp_path / "one", NOTES[:3], INTERACTIONS[:3]), into)
    before = data_md5(into)
    two = write_export(tmp_path / "two")
    _killed(hook, two, into)
    assert data_md5(into) == before
    assert Dataset.open(into).info.notes == 3
    _import(two, into)
    assert Dataset.open(into).info.notes == 6
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "one", "two"]


def test_a_kill_after_the_swap_leaves_the_new_data_set(tmp_path: Path) -> None:
    into = tmp_path / "data"
    _import(write_export(tmp_path / "one", NOTES[:3], INTERACTIONS[:3]), into)
    two = write_export(tmp_path / "two")
    _killed("replace.shutil.rmtree = die", two, into)
    assert Dataset.open(into).info.notes == 6
    _import(two, into)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "one", "two"]


def test_a_kill_between_two_renames_is_mended_by_the_next_import(tmp_path: Path) -> None:
    # Where directories cannot change places in one step, there is a moment without any; the old one then comes back.
    into = tmp_path / "data"
    _import(write_export(tmp_path / "one", NOTES[:3], INTERACTIONS[:3]), into)
    before = data_md5(into)
    two = write_export(tmp_path / "two")
    hook = "replace._exchange = lambda one, other: False\nrename = Path.rename\n"
    hook += "Path.rename = lambda self, to: die() if '.new-' in self.name else rename(self, to)"
    _killed(hook, two, into)
    assert not into.exists()
    (two / "interactions.jsonl").write_text("broken\n")
    with pytest.raises(ValueError, match="no usable interaction"):
        _import(two, into)
    assert data_md5(into) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "one", "two"]


def test_a_running_import_is_not_swept_away_by_another(tmp_path: Path) -> None:
    from notellm2.notes.replace import building

    into = tmp_path / "data"
    with building(into) as directory:
        _import(write_export(tmp_path / "one"), into)
        assert directory.is_dir()
    assert not directory.exists()
    assert Dataset.open(into).info.notes == 6
