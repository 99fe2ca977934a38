"""Hooks of the documentation site: reference pages are made from the code, drawings become part of their page.

A page says `<!-- from the code: NAME -->` where the text of one maker below belongs. MkDocs calls the two functions by
their names.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from commands import commands_markdown
from http_api import http_markdown
from recipe_fields import recipe_markdown

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig

MAKERS: dict[str, Callable[[], str]] = {
    "recipe": recipe_markdown,
    "commands": commands_markdown,
    "http": http_markdown,
}
_MARK = re.compile(r"<!-- from the code: ([a-z]+) -->")
_DRAWING = re.compile(r'<img alt="(?P<alt>[^"]*)" src="[^"]*?img/(?P<name>[a-z-]+)\.svg" ?/?>')


def on_page_markdown(markdown: str, **_: object) -> str:
    """Put the generated text in the place of its mark.

    Raises:
        KeyError: a mark names no maker.
    """
    return _MARK.sub(lambda mark: MAKERS[mark[1]](), markdown)


def on_page_content(html: str, config: MkDocsConfig, **_: object) -> str:
    """Put drawings into the page itself, so that they follow its colours and their words can be searched."""

    def inline(image: re.Match[str]) -> str:
        text = (Path(config.docs_dir) / "img" / f"{image['name']}.svg").read_text(encoding="utf-8")
        # The file's own colours serve those who open it elsewhere; here css/site.css gives them.
        drawing = re.sub(r"<style>.*?</style>\s*", "", text, flags=re.DOTALL)
        label = f'<svg role="img" aria-label="{image["alt"]}" class="drawing" '
        return f'<div class="drawing-frame">{drawing.replace("<svg ", label, 1)}</div>'

    return _DRAWING.sub(inline, html)
