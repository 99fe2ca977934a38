"""What people read first on MLflow's pages of a run and of a version: Markdown, made from a run's summary.

A description has two parts. Above `HEADING` are people's own words, which nothing here touches. What follows is
written anew by retrainings; below `DECISIONS` is a line for each promotion that concerned the version.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from notellm2.evaluation.report.summary import Figure, Row, Summary
    from notellm2.registry.decisions import Entry

HEADING = "### What the retraining found"
DECISIONS = "### Decisions"
RUN_CHARS = 8000
"""Characters that MLflow keeps of a run's description; of a version's `VERSION_CHARS`."""
VERSION_CHARS = 5000
_MOST_DECISIONS = 10
_DETAIL_CHARS = 300
_UNMOVED = {"refuse": "refused", "expire": "not decided in time"}
_OWN_WORDS = "*Your own words go above the first heading; what is below it is written by retrainings and promotions.*"

_CARD = """# {model}

A NoteLLM-2 model: a note (title, topics, text, image) in, one embedding of length 1 out. Notes whose embeddings have a
large inner product are similar.

- Made by recipe `{recipe}` from data version `{data}`. Figures, cautions and decisions are on the version's page.
- The bundle is safetensors and JSON, no pickles; `pyfunc_model.py` is the script that MLflow runs at load.

```python
import mlflow, pandas as pd

model = mlflow.pyfunc.load_model("models:/{model}@champion")
notes = [{{"note_id": "1", "title": "Sourdough", "topics": ["baking"], "content": "", "image": b""}}]
vectors = model.predict(pd.DataFrame(notes))["embedding"]
```

Limits: it knows the kind of notes it was trained on. An image is its file's bytes; no image is empty bytes.
"""


@dataclass(frozen=True)
class Origin:
    """Where a run comes from, and where to look.

    Attributes:
        recipe: its name.
        data: data set, version and size, in words.
        commit: of the code; None: not known.
        begun: when, in words.
        links: text to address.
    """

    recipe: str
    data: str
    commit: str | None
    begun: str
    links: Mapping[str, str]


class _Parts(NamedTuple):
    own: str
    found: str
    decisions: list[str]


def run_began(origin: Origin) -> str:
    """Describe a run while nothing is known yet."""
    return _joined(f"**Running** since {origin.begun}.", _origin(origin))


def run_found(summary: Summary, origin: Origin, seconds: Mapping[str, float]) -> str:
    """Describe a run when all is measured; its first line, the outcome, is `with_outcome`'s.

    Args:
        summary: of the run.
        origin: where it comes from.
        seconds: stage to what it took.
    """
    stages = ", ".join(f"{stage} {value:,.0f} s" for stage, value in seconds.items())
    return _joined(
        "**Judged**, nothing is decided yet.",
        *_findings(summary),
        _origin(origin),
        f"Stages took: {stages}." if stages else "",
        "Every figure is in `evaluation/metrics.parquet`, every query in the table `evaluation/queries.json`, the "
        "whole recipe in `recipe.yaml`; the parameters are those that differ from their defaults.",
    )


def version_found(summary: Summary, origin: Origin, model: str, number: str, reads: str) -> str:
    """Describe a version.

    Args:
        summary: of its run.
        origin: where it comes from.
        model: registered name.
        number: of the version.
        reads: what the model reads of a note, in words.
    """
    queries = dict(summary.slices).get("all pairs", summary.slices[0][1])
    return _joined(
        *_findings(summary),
        f"**Limits**: measured on {queries:,} queries in a pool of {summary.pool:,} held-out notes of one data "
        f"version; notes of another kind may fare otherwise. It reads {reads}.",
        f"**Put it into use**: `notellm2 promote {number}`, or give it the alias `champion` on this page: that is a "
        "request, which is carried out with its published index, or put back with the reason.",
        f'**Load it**: `mlflow.pyfunc.load_model("models:/{model}/{number}").predict(frame)`, a row a note with '
        "note_id, title, topics, content, image.",
        _origin(origin),
        _OWN_WORDS,
    )


def model_card(model: str, recipe: str, data: str) -> str:
    """Write README.md, which lies beside a registered model's files.

    Args:
        model: registered name.
        recipe: its recipe's name.
        data: its data version.
    """
    return _CARD.format(model=model, recipe=recipe, data=data)


def with_outcome(description: str, outcome: str) -> str:
    """Replace the first line below the heading of a run's description."""
    parts = _parts(description)
    _, _, rest = parts.found.partition("\n\n")
    return _whole(parts._replace(found=_joined(outcome, rest)), RUN_CHARS)


def with_findings(description: str, found: str, most: int) -> str:
    """Replace the findings of a description; people's own words and the decisions stay."""
    return _whole(_parts(description)._replace(found=found), most)


def with_change(description: str, entry: Entry, version: str) -> str:
    """Add a line of the ledger to the description of a version that it concerns; again, it stays the same."""
    return with_decision(description, decision(entry, version), f"ledger {entry.sequence}")


def with_decision(description: str, line: str, source: str) -> str:
    """Add a decision to a version's description; one of the same source takes the place of what it said before."""
    parts, mark = _parts(description), f"({source})"
    kept = [one for one in parts.decisions if not one.endswith(mark)]
    return _whole(parts._replace(decisions=[*kept, f"{line} {mark}"][-_MOST_DECISIONS:]), VERSION_CHARS)


def decision(entry: Entry, version: str) -> str:
    """Write a line of the ledger as this version sees it: when, what, by whom, why."""
    if entry.action in _UNMOVED:
        what = _UNMOVED[entry.action]
    elif entry.to.version == version:
        deed = {"promote": "put into use", "rollback": "put into use again", "mend": "the alias was put back here"}
        over = f", in the place of version {entry.over.version}" if entry.over.version else ""
        what = deed.get(entry.action, entry.action) + (over if entry.over.version != version else "")
    else:
        what = {
            "promote": f"replaced by version {entry.to.version}",
            "rollback": f"taken out of use by a rollback to version {entry.to.version}",
        }.get(entry.action, f"the alias was set here by hand, and put back to version {entry.to.version}")
    return f"- {_minute(entry.at)}: **{what}** by {_plain(entry.by)} ({entry.mode}): {_plain(entry.reason)}"


def _findings(summary: Summary) -> Iterator[str]:
    yield _plain(summary.sentence)
    if summary.images:
        yield _plain(summary.images)
    if summary.cautions:
        yield "**Be careful**\n\n" + _list(summary.cautions)
    if summary.failed:
        lines = [f"{rule.name}{'' if rule.refuses else ' (warning)'}: {rule.detail}" for rule in summary.failed]
        yield "**Rules that failed**\n\n" + _list(lines)
    if summary.worse:
        yield "**What got worse**\n\n" + _list(summary.worse)
    yield _table(summary)


def _table(summary: Summary) -> str:
    head = [f"{summary.figure}, %", *(f"{label} ({count:,})" for label, count in summary.slices)]
    lines = [_cells(head), "|" + " --- |" * len(head)]
    lines += [_cells([row.label, *(_figure(one, row) for one in row.figures)]) for row in summary.rows]
    return "\n".join(lines)


def _figure(figure: Figure | None, row: Row) -> str:
    if figure is None:
        return "–"
    form = "+.1f" if row.is_difference else ".1f"
    value = f"{100 * figure.value:{form}}"
    if row.label == "this model":
        value = f"**{value}**"
    if figure.low is None or figure.high is None:
        return value
    return f"{value} ({100 * figure.low:{form}} to {100 * figure.high:{form}})"


def _origin(origin: Origin) -> str:
    links = " · ".join(f"[{text}]({address})" for text, address in origin.links.items())
    commit = (
        f", code {origin.commit[:12]}{'-dirty' if origin.commit.endswith('-dirty') else ''}" if origin.commit else ""
    )
    made = f"Recipe `{origin.recipe}`, data {_plain(origin.data)}{commit}, begun {origin.begun}."
    return _joined(links, made)


def _parts(description: str) -> _Parts:
    before, decided, lines = description.partition(DECISIONS)
    own, begun, found = before.partition(HEADING)
    if not begun and not decided:
        return _Parts(description.strip(), "", [])
    return _Parts(own.strip(), found.strip(), [line for line in lines.splitlines() if line.startswith("- ")])


def _whole(parts: _Parts, most: int) -> str:
    decisions = "\n".join([DECISIONS, "", *parts.decisions]) if parts.decisions else ""
    room = most - len(parts.own) - len(decisions) - len(HEADING) - 10
    found = parts.found if len(parts.found) <= room else parts.found[: max(0, room - 4)] + "\n\n…"
    return _joined(parts.own, f"{HEADING}\n\n{found}" if found else "", decisions)[:most]


def _list(items: Sequence[str]) -> str:
    return "\n".join(f"- {_cut(_plain(item))}" for item in items)


def _minute(at: str) -> str:
    return f"{datetime.fromisoformat(at).astimezone(UTC):%Y-%m-%d %H:%M} UTC"


def _cut(text: str) -> str:
    return text if len(text) <= _DETAIL_CHARS else text[: _DETAIL_CHARS - 1] + "…"


def _plain(text: str) -> str:
    """A text on one line, without what Markdown would take for HTML or a table's border."""
    return " ".join(text.split()).replace("<", "&lt;").replace("|", "\\|")


def _cells(cells: Sequence[str]) -> str:
    # MLflow's tables have no padding: without the spaces one column's text runs into the next one's.
    return "| " + " | ".join(f"{cell}\u00a0\u00a0" for cell in cells) + " |"


def _joined(*parts: str) -> str:
    return "\n\n".join(part for part in parts if part)
