"""Names of images in an export, and the index of an archive's members by them."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator
from typing import Generic, TypeVar

from notellm2.notes.images import ImageProblem
from notellm2.recipe import ImageLimits

_DRIVE = re.compile(r"[A-Za-z]:")
_MOST_LINKS = 40
"""Links followed from one name, as Linux does; more are a circle."""

Member = TypeVar("Member")


def key_of(name: str) -> str:
    """Make a name relative to the images' folder: ``images/12.jpg``, ``./12.jpg`` and ``12.jpg`` are one.

    Raises:
        ImageProblem: outside-folder: the name is absolute, or climbs by ``..``; missing: it names nothing.
    """
    plain = name.replace("\\", "/")
    if plain.startswith("/") or _DRIVE.match(plain):
        raise ImageProblem("outside-folder", f"{name!r} is absolute; expected a name inside the images' folder")
    parts = [part for part in plain.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise ImageProblem("outside-folder", f"{name!r} climbs out of the images' folder")
    if len(parts) > 1 and parts[0] == "images":
        parts = parts[1:]
    if not parts or "\0" in plain:
        raise ImageProblem("missing", f"{name!r} names no file")
    return "/".join(parts)


def too_large(size: int, limits: ImageLimits) -> ImageProblem:
    """Describe the problem of a file above the limit, known before it is read."""
    return ImageProblem("oversized-bytes", f"{size} bytes, at most {limits.max_bytes} are read")


class MemberIndex(Generic[Member]):
    """An archive's members by key; the first of a name stays, refused ones wait with their problem for a note to ask.

    Attributes:
        archive: the archive's file name.
    """

    def __init__(self, archive: str):
        self.archive = archive
        self._members: dict[str, Member] = {}
        self._refused: dict[str, ImageProblem] = {}
        self._links: dict[str, str] = {}
        self._asked: set[str] = set()
        self._reports: list[tuple[str, str, str]] = []

    def add(self, name: str, member: Member) -> None:
        """Enter a usable member."""
        key = self._new_key(name)
        if key is not None:
            self._members[key] = member

    def refuse(self, name: str, problem: ImageProblem) -> None:
        """Enter a member that must not be read."""
        key = self._new_key(name)
        if key is not None:
            self._refused[key] = problem

    def link(self, name: str, target: str) -> None:
        """Enter a link to another member, which may come later.

        Args:
            name: of the link.
            target: of the member that it names, from the top of the archive; ``..`` is resolved.
        """
        try:
            to = key_of(posixpath.normpath(target))
        except ImageProblem:
            self.refuse(name, ImageProblem("outside-folder", f"a link to {target!r}, outside the images' folder"))
            return
        key = self._new_key(name)
        if key is not None:
            self._links[key] = to

    def mark_damaged(self, detail: str) -> None:
        """Record that the archive itself is damaged: what comes after is missing."""
        self._reports.append((self.archive, "damaged-archive", detail))

    def find(self, path: str) -> Member:
        """Find the member that a note names.

        Raises:
            ImageProblem: there is none, it was refused, or the name leaves the folder.
        """
        named = key = key_of(path)
        for _ in range(_MOST_LINKS):
            if key not in self._links:
                break
            key = self._links[key]
        if key in self._refused:
            # Reported at the note from now on; not a second time as a member that nobody wanted.
            self._asked.add(key)
            raise self._refused[key]
        if key not in self._members:
            via = "" if key == named else f"; it is a link to {key!r}, which is not there"
            raise ImageProblem("missing", f"no member {path!r} in {self.archive}{via}")
        return self._members[key]

    def remaining(self) -> Iterator[tuple[str, str, str]]:
        """List what no note asked for and yet is wrong: (location, reason, detail)."""
        yield from self._reports
        for key, problem in self._refused.items():
            if key not in self._asked:
                yield f"{self.archive}: {key}", problem.reason, problem.detail

    def _new_key(self, name: str) -> str | None:
        try:
            key = key_of(name)
            if key in self._members or key in self._refused or key in self._links:
                raise ImageProblem("duplicate-image", "a member of this name came before; the first stays")
        except ImageProblem as problem:
            self._reports.append((f"{self.archive}: {name}", problem.reason, problem.detail))
            return None
        return key
