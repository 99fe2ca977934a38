"""Makes Data Docs readable without a network, and gives them a front page.

Great Expectations' pages load Bootstrap, jQuery, icons and a logo from public servers. Offline its index stays empty
(a script fills its table) and the marks for passed and failed are invisible (an icon font). So whatever comes from
elsewhere is taken out, one small style sheet is put in, and index.html is our own: every expectation with its
outcome and sample rows, failures first, and links to Great Expectations' pages.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

_STYLE = """
body{font:15px/1.45 system-ui,sans-serif;margin:0;color:#1c2733;background:#fff}
a{color:#0b62a8} code,.badge{font:13px ui-monospace,monospace;background:#eef1f4;padding:1px 5px;border-radius:3px}
code.sample{white-space:nowrap}
nav ol{list-style:none;display:flex;gap:1em;margin:0;padding:10px 20px;border-bottom:1px solid #d6dce2}
nav#navigation ul{list-style:none;padding:0} .container-fluid{padding:6px 20px}
.container-fluid>.row{display:flex;flex-wrap:wrap;gap:20px} .col-lg-2{flex:0 0 230px} .col-lg-10{flex:1;min-width:0}
.ge-section>.row{display:block} h1{font-size:22px} h4,h5,h6{margin:.5em 0} .alert{background:#eef1f4;padding:8px 12px}
table{border-collapse:collapse;margin:.5em 0} td,th{border:1px solid #d6dce2;padding:4px 9px;text-align:left;
vertical-align:top} th{background:#f6f8fa}
.text-danger{color:#b3261e} .text-success{color:#1a7f37} .text-warning{color:#9a6700}
.fa-times::before{content:"\\2718"} .fa-check-circle::before{content:"\\2714"}
.fa-exclamation-triangle::before{content:"\\26A0"} i{font-style:normal;font-weight:bold}
.card:has(.btn-group-toggle),p:has(>a[data-toggle=collapse]),.ge-index-page-site-name-title{display:none}
@media (prefers-color-scheme:dark){body{background:#14191f;color:#dfe6ec} a{color:#6cb6ff} td,th{border-color:#3a444e}
th,.alert,code,.badge,.bg-light{background:#212932!important;color:inherit}}
"""

# Patterns of what reaches for other servers, or for the folder of fonts and pictures that is removed with them.
_FOREIGN = tuple(
    re.compile(pattern, re.DOTALL | re.IGNORECASE)
    for pattern in (
        r"<script\b.*?</script>",
        r"<link\b[^>]*>",
        r"<img\b[^>]*>",
        r"<style\b.*?</style>",
        r"<footer\b.*?</footer>",
        r"<title>\s*</title>",
    )
)


def make_offline(site: Path) -> None:
    """Rewrite every page below a Data Docs site so that it needs no network; removes the site's static folder."""
    for page in sorted(site.rglob("*.html")):
        text = page.read_text(encoding="utf-8")
        for pattern in _FOREIGN:
            text = pattern.sub("", text)
        page.write_text(text.replace("</head>", f"<style>{_STYLE}</style>\n</head>", 1), encoding="utf-8")
    shutil.rmtree(site / "static", ignore_errors=True)


def write_index(site: Path, title: str, entries: Sequence[dict[str, Any]]) -> None:
    """Write the site's front page.

    Args:
        site: directory of the pages, `validations` and `expectations` below it.
        title: heading.
        entries: the rows of result.json.
    """
    failed = [entry for entry in entries if not entry["success"]]
    critical = sum(entry["severity"] == "critical" for entry in failed)
    verdict = "passed" if not failed else f"{critical} critical and {len(failed) - critical} warning(s) failed"
    parts = [
        f"<!DOCTYPE html>\n<html lang='en'><head><meta charset='UTF-8'><title>{escape(title)}</title>",
        f"<style>{_STYLE}</style></head><body><div class='container-fluid'>",
        f"<h1>{escape(title)}</h1><p><strong>{len(entries)} expectations: {verdict}.</strong></p>",
        "<p>Great Expectations' pages: " + " · ".join(_links(site, entries)) + "</p>",
    ]
    for suite in dict.fromkeys(entry["suite"] for entry in (*failed, *entries)):
        parts.append(f"<h4 id='{suite}'>{suite}</h4><table><tr><th></th><th>Column</th><th>Expectation</th>")
        parts.append("<th>Meaning</th><th>Observed</th><th>Rows at fault</th></tr>")
        ordered = sorted((e for e in entries if e["suite"] == suite), key=lambda e: e["success"])
        parts.extend(_row(entry) for entry in ordered)
        parts.append("</table>")
    parts.append("</div></body></html>\n")
    (site / "index.html").write_text("\n".join(parts), encoding="utf-8")


def _links(site: Path, entries: Sequence[dict[str, Any]]) -> list[str]:
    links: list[str] = []
    for suite in dict.fromkeys(entry["suite"] for entry in entries):
        pages = sorted((site / "validations" / suite).rglob("*.html"))
        links.extend(f"<a href='{page.relative_to(site).as_posix()}'>{suite}: results</a>" for page in pages)
        if (site / "expectations" / f"{suite}.html").exists():
            links.append(f"<a href='expectations/{suite}.html'>{suite}: suite</a>")
    return links


def _row(entry: dict[str, Any]) -> str:
    if entry["success"]:
        mark = "<i class='fa-check-circle text-success' title='passed'></i>"
    elif entry["severity"] == "critical":
        mark = "<i class='fa-times text-danger' title='failed, critical'></i>"
    else:
        mark = "<i class='fa-exclamation-triangle text-warning' title='failed, warning'></i>"
    samples = "".join(f"<br><code class='sample'>{escape(shown_sample(sample))}</code>" for sample in entry["samples"])
    rows = "" if entry["failed_count"] is None else f"{entry['failed_count']:,}"
    return (
        f"<tr><td>{mark}</td><td>{escape(entry['column'])}</td>"
        f"<td title='{escape(entry['rule'])}'>{escape(entry['expectation'])}<br>{entry['severity']}</td>"
        f"<td>{escape(entry['meaning'])}</td><td>{shown_number(entry['observed'])}</td><td>{rows}{samples}</td></tr>"
    )


def shown_sample(sample: dict[str, Any]) -> str:
    """Format a sample row in one line: ``note_id='n7' occurrences=2``."""
    return " ".join(f"{name}={value!r}" for name, value in sample.items())


def shown_number(number: float | None) -> str:
    """Format a measured number for people: whole ones with separators, others with four significant digits."""
    if number is None:
        return ""
    return f"{number:,}" if isinstance(number, int) else f"{number:.4g}"
