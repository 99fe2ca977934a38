"""The site builds strictly and without network, holds what is made from the code, and fetches nothing when read."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from docs._site.commands import commands
from docs._site.http_api import openapi
from docs._site.recipe_fields import field_names
from notellm2.recipe import Recipe
from tests.conftest import ROOT

NOWHERE = "http://127.0.0.1:9"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if importlib.util.find_spec("mkdocs") is None:
        pytest.skip("needs the extra 'docs'")
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--quiet", "--strict", "--site-dir", str(folder)],
        cwd=ROOT,
        env={**os.environ, "http_proxy": NOWHERE, "https_proxy": NOWHERE, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_every_recipe_field_has_an_anchor(site: Path) -> None:
    page = (site / "reference" / "recipe.html").read_text()
    plain = [field for field in field_names() if field not in Recipe.model_fields]
    assert [field for field in plain if f'id="{field}"' not in page] == []


def test_every_command_and_route_is_shown(site: Path) -> None:
    page = (site / "reference" / "commands.html").read_text()
    assert [name for name, _ in commands() if name not in page] == []
    routes = (site / "reference" / "http-api.html").read_text()
    assert [path for path in openapi()["paths"] if path not in routes] == []


def test_nothing_is_fetched_from_elsewhere(site: Path) -> None:
    loads = re.compile(
        r"""(?:<script[^>]*\ssrc|<link[^>]*\shref|<img[^>]*\ssrc|@import\s+url\()[="'(]+https?://[^"')]+"""
    )
    found = {m for page in site.rglob("*.html") for m in loads.findall(page.read_text()) if 'rel="canonical"' not in m}
    assert found == set()


def test_drawings_are_part_of_the_page(site: Path) -> None:
    page = (site / "index.html").read_text()
    assert page.count('class="drawing"') == 3
    assert "<!-- from the code" not in (site / "reference" / "recipe.html").read_text()
