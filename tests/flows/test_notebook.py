"""The notebook runs on a store as a retraining leaves it, and is committed without outputs."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.conftest import ROOT, Retrained

NOTEBOOK: dict[str, Any] = json.loads((ROOT / "notebooks" / "look-at-a-store.ipynb").read_text())
CODE = [cell for cell in NOTEBOOK["cells"] if cell["cell_type"] == "code"]


def test_no_output_is_committed() -> None:
    assert [cell for cell in CODE if cell["outputs"] or cell["execution_count"] is not None] == []


def test_its_cells_run_in_order(
    retrained: Retrained, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("NOTELLM2_NOTEBOOK_STORE", str(retrained.place.workspace.root))
    monkeypatch.setenv("NOTELLM2_NOTEBOOK_DATA", str(retrained.place.root / "data"))
    names: dict[str, Any] = {}
    for cell in CODE:
        exec(compile("".join(cell["source"]), cell["id"], "exec"), names)
    said = capsys.readouterr().out
    assert "readers went on to" in said
    assert '"data_md5"' in said
