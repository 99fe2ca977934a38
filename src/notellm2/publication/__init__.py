"""Publication: where an index is published (a folder or S3), the pointer that says which is served, and its readers.

Readers in other services need `Published` alone, which needs numpy and faiss and nothing else of the project's
dependencies. FAISS is imported when that name is first used, not with this package.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from notellm2.publication.reader import Neighbour, Published

__all__ = ["Neighbour", "Published"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from notellm2.publication import reader

        return getattr(reader, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
