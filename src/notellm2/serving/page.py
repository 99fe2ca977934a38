"""The page for people: one HTML file that asks this service and nobody else."""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import dataclass
from importlib import resources

_BLOCK = re.compile(r"<(style|script)>(.*?)</\1>", re.DOTALL)


@dataclass(frozen=True)
class Page:
    """The page as it is sent.

    Attributes:
        html: its text.
        headers: forbid the browser everything but the page's own style and script, by their digests, and requests to
            this service.
    """

    html: str
    headers: dict[str, str]

    @classmethod
    def load(cls) -> Page:
        """Load the page of this package."""
        html = resources.files("notellm2.serving").joinpath("page.html").read_text(encoding="utf-8")
        digests = {name: f"'sha256-{_digest(text)}'" for name, text in _BLOCK.findall(html)}
        policy = "; ".join(
            [
                "default-src 'none'",
                "connect-src 'self'",
                f"style-src {digests['style']}",
                f"script-src {digests['script']}",
                "form-action 'none'",
                "base-uri 'none'",
                "frame-ancestors 'none'",
            ]
        )
        return cls(html, {"Content-Security-Policy": policy, "X-Content-Type-Options": "nosniff"})


def _digest(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
