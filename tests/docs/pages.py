"""The pages of the documentation, and the code in them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tests.conftest import ROOT

PAGES = sorted([*(ROOT / "docs").rglob("*.md"), ROOT / "README.md", ROOT / "CONTRIBUTING.md"])
PRESENT = [page for page in PAGES if page.name != "log.md" and "decisions" not in page.parts]
"""Pages that say what is; the log and the decisions say what was."""
_BLOCK = re.compile(
    r"^(?P<mark><!-- runs -->\n)?```(?P<language>\w*)[^\n]*\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL
)
_INLINE = re.compile(r"`([^`\n]+)`")


class Block(NamedTuple):
    """A fenced block: its language, its code, and whether a test runs it."""

    language: str
    code: str
    runs: bool


def blocks(page: Path) -> list[Block]:
    """The fenced blocks of a page, in order."""
    return [Block(m["language"], m["code"], m["mark"] is not None) for m in _BLOCK.finditer(page.read_text())]


def code_lines(page: Path) -> Iterator[str]:
    """Every line of code on a page but for Python: those of its blocks, and what its sentences have in backquotes."""
    for block in blocks(page):
        if block.language != "python":
            yield from re.sub(r"\\\n\s*", " ", block.code).splitlines()
    yield from _INLINE.findall(_BLOCK.sub("", page.read_text()))


def name(page: Path) -> str:
    """A page's name for a test's title."""
    return str(page.relative_to(ROOT))
