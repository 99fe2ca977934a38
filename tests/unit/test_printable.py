"""Whatever text holds, it can be printed on any terminal, and no terminal obeys it."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from notellm2.printable import printable, tolerate_any_text
from tests.conftest import ROOT

ODD_CSV = b"note_id,title,ann\xe9e\nn1,T,2000\nn2,\x1b[31mred,2001\n\xe9,bad,2002\n"


def test_what_a_terminal_would_obey_is_shown() -> None:
    odd = "a\x1b[2Jb\rc\nd\x00\x7f\x9b\u2028\u202eright\udce9"
    assert printable(odd) == r"a\x1b[2Jb\rc\nd\x00\x7f\x9b\u2028\u202eright\udce9"
    assert printable("two\n\tlines\r", lines=True) == "two\n\tlines\\r"


def test_what_people_write_stays() -> None:
    for text in ("plain", "Grüße, 你好, שלום", "👩‍👩‍👧 e\u0301", 'a "quoted" \\ path'):
        assert printable(text) == text


@given(st.text(st.characters()))
def test_any_text_becomes_one_line_that_can_be_encoded(text: str) -> None:
    shown = printable(text)
    assert len(f"x{shown}x".splitlines()) == 1
    shown.encode("utf-8")


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "latin-1", "gbk"])
def test_no_encoding_of_a_terminal_ends_a_command(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    sink = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(sink, encoding=encoding, errors="strict"))
    tolerate_any_text()
    sys.stdout.write("é 你 \udce9")
    sys.stdout.flush()
    assert b"\\udce9" in sink.getvalue()


@pytest.mark.parametrize("encoding", ["utf-8:strict", "ascii:strict", "latin-1:strict"])
def test_an_import_reports_names_that_are_not_utf8(encoding: str, tmp_path: Path) -> None:
    export = tmp_path / "export"
    export.mkdir()
    (export / "notes.csv").write_bytes(ODD_CSV)
    (export / "interactions.csv").write_text("user_id,note_id,timestamp\nu,n1,5\nu,n\x1b2,5\n")
    environment = {**os.environ, "PYTHONIOENCODING": encoding, "PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run(
        [sys.executable, "-m", "notellm2", "import", str(export), "--into", str(tmp_path / "data")],
        env=environment,
        capture_output=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"not read: ann\\udce9e" in done.stdout
    assert b"\x1b" not in done.stdout
    assert b"no note 'n\\x1b2' was kept" in done.stdout
