"""The page: one file, nothing from elsewhere, and it shows what it is told as text."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from urllib.parse import quote

import pytest

from notellm2.artifacts import Store
from notellm2.serving.page import Page
from tests.unit.index.examples import clustered, index_artifact, publish
from tests.unit.serving.conftest import NOTES, ODD
from tests.unit.serving.test_server import Process


def test_the_page_loads_nothing_and_forbids_it_too() -> None:
    page = Page.load()
    assert re.findall(r"""(?:src|href)=|url\(|@import|https?://""", page.html) == []
    assert not re.search(r"innerHTML|insertAdjacent|document\.write|eval\(", page.html)
    policy = page.headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; connect-src 'self'; style-src 'sha256-")
    assert "unsafe" not in policy


@pytest.fixture
def chromium() -> str:
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if found is None:
        pytest.skip("needs chromium on PATH")
    return found


def shown(chromium: str, address: str) -> str:
    """The page's body after its scripts have run."""
    with tempfile.TemporaryDirectory() as profile:
        command = [chromium, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={profile}"]
        command += ["--virtual-time-budget=8000", "--dump-dom", address]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return done.stdout.partition("<body>")[2].partition("<script>")[0]


@pytest.mark.browser
def test_a_browser_shows_the_neighbours_as_text(chromium: str, published: Path, tmp_path: Path) -> None:
    ids, titles = ["asked", ODD, *(f"m{row}" for row in range(2, NOTES))], ["", "", *["<i>Walk</i>"] * (NOTES - 2)]
    index = index_artifact(Store(tmp_path / "store"), clustered(NOTES), ids=ids, titles=titles)
    pointer = publish(published, index, model_version="7")
    with Process(published) as service:
        body = shown(chromium, f"{service.url}/#asked")
        assert body.count("<li>") == 10
        assert body.count("&lt;i&gt;Walk&lt;/i&gt;") >= 9
        assert "<i>" not in body
        assert "notes version 7" in body
        assert pointer.version in body
        odd = shown(chromium, f"{service.url}/#{quote(ODD, safe='')}")
        assert "<b>a/b ?#é&lt;b&gt;</b>" in odd, "in bold as text"
        unknown = shown(chromium, f"{service.url}/#m39x")
        assert '<a href="#m39">m39</a>' in unknown
        assert "<li>" not in unknown
