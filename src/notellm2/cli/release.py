"""Commands on what is registered and published."""

from __future__ import annotations

from typing import Annotated

import typer

from notellm2.cli.options import STORE, JsonOption, StoreOption, open_store, print_json
from notellm2.errors import InputError
from notellm2.printable import printable


def similar(
    note_id: Annotated[str, typer.Argument(help="The note to start from.")],
    k: Annotated[int, typer.Option("-k", min=1, help="Number of neighbours.")] = 10,
    store: StoreOption = STORE,
    published: Annotated[
        str | None, typer.Option("--published", help="A folder or s3:// URL to read instead of the store's.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Print the notes most similar to one, from the published index alone.

    Example: notellm2 similar n000042 -k 10
    """
    from notellm2.publication.reader import Published
    from notellm2.workspace import Workspace

    place = published or Workspace.at(store).published
    try:
        index = Published(place)
    except OSError as error:
        raise InputError(f"{place}: cannot be read: {error}") from None
    neighbours = [(*neighbour, index.current.title(neighbour.note_id)) for neighbour in index.similar(note_id, k)]
    if as_json:
        rows = [
            {"note_id": id_, "score": round(score, 6)} | ({"title": title} if title else {})
            for id_, score, title in neighbours
        ]
        print_json({"note_id": note_id, "model_version": index.model_version, "similar": rows})
        return
    for id_, score, title in neighbours:
        typer.echo(printable(f"{score:.4f}  {id_}  {title or ''}".rstrip()))


def status(store: StoreOption = STORE, as_json: JsonOption = False) -> None:
    """Print champion and challenger with their figures, what is published, and what waits for a person.

    Ends with 1 where the champion is not the version that readers get.

    Example: notellm2 status
    """
    from notellm2.promotion.status import collect_status, render
    from notellm2.workspace import Workspace

    open_store(store)
    current = collect_status(Workspace.at(store))
    if as_json:
        print_json(current.model_dump(mode="json"))
    else:
        typer.echo(printable(render(current), lines=True))
    if not current.agree:
        raise typer.Exit(1)
