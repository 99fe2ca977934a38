"""The page's templates, filled."""

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


def write_report(path: Path, given: ReportInput) -> None:
    """Write the page, in one step."""
    write_atomic(path, render(given))


def render(given: ReportInput) -> str:
    """The page as HTML."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("notellm2.evaluation.report", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html.jinja").render(_context(given))


def _context(given: ReportInput) -> dict[str, Any]:
    champion = given.champion
    top = headline(
        given.metrics,
        given.gate,
        given.training,
        given.quality,
        intervals=given.intervals,
        champion=champion.name if champion else None,
        comparison=champion.comparison if champion else None,
        labels=given.labels,
    )
    return {
        "given": given,
        "champion": champion,
        "name": given.recipe["name"],
        "headline": top,
        "k": headline_k(given.metrics),
        "tiles": tables.tiles(given),
        "changes": tables.changes(champion, given.labels, fine=False) if champion else None,
        "fine_changes": tables.changes(champion, given.labels, fine=True) if champion else None,
        "overall": tables.overall(given.metrics),
        "slices": tables.slices(given, fine=False),
        "fine_slices": tables.slices(given, fine=True),
        "space": tables.space(given),
        "pictures": pictures(given),
        "gallery": gallery(given),
        "recipe_changes": recipe_changes(champion.recipe, given.recipe) if champion and champion.recipe else None,
        "data_changes": data_changes(champion.data, given.data) if champion and champion.data else None,
        "facts": {
            "data": facts(given.data),
            "quality": facts(given.quality),
            "pairs": facts(given.pairs),
            "training": facts(given.training),
            "protocol": facts({key: value for key, value in given.protocol.items() if key != "slices"}),
            "provenance": facts(given.provenance),
        },
        "recipe_yaml": yaml.safe_dump(dict(given.recipe), sort_keys=False, allow_unicode=True),
        "show": show,
    }
