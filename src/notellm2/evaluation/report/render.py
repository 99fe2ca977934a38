"""Fill the page's templates."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jinja2
import yaml

from notellm2.artifacts import write_atomic
from notellm2.evaluation.metrics import headline_k
from notellm2.evaluation.report import tables
from notellm2.evaluation.report.content import ReportInput
from notellm2.evaluation.report.gallery import gallery
from notellm2.evaluation.report.pictures import pictures
from notellm2.evaluation.report.verdict import headline
from notellm2.evaluation.report.words import data_changes, facts, recipe_changes, show


def write_report(path: Path, content: ReportInput) -> None:
    """Write the page, by one rename."""
    write_atomic(path, render(content))


def render(content: ReportInput) -> str:
    """Render the page as HTML."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("notellm2.evaluation.report", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html.jinja").render(_context(content))


def _context(content: ReportInput) -> dict[str, Any]:
    champion = content.champion
    return {
        "content": content,
        "champion": champion,
        "name": content.recipe["name"],
        "headline": headline(content),
        "k": headline_k(content.metrics),
        "tiles": tables.tiles(content),
        "changes": tables.changes(champion, content.labels, fine=False) if champion else None,
        "fine_changes": tables.changes(champion, content.labels, fine=True) if champion else None,
        "overall": tables.overall(content.metrics),
        "slices": tables.slices(content, fine=False),
        "fine_slices": tables.slices(content, fine=True),
        "space": tables.space(content),
        "pictures": pictures(content),
        "gallery": gallery(content),
        "recipe_changes": recipe_changes(champion.recipe, content.recipe) if champion and champion.recipe else None,
        "data_changes": data_changes(champion.data, content.data) if champion and champion.data else None,
        "facts": {
            "data": facts(content.data),
            "quality": facts(content.quality),
            "pairs": facts(content.pairs),
            "training": facts(content.training),
            "protocol": facts({key: value for key, value in content.protocol.items() if key != "slices"}),
            "provenance": facts(content.provenance),
        },
        "recipe_yaml": yaml.safe_dump(dict(content.recipe), sort_keys=False, allow_unicode=True),
        "show": show,
    }
