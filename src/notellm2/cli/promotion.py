"""Commands that change what is in use, and the record of it.

Status 0: done. 1: refused, or another promotion was under way; nothing was changed. 2: an argument is wrong.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from notellm2.cli.options import STORE, JsonOption, StoreOption, open_store, print_json
from notellm2.errors import InputError
from notellm2.printable import printable

if TYPE_CHECKING:
    from notellm2.artifacts import Store
    from notellm2.promotion.transaction import Promoter, RollbackPlan
    from notellm2.registry.decisions import Entry
    from notellm2.registry.versions import Version

ModelOption = Annotated[
    str | None, typer.Option("--model", help="Registered model; the published one's name when not given.")
]
ReasonOption = Annotated[str, typer.Option("--reason", help="Why, for the ledger.")]


def promote(
    version: Annotated[str, typer.Argument(help="Number of a registered version that passed the gate.")],
    expect_champion: Annotated[
        str | None,
        typer.Option(help="Champion it may replace, or 'none'; the one the gate compared with when not given."),
    ] = None,
    without_added_notes: Annotated[
        bool, typer.Option("--without-added-notes", help="Publish its index as it is, without what refreshes added.")
    ] = False,
    reason: ReasonOption = "",
    model: ModelOption = None,
    store: StoreOption = STORE,
    as_json: JsonOption = False,
) -> None:
    """Make a version champion and publish its index, together; refused if the champion has changed.

    Notes that refreshes have added since its data version are embedded first.

    Example: notellm2 promote 3 --reason "reads the new categories"
    """
    from notellm2.promotion.completion import Complete, Workshop, promote_complete
    from notellm2.promotion.transaction import Why, this_actor
    from notellm2.registry.versions import get_version

    promoter = _promoter(store, model)
    _follow(promoter, store)
    candidate = get_version(promoter.tracking, version)
    if candidate.gate != "passed":
        said = candidate.verdict or "no gate has judged it: run the retraining to its end"
        raise InputError(f"version {version} has not passed the gate: {said}")
    key = candidate.artifacts.get("index")
    if key is None:
        raise InputError(f"version {version} names no index: run its retraining again, it builds one")
    if _has_another_index(promoter, candidate, key):
        _tell(
            None, f"version {version} is champion already, with an index that followed; see `notellm2 history`", as_json
        )
        return
    expected = candidate.compared_with if expect_champion is None else _champion(expect_champion)
    why = Why(
        by=this_actor(),
        reason=reason or "promoted by hand",
        mode="manual",
        verdict=candidate.verdict,
        compared_with=candidate.compared_with,
    )
    with _outcomes():
        artifacts = open_store(store.absolute())
        own = Complete(artifacts.get(f"index/{key}"), candidate.data_md5, added=0)
        if without_added_notes:
            done = promoter.promote(version, own.index, expected=expected, data_md5=own.data_md5, why=why)
        else:
            done = promote_complete(promoter, version, own, expected, why, Workshop.at(artifacts))
    _tell(done.entry, f"version {version} is champion already, its index published", as_json)


def refuse(
    version: Annotated[str, typer.Argument(help="Number of a registered version.")],
    reason: ReasonOption = "",
    model: ModelOption = None,
    store: StoreOption = STORE,
    as_json: JsonOption = False,
) -> None:
    """Decide against a version: no flow promotes it or asks for it again, and `status` no longer names it.

    Nothing moves; `notellm2 promote` still promotes it.

    Example: notellm2 refuse 3 --reason "worse on short queries"
    """
    from notellm2.promotion.transaction import Why, this_actor
    from notellm2.promotion.waiting import Notice, record
    from notellm2.registry import names, versions

    promoter = _promoter(store, model)
    candidate = versions.get_version(promoter.tracking, version)
    if versions.alias_version(promoter.tracking, names.CHAMPION) == candidate.version:
        raise InputError(f"version {version} is in use: `notellm2 rollback` takes it out of use")
    why = Why(by=this_actor(), reason=reason or "refused by hand", mode="manual", verdict=candidate.verdict)
    why = why.model_copy(update={"compared_with": candidate.compared_with})
    with _outcomes():
        entry, _ = record(promoter, "refuse", Notice(candidate.version, candidate.bundle), why)
    if as_json:
        print_json(entry.model_dump())
    else:
        typer.echo(f"version {version} is refused; it stays registered")


def rollback(
    to: Annotated[
        str | None, typer.Option(help="Version, or name of a published index; the version before when not given.")
    ] = None,
    index: Annotated[
        bool, typer.Option("--index", help="Go to the index before instead, of the same version too.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do it without asking.")] = False,
    reason: ReasonOption = "",
    model: ModelOption = None,
    store: StoreOption = STORE,
    as_json: JsonOption = False,
) -> None:
    """Go back to the version before, with its newest index, in seconds; again, one further back.

    Says what it will do and asks; nothing is trained, embedded or copied.

    Example: notellm2 rollback --reason "clicks fell"
    """
    from notellm2.promotion.transaction import Why, this_actor

    promoter = _promoter(store, model)
    if to is not None and index:
        raise InputError("--index goes one index back, --to names where to go: give one of them")
    _follow(promoter, store)
    with _outcomes():
        plan = promoter.plan_rollback(to=to, index=index)
        _confirm(_rollback_text(plan), yes)
        why = Why(by=this_actor(), reason=reason or "rolled back by hand", mode="manual")
        # What was shown is what is done: that very index, over that very pair.
        done = promoter.rollback(why, to=plan.publication.version, over=plan.over)
    _tell(done.entry, "nothing to do", as_json)
    if not index and plan.pointer is not None:
        _add_served(promoter, plan, open_store(store.absolute()))


def history(store: StoreOption = STORE, as_json: JsonOption = False) -> None:
    """Print the ledger: what was promoted and rolled back, when, by whom, against what and why.

    Example: notellm2 history
    """
    from notellm2.promotion.history import render
    from notellm2.promotion.ledger import Ledger
    from notellm2.publication.opening import open_location
    from notellm2.workspace import Workspace

    open_store(store)
    entries = Ledger(open_location(Workspace.at(store).published)).entries()
    if as_json:
        print_json([entry.model_dump() for entry in entries])
    else:
        typer.echo(printable(render(entries), lines=True))


def _promoter(store: Path, model: str | None) -> Promoter:
    from notellm2.promotion.transaction import Promoter
    from notellm2.publication.opening import open_location
    from notellm2.publication.pointer import NothingPublished, PublicationDamaged, read_pointer
    from notellm2.recipe import RegistryConfig
    from notellm2.registry.tracking import Tracking
    from notellm2.workspace import Workspace

    open_store(store)
    workspace = Workspace.at(store)
    location = open_location(workspace.published)
    if model is None:
        with contextlib.suppress(NothingPublished, PublicationDamaged):
            model = read_pointer(location).model_name
    config = RegistryConfig() if model is None else RegistryConfig(model_name=model)
    tracking = Tracking.at(workspace, config)
    if not tracking.exists:
        raise InputError(f"nothing is registered in {tracking.shown_uri}: run a retraining first")
    return Promoter(tracking, location, lease_s=config.lease_s, wait_s=config.lease_wait_s)


def _has_another_index(promoter: Promoter, version: Version, index_key: str) -> bool:
    """Whether a version is in use with another index than its retraining's: a refresh's, which promoting would undo."""
    from notellm2.publication.pointer import NothingPublished, PublicationDamaged, read_pointer
    from notellm2.registry import names, versions

    try:
        pointer = read_pointer(promoter.location)
    except (NothingPublished, PublicationDamaged):
        return False
    here = (pointer.model_version, pointer.bundle) == (version.version, version.bundle)
    alias = versions.alias_version(promoter.tracking, names.CHAMPION)
    return here and alias == version.version and pointer.index_key != index_key


def _rollback_text(plan: RollbackPlan) -> str:
    """What a rollback would do, for a person who is to say yes."""
    target, now = plan.publication, plan.pointer
    before = f"version {plan.over.version or 'none'} with index {plan.over.publication or 'none'}"
    lines = [
        f"in use now:   {before}" + (f", {now.count:,} notes, published {now.published}" if now else ""),
        f"goes back to: version {target.model_version} with index {target.version}, {target.count:,} notes",
        f"              published {target.published}",
    ]
    if target.model_version == plan.over.version:
        lines.append("the model stays the same, only its index changes")
    if now is not None and now.count > target.count:
        fewer = f"{now.count - target.count:,} notes fewer are served then"
        lines.append(f"{fewer}, until its model has embedded them: that follows at once, as far as they are here")
    return "\n".join(lines)


def _follow(promoter: Promoter, store: Path) -> None:
    """Answer first what somebody asked for by moving the alias in MLflow's page: it came before this command."""
    from notellm2.promotion.completion import Workshop
    from notellm2.promotion.requests import follow
    from notellm2.publication.pointer import PublicationDamaged

    with _outcomes(), contextlib.suppress(PublicationDamaged):  # A rollback writes a damaged pointer anew.
        answer = follow(promoter, Workshop.at(open_store(store.absolute())))
        if answer is not None:
            done = f"version {answer.version} is in use" if answer.done else "the alias was put back"
            typer.echo(f"first, what was asked for in MLflow: {done}: {answer.reason}", err=True)


def _add_served(promoter: Promoter, plan: RollbackPlan, store: Store) -> None:
    """Add the notes that were served before a rollback and that its index lacks, as far as its model can."""
    from notellm2.promotion.completion import Complete, NotesMissing, Workshop, complete_index
    from notellm2.promotion.transaction import Why, this_actor

    target = plan.publication
    kept = store.find("index", target.index_key)
    if kept is None:
        typer.echo("the index's artifact is gone from the store: the next refresh adds the notes it lacks", err=True)
        return
    own = Complete(kept, target.data_md5, added=0)
    try:
        whole = complete_index(promoter, target.model_version, own, plan.pointer, Workshop.at(store))
    except NotesMissing as missing:
        typer.echo(f"not added: {missing}; the next refresh adds them", err=True)
        return
    if whole.added:
        why = Why(by=this_actor(), reason=f"{whole.added} notes added after the rollback", mode="manual")
        number = target.model_version
        with _outcomes():
            promoter.promote(
                number, whole.index, expected=number, data_md5=whole.data_md5, why=why, over=target.version
            )
        typer.echo(f"{whole.added:,} notes that refreshes had added are served again", err=True)


def _confirm(text: str, yes: bool) -> None:
    """Show what will be done and do it after a yes.

    Raises:
        InputError: there is nobody to ask.
    """
    typer.echo(text, err=True)
    if yes:
        return
    if not _at_terminal():
        raise InputError("nothing was changed: nobody is at a terminal to say yes; do it with --yes")
    if not typer.confirm("Go back?", err=True):
        typer.echo("nothing was changed", err=True)
        raise typer.Exit(1)


def _at_terminal() -> bool:
    return sys.stdin.isatty()


@contextlib.contextmanager
def _outcomes() -> Iterator[None]:
    """A refusal and a place that does not answer become a message and status 1."""
    from notellm2.promotion.journal import LeaseLost, LeaseTaken
    from notellm2.promotion.transaction import Refused
    from notellm2.publication.publish import PointerMoved, PublishFailed

    try:
        yield
    except (Refused, LeaseTaken, LeaseLost, PointerMoved) as refused:
        typer.echo(f"refused: {refused}", err=True)
        raise typer.Exit(1) from None
    except (PublishFailed, OSError) as error:
        typer.echo(f"failed: {error}", err=True)
        raise typer.Exit(1) from None


def _champion(number: str) -> str | None:
    return None if number == "none" else number


def _tell(entry: Entry | None, otherwise: str, as_json: bool) -> None:
    if as_json:
        print_json(None if entry is None else entry.model_dump())
    elif entry is None:
        typer.echo(otherwise)
    else:
        before = "no champion" if entry.over.version is None else f"version {entry.over.version}"
        typer.echo(f"version {entry.to.version} is in use with index {entry.to.publication}, in the place of {before}")
