from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from notellm2.errors import InputError
from notellm2.workspace import Workspace

HOLDER = """
import sys
from pathlib import Path
from notellm2.workspace import Workspace

with Workspace.at(Path(sys.argv[1])).exclusive("retrain"):
    print("held", flush=True)
    sys.stdin.readline()
"""


def test_everything_lies_below_one_absolute_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    workspace = Workspace.at(Path("store"))
    assert workspace.root == tmp_path / "store"
    assert workspace.tracking_uri == f"sqlite:///{tmp_path}/store/_mlflow/mlflow.db"
    for path in (workspace.mlflow_artifacts, workspace.prefect_home, workspace.published):
        assert path.parent == workspace.root or path.parent.parent == workspace.root
        assert path.relative_to(workspace.root).parts[0].startswith("_"), "no stage may have that name"
    assert not workspace.root.exists(), "naming places makes nothing"
    monkeypatch.setenv("NOTELLM2_PUBLISHED", "s3://bucket/prefix")
    assert workspace.published == "s3://bucket/prefix"


def test_the_second_writer_is_told_who_holds_the_store(tmp_path: Path) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    assert holder.stdout.readline().strip() == "held"
    told = pytest.raises(InputError, match=rf"in use by retrain, process {holder.pid}, since 20")
    with told, Workspace.at(tmp_path).exclusive("retrain"):
        pytest.fail("held twice")
    holder.kill()
    holder.communicate(timeout=30)
    with Workspace.at(tmp_path).exclusive("retrain"):
        assert str(os.getpid()) in (tmp_path / ".lock").read_text(), "a killed holder frees the store"
    with Workspace.at(tmp_path).exclusive("artifacts gc"):
        assert (tmp_path / ".lock").read_text().startswith("artifacts gc, process ")
