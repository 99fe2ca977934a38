"""What is in use: champion, challenger, their figures, and what is published. For `notellm2 status`.

Reads only. Where nothing has been recorded yet it makes no store and says what to do.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from datetime import datetime
from itertools import chain

from pydantic import BaseModel, ConfigDict

from notellm2.errors import InputError
from notellm2.evaluation.metrics import MODELS, SLICES
from notellm2.promotion.journal import read_intent
from notellm2.promotion.ledger import Ledger, refused, rolled_back, waits
from notellm2.promotion.waiting import said, short_time
from notellm2.publication import publish
from notellm2.publication.opening import open_location
from notellm2.publication.pointer import NothingPublished, Publication, PublicationDamaged, read_pointer
from notellm2.recipe import RegistryConfig
from notellm2.registry.decisions import Entry
from notellm2.registry.tracking import Tracking
from notellm2.registry.versions import Version, challenger, champion, get_version
from notellm2.workspace import Workspace

_START = "start with: notellm2 retrain --recipe recipes/sample.yaml"


class VersionFacts(BaseModel):
    """A version as status shows it.

    Attributes:
        version: its number.
        run_id: of its retraining's MLflow run.
        data_md5: of the data it was trained on.
        test_set: what its figures were measured on.
        created: when it was registered, UTC.
        promoted_at: when it became champion, ISO 8601, UTC.
        gate: "passed" or "refused"; None if no gate has judged it.
        metrics: row (modality or baseline), slice, figure.
        artifacts: stage to key of everything it was made from.
    """

    model_config = ConfigDict(frozen=True)

    version: str
    run_id: str
    data_md5: str
    test_set: str
    created: datetime
    promoted_at: str | None
    gate: str | None
    metrics: Mapping[str, Mapping[str, Mapping[str, float]]]
    artifacts: Mapping[str, str]


class PublishedFacts(BaseModel):
    """The published index as status shows it: its key, the model version and data it is of, size, kind and time."""

    model_config = ConfigDict(frozen=True)

    version: str
    model_version: str
    data_md5: str
    index_key: str
    kind: str
    count: int
    dimension: int
    published: str


class Waiting(BaseModel):
    """A version that waits for a person, as status shows it: since and until when (UTC, ISO 8601), where to decide."""

    model_config = ConfigDict(frozen=True)

    version: str
    mode: str
    since: str
    until: str | None
    link: str | None
    sentence: str


class Status(BaseModel):
    """Everything `notellm2 status` tells.

    Attributes:
        workspace: its folder.
        tracking_uri: MLflow's store, without password.
        model_name: the registered model.
        champion: the version in use.
        challenger: the candidate last registered; may be the champion itself.
        published: what readers follow.
        waiting: versions that wait for a person, the oldest first.
        agree: whether the champion is of the version that readers get; false: `notellm2 status` ends with 1.
        problems: what does not fit together, or what to do first; empty when all is well.
    """

    model_config = ConfigDict(frozen=True)

    workspace: str
    tracking_uri: str
    model_name: str
    champion: VersionFacts | None
    challenger: VersionFacts | None
    published: PublishedFacts | None
    waiting: tuple[Waiting, ...]
    agree: bool
    problems: tuple[str, ...]


def collect_status(workspace: Workspace, config: RegistryConfig | None = None) -> Status:
    """Read what is in use.

    Args:
        workspace: where it is recorded.
        config: names of experiment and model; None: the published model's name, else the default.
    """
    published, problems = _published(workspace)
    if config is None and published is not None:
        config = RegistryConfig(model_name=published.model_name)
    tracking = Tracking.at(workspace, config)
    best, candidate = champion(tracking), challenger(tracking)
    entries, damage = _entries(workspace)
    problems += damage
    problems += _problems(workspace, best, published)
    problems += _of_challenger(tracking, best, candidate, entries)
    return Status(
        workspace=str(workspace.root),
        tracking_uri=tracking.shown_uri,
        model_name=tracking.model_name,
        champion=_facts(best),
        challenger=_facts(candidate),
        published=None
        if published is None
        else PublishedFacts(**{name: getattr(published, name) for name in PublishedFacts.model_fields}),
        waiting=tuple(map(_waiting, waits(entries))),
        agree=(best and best.version) == (published and published.model_version),
        problems=tuple(problems),
    )


def reachable_versions(workspace: Workspace) -> list[Version]:
    """List the versions with an index at the published place: the one in use, and those a rollback can go to."""
    published = {(p.model_name, p.model_version) for p in publish.versions(workspace.published).values()}
    reachable = []
    for model, version in sorted(published):
        with contextlib.suppress(InputError):  # A registry that was begun anew does not have it.
            reachable.append(get_version(Tracking.at(workspace, RegistryConfig(model_name=model)), version))
    return reachable


def render(status: Status) -> str:
    """Format the status as text for a terminal; R@10 by modality, baseline and slice."""
    lines = [f"Workspace   {status.workspace}", f"MLflow      {status.tracking_uri}, model {status.model_name}", ""]
    lines += _version_lines("Champion", status.champion)
    if status.challenger is not None and status.challenger == status.champion:
        lines += [f"Challenger  version {status.challenger.version}, the champion itself"]
    else:
        lines += _version_lines("Challenger", status.challenger)
    lines.append("")
    if status.published is None:
        lines.append("Published   nothing")
    else:
        facts = status.published
        lines += [
            f"Published   {facts.published}, model version {facts.model_version}",
            f"            index {facts.index_key} ({facts.kind}), {facts.count:,} notes, {facts.dimension} dimensions",
            f"            data {facts.data_md5}",
        ]
    for wait in status.waiting:
        lines.append(f"Waiting     version {wait.version} {wait.sentence}")
    if status.problems:
        lines += ["", *(f"Note: {problem}" for problem in status.problems)]
    return "\n".join(lines)


def _problems(
    workspace: Workspace,
    best: Version | None,
    published: Publication | None,
) -> Iterator[str]:
    intent = None
    try:
        intent = read_intent(open_location(workspace.published))
    except InputError as error:
        yield str(error)
    if intent is not None:
        yield (
            f"a change to version {intent.to.version} ({intent.action}) began at {intent.at} and has not ended: if its "
            "process has died, the next promotion, rollback or retraining finishes or undoes it"
        )
    if published is not None and published.model_version != (best and best.version) and intent is None:
        yield (
            f"the published index is of model version {published.model_version}, the champion is "
            f"{best.version if best else 'none'}: readers follow the index, and the alias asks for another version; "
            "`notellm2 follow --once` brings it into use or puts the alias back, and says why; where the "
            "version was deleted: `notellm2 rollback`, or promote another"
        )
    if best is not None and published is None:
        yield "there is a champion but no published index: run the retraining again, it publishes it"


def _of_challenger(
    tracking: Tracking, best: Version | None, candidate: Version | None, entries: tuple[Entry, ...]
) -> Iterator[str]:
    """What there is to do about the challenger; nothing where somebody has decided already."""
    if candidate is None:
        if best is None:
            yield f"no version of model {tracking.model_name!r} in {tracking.shown_uri}; {_START}"
        return
    number = candidate.version
    if best is not None and best.version == number:
        return
    if candidate.gate == "refused":
        yield f"the gate refused version {number}; its run holds gate.json"
    elif candidate.gate != "passed":
        if best is None:
            yield f"no gate has judged version {number}: run the retraining again"
    elif against := refused(entries, number, candidate.bundle):
        yield f"version {number} passed the gate, and was {said(against)}"
    elif back := rolled_back(entries, number, candidate.bundle):
        when = f"by {back.by} at {short_time(back.at)}"
        yield f"version {number} passed the gate, and was rolled back {when}: {back.reason}"
    elif candidate.compared_with != (best and best.version):
        yield (
            f"version {number} passed the gate against version {candidate.compared_with or 'none'}, which is not in "
            "use any more: run its retraining again, it compares with the champion"
        )
    elif number not in {wait.to.version for wait in waits(entries)}:
        yield f"version {number} passed the gate and is not in use: notellm2 promote {number}"


def _entries(workspace: Workspace) -> tuple[tuple[Entry, ...], list[str]]:
    try:
        return Ledger(open_location(workspace.published)).entries(), []
    except InputError as error:
        return (), [str(error)]


def _waiting(entry: Entry) -> Waiting:
    return Waiting(
        version=str(entry.to.version),
        mode=entry.mode,
        since=entry.at,
        until=entry.until,
        link=entry.link,
        sentence=said(entry),
    )


def _published(workspace: Workspace) -> tuple[Publication | None, list[str]]:
    try:
        return read_pointer(workspace.published), []
    except NothingPublished:
        return None, []
    except PublicationDamaged as error:
        return None, [str(error)]


def _facts(version: Version | None) -> VersionFacts | None:
    if version is None:
        return None
    return VersionFacts(
        version=version.version,
        run_id=version.run_id,
        data_md5=version.data_md5,
        test_set=version.test_set,
        created=version.created,
        promoted_at=version.promoted_at,
        gate=version.gate,
        metrics=version.metrics,
        artifacts=version.artifacts,
    )


def _version_lines(title: str, facts: VersionFacts | None) -> list[str]:
    if facts is None:
        return [f"{title:<12}none"]
    promoted = f", promoted {facts.promoted_at}" if facts.promoted_at else ""
    lines = [
        f"{title:<12}version {facts.version}, registered {facts.created.isoformat(timespec='seconds')}{promoted}",
        f"            run {facts.run_id}",
        f"            data {facts.data_md5}, test set {facts.test_set}",
    ]
    return lines + _table(facts.metrics) + [""]


def _table(metrics: Mapping[str, Mapping[str, Mapping[str, float]]]) -> list[str]:
    rows = [row for row in MODELS if row in metrics]
    slices = [part for part in SLICES if any(part in metrics[row] for row in rows)]
    if not rows:
        return ["            (no test figures)"]
    cells = [["R@10", *(part.replace("_", " ") for part in slices)]]
    for row in rows:
        figures = [metrics[row].get(part, {}).get("recall@10") for part in slices]
        cells.append([row.replace("_", " "), *("-" if v is None else f"{v:.4f}" for v in figures)])
    widths = [max(len(cell) for cell in column) for column in zip(*cells, strict=True)]
    return ["            " + "  ".join(_padded(line, widths)) for line in cells]


def _padded(cells: list[str], widths: list[int]) -> list[str]:
    first, *others = zip(cells, widths, strict=True)
    return list(chain([first[0].ljust(first[1])], (cell.rjust(width) for cell, width in others)))
