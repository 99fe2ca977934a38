"""A trace as text for a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from notellm2.promotion.lineage.graph import Thing, Trace

_LABELS = {"flow-run": "flow run", "recipe-digest": "recipe digest", "run": "MLflow run", "commit": "git commit"}
_GONE = {
    "artifact": "not seen in this store",
    "version": "not seen in the registry",
    "run": "not seen in the registry",
    "publication": "no longer stored",
}
_ARTIFACTS_SHOWN = 40
_ID_CHARS = 12
_USERS_NAMED = 2
_REASON_CHARS = 60


def render(trace: Trace) -> str:
    """Format a thing, what it rests on, what rests on it, and what could not be read."""
    everything = (trace.what, *trace.up, *trace.down)
    lines = _table([trace.what], everything)
    others = _other_artifacts(trace)
    if others:
        lines.append(f"{' ' * len(_label(trace.what))}  with {', '.join(others)}")
    if trace.up:
        lines += ["", "Made from", *_table(trace.up, everything, indent="  ")]
    if trace.down:
        shown, left_out = _shortened(trace.down)
        lines += ["", "Used by", *_table(shown, everything, indent="  ")]
        if left_out:
            lines.append(f"  and {left_out} more artifacts (--json lists all)")
    lines += ["", _in_use(trace)]
    if trace.missing:
        lines += ["", *(f"Note: {reason}" for reason in trace.missing)]
    return "\n".join(lines)


def _other_artifacts(trace: Trace) -> list[str]:
    """What a run or a version names besides what it was made from: what it was judged by, and its index."""
    above = {thing.id for thing in trace.up}
    addresses = (f"{stage}/{key}" for stage, key in trace.what.facts.get("artifacts", {}).items())
    return [address for address in addresses if address not in above]


def _in_use(trace: Trace) -> str:
    served = [t for t in (trace.what, *trace.down) if t.facts.get("served_now")]
    champions = [t for t in (trace.what, *trace.down) if "champion" in t.facts.get("aliases", ())]
    if not served and not champions:
        answers = [t for t in trace.up if t.facts.get("served_now")] if trace.what.kind == "note" else []
        return f"In use now: {answers[0].id} answers for it" if answers else "In use now: nothing that rests on it"
    parts = [f"the published index {t.id}" for t in served] + [f"the champion, version {t.id}" for t in champions]
    return "In use now: " + " and ".join(parts)


def _shortened(things: Sequence[Thing]) -> tuple[list[Thing], int]:
    artifacts = [thing for thing in things if thing.kind == "artifact"]
    left_out = artifacts[_ARTIFACTS_SHOWN:]
    return [thing for thing in things if thing not in left_out], len(left_out)


def _table(things: Sequence[Thing], everything: Sequence[Thing], *, indent: str = "") -> list[str]:
    cells = [(_label(thing), thing.id, "; ".join(_details(thing, everything))) for thing in things]
    widths = [max(len(row[column]) for row in cells) for column in range(2)]
    return [f"{indent}{a.ljust(widths[0])}  {b.ljust(widths[1])}  {c}".rstrip() for a, b, c in cells]


def _label(thing: Thing) -> str:
    return _LABELS.get(thing.kind, thing.kind)


def _details(thing: Thing, everything: Sequence[Thing]) -> Iterator[str]:
    facts = thing.facts
    if not thing.found and thing.kind in _GONE:
        yield _GONE[thing.kind]
    match thing.kind:
        case "publication":
            yield from _of_publication(thing)
        case "artifact":
            yield from _of_artifact(thing)
        case "version":
            yield ", ".join(facts.get("aliases", ())) or "no alias"
            if "gate" in facts:
                yield f"gate {facts['gate']}"
            if "promoted_at" in facts:
                yield f"promoted {_time(facts['promoted_at'])}"
        case "run":
            yield from (str(facts[name]) for name in ("name", "status") if name in facts)
        case "flow-run" | "data" | "commit" | "recipe" | "recipe-digest":
            yield from _of_origin(thing, everything)
        case _:
            pass
    if "page" in facts:
        yield str(facts["page"])


def _of_publication(thing: Thing) -> Iterator[str]:
    facts = thing.facts
    if facts.get("served_now"):
        yield "published now"
    if "notes" in facts:
        yield f"{facts['notes']:,} notes"
    if facts.get("ledger"):
        last = facts["ledger"][-1]
        yield f"{last['action']} {_time(last['at'])} by {last['by']}: {_short(last['reason'])}"
    if facts.get("served_now"):
        yield facts["place"]


def _of_artifact(thing: Thing) -> Iterator[str]:
    if "created" in thing.facts:
        yield f"made {_time(thing.facts['created'])}"
    origin = thing.facts.get("provenance", {})
    if "git_commit" in origin:
        commit, dirty, _ = origin["git_commit"].partition("-dirty")
        yield f"commit {commit[:_ID_CHARS]}{dirty}"
    for fact, label in (("recipe", "recipe"), ("data_md5", "data"), ("flow_run", "flow run")):
        if fact in origin:
            yield f"{label} {origin[fact][:_ID_CHARS]}"


def _of_origin(thing: Thing, everything: Sequence[Thing]) -> Iterator[str]:
    """Which of the things shown rest on this one directly."""
    name = f"{thing.kind}:{thing.id}"
    users_named = []
    for kind in ("version", "run", "artifact"):
        users = [other for other in everything if other.kind == kind and name in other.rests_on]
        if len(users) > _USERS_NAMED:
            users_named.append(f"{len(users)} {_label(users[0])}s")
        else:
            users_named += [
                user.id if kind == "artifact" else f"{_label(user)} {user.id[:_ID_CHARS]}" for user in users
            ]
    if users_named:
        yield "of " + ", ".join(users_named)


def _time(iso: str) -> str:
    """A UTC time to the minute."""
    return iso[:16].replace("T", " ")


def _short(text: str) -> str:
    words = " ".join(text.split())
    return words if len(words) <= _REASON_CHARS else words[: _REASON_CHARS - 1] + "…"
