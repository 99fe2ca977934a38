"""Write report.html, which a person reads before deciding on a model: one file, no script, no request.

Everything shown comes as plain data (`content.py`); the page's own content security policy forbids scripts and any
request, so that a note's text can do no harm even if escaping were to fail somewhere.
"""

from notellm2.evaluation.report.content import Opponent, ReportInput
from notellm2.evaluation.report.render import render, write_report

__all__ = ["Opponent", "ReportInput", "render", "write_report"]
