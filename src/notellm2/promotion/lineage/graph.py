"""What rests on what, as a graph, and the two questions asked of it.

An edge leads from a thing to what it was made from: note → publication → index → vectors → ... → data. So the origin
of a thing is everything its edges lead to, and what came of it is everything whose edges lead to it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict

from notellm2.errors import InputError

Kind = Literal[
    "note",
    "publication",
    "artifact",
    "version",
    "bundle",
    "run",
    "flow-run",
    "data",
    "commit",
    "recipe-digest",
    "recipe",
]
KINDS: tuple[Kind, ...] = Kind.__args__  # type: ignore[attr-defined]
SHORTEST_PREFIX = 4
"""Characters below which the beginning of an id names nothing: too many begin alike."""
_NOT_CUT = {"note", "version", "recipe"}
_SHOWN = 6


class Name(NamedTuple):
    """A thing: its kind, and its id, which is unique among those of its kind.

    Ids are: a note's id, a publication's name, ``stage/key``, a version's number, a bundle's digest, MLflow's run id,
    Prefect's flow run id, a data md5, a git commit, a recipe's digest, a recipe's name.
    """

    kind: Kind
    id: str

    def __str__(self) -> str:
        return f"{self.kind}:{self.id}"


@dataclass
class Node:
    """What is known of a thing.

    Attributes:
        facts: for people and programs, JSON; filled by whoever knows something.
        rests_on: what it was made from, in the order it became known.
        judged_by: artifacts that it was judged by, which it was not made from.
        seen: whether the thing itself was seen, and not only named by another one.
    """

    facts: dict[str, Any] = field(default_factory=dict)
    rests_on: dict[Name, None] = field(default_factory=dict)
    judged_by: set[Name] = field(default_factory=set)
    seen: bool = False


class Graph:
    """All that is known. Grows by `add`; what is named by an edge is in it from then on.

    Attributes:
        missing: what could not be read, a sentence each.
    """

    def __init__(self) -> None:
        self.missing: list[str] = []
        self._nodes: dict[Name, Node] = {}

    def __contains__(self, name: Name) -> bool:
        return name in self._nodes

    def __getitem__(self, name: Name) -> Node:
        return self._nodes[name]

    def __iter__(self) -> Iterator[Name]:
        return iter(self._nodes)

    def add(self, kind: Kind, id_: str, *rests_on: Name | None, seen: bool = True, **facts: Any) -> Name:
        """Tell something of a thing; facts and edges that are None are left out.

        Args:
            kind: of the thing.
            id_: its id.
            rests_on: what it was made from.
            seen: False where it is only named, and may be gone.
            facts: what is known of it.
        """
        name = Name(kind, id_)
        node = self._nodes.setdefault(name, Node())
        node.seen |= seen
        node.facts |= {fact: value for fact, value in facts.items() if value is not None}
        for other in rests_on:
            if other is not None:
                self._nodes.setdefault(other, Node())
                node.rests_on[other] = None
        return name

    def up(self, start: Name) -> list[Name]:
        """List what a thing rests on, nearest first, without itself."""
        return _reached(start, lambda name: self._nodes[name].rests_on)

    def down(self, start: Name) -> list[Name]:
        """List what rests on a thing, nearest first, without itself; and what was judged by that very thing."""
        users: dict[Name, list[Name]] = {}
        for name, node in self._nodes.items():
            for other in node.rests_on:
                users.setdefault(other, []).append(name)
        reached = _reached(start, lambda name: users.get(name, []))
        judged = [name for name, node in self._nodes.items() if start in node.judged_by]
        return reached + [name for name in judged if name not in reached]

    def users(self, of: Name) -> list[Name]:
        """List what rests on a thing directly."""
        return [name for name, node in self._nodes.items() if of in node.rests_on]

    def served(self) -> Name:
        """Return the published index in use.

        Raises:
            InputError: none is known.
        """
        for name, node in self._nodes.items():
            if node.facts.get("served_now"):
                return name
        raise InputError("; ".join(["no published index is in use: say what to trace", *self.missing]))

    def find(self, what: str) -> Name:
        """Find the one thing that a person means by its id, the beginning of it, or ``kind:id``.

        Raises:
            InputError: nothing or more than one thing is called so; lists what there is.
        """
        kind, separator, id_ = what.partition(":")
        if separator and kind in KINDS:
            return self._find({kind}, id_)
        return self._find(set(KINDS), what)

    def _find(self, kinds: set[str], what: str) -> Name:
        for match in (_is, _nearly_is, _begins):
            matches = [name for name in self._nodes if name.kind in kinds and match(name, what)]
            if match is _is and "version" in kinds:
                matches += [name for name in self._nodes if what in self._nodes[name].facts.get("aliases", ())]
            if len(matches) == 1:
                return matches[0]
            if matches:
                listed = ", ".join(map(str, matches[:_SHOWN])) + (", ..." if len(matches) > _SHOWN else "")
                raise InputError(f"{what!r} names {len(matches)} things: say which, by its whole name: {listed}")
        raise InputError(
            f"{what!r} is the name of nothing known: expected a note of the published index, the name of a published "
            "index, a model version, an MLflow run, a Prefect flow run, a data md5, a git commit, a recipe, a bundle "
            "or an artifact (stage/key), or the beginning of one" + "".join(f"; {reason}" for reason in self.missing)
        )


class Thing(BaseModel):
    """A thing as it is shown: kind, id, facts, whether it was seen itself, and what it rests on directly."""

    model_config = ConfigDict(frozen=True)

    kind: Kind
    id: str
    found: bool
    facts: dict[str, Any]
    rests_on: tuple[str, ...]


class Trace(BaseModel):
    """Hold the answer to a trace.

    Attributes:
        what: the thing asked for.
        up: what it rests on.
        down: what rests on it.
        missing: what could not be read, so that the answer may lack something.
    """

    model_config = ConfigDict(frozen=True)

    what: Thing
    up: tuple[Thing, ...]
    down: tuple[Thing, ...]
    missing: tuple[str, ...]


def trace(graph: Graph, what: str | None) -> Trace:
    """Trace what a thing rests on, and what rests on it, each in the order from answers to origins.

    Args:
        graph: what is known.
        what: see `Graph.find`; None: the published index in use.

    Raises:
        InputError: see `Graph.find`; or nothing is published.
    """
    name = graph.served() if what is None else graph.find(what)
    return Trace(
        what=_thing(graph, name),
        up=tuple(_thing(graph, other) for other in sorted(graph.up(name), key=_rank)),
        down=tuple(_thing(graph, other) for other in sorted(graph.down(name), key=_rank)),
        missing=tuple(graph.missing),
    )


def _thing(graph: Graph, name: Name) -> Thing:
    node = graph[name]
    return Thing(kind=name.kind, id=name.id, found=node.seen, facts=node.facts, rests_on=tuple(map(str, node.rests_on)))


def _reached(start: Name, next_: Callable[[Name], Iterable[Name]]) -> list[Name]:
    seen = {start}
    order: list[Name] = []
    queue = deque([start])
    while queue:
        for name in next_(queue.popleft()):
            if name not in seen:
                seen.add(name)
                order.append(name)
                queue.append(name)
    return order


def _is(name: Name, what: str) -> bool:
    return name.id == what


def _nearly_is(name: Name, what: str) -> bool:
    """Whether only what says nothing more is left out: an artifact's stage, ``.dir``, ``-dirty``."""
    if name.kind == "artifact":
        return name.id.partition("/")[2] == what
    return name.kind in ("data", "commit") and what == name.id.removesuffix(".dir").removesuffix("-dirty")


def _begins(name: Name, what: str) -> bool:
    if name.kind in _NOT_CUT:
        return False
    if name.kind == "artifact":
        stage, _, key = name.id.partition("/")
        wanted_stage, separator, wanted = what.rpartition("/")
        if separator:
            return stage == wanted_stage and key.startswith(wanted)
        return len(what) >= SHORTEST_PREFIX and key.startswith(what)
    return len(what) >= SHORTEST_PREFIX and name.id.startswith(what)


def _rank(name: Name) -> float:
    """From answers to origins; the index and its vectors stand before the model, other artifacts behind its bundle."""
    stage = name.id.partition("/")[0] if name.kind == "artifact" else ""
    if stage == "index":
        return 2
    if stage.endswith("vectors"):
        return 3
    return {"note": 0, "publication": 1, "version": 4, "bundle": 5, "artifact": 6}.get(
        name.kind, 7 + KINDS.index(name.kind)
    )
