"""Text from data as a terminal can show it: control characters are shown, not obeyed, whatever the encoding.

A title, a column or a file name may hold line breaks, escape sequences that move the cursor, marks that turn the
direction of writing, or bytes that are no UTF-8 (Python keeps those as lone surrogates). What is printed of them is
their escape, as Python writes it: ``\\x1b``, ``\\udce9``.
"""

from __future__ import annotations

import sys
import unicodedata

_SHOWN = frozenset({"Cc", "Cs", "Zl", "Zp"})
"""Unicode categories that are shown: control characters, surrogates, line and paragraph separators."""

_DIRECTIONS = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def printable(text: str, *, lines: bool = False) -> str:
    """Escape what a terminal would obey or cannot encode.

    Args:
        text: any text.
        lines: leave line breaks and tabs, for a text of our own that is laid out in lines.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(_shown(character) if _is_odd(character, lines) else character for character in text)


def tolerate_any_text() -> None:
    """Let standard output and error escape what their encoding lacks, in place of an exception."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:  # a test or a host program may have put something else there
            reconfigure(errors="backslashreplace")


def _is_odd(character: str, lines: bool) -> bool:
    if lines and character in "\n\t":
        return False
    return unicodedata.category(character) in _SHOWN or character in _DIRECTIONS


def _shown(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")
