"""The command that says where something comes from, and what came of it."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from notellm2.cli.options import STORE, JsonOption, StoreOption, print_json
from notellm2.printable import printable


def lineage(
    what: Annotated[
        str | None,
        typer.Argument(
            help="A note as served now, a published index, model version (or alias), MLflow run, Prefect flow run, "
            "data md5, git commit, recipe, bundle or artifact (stage/key); the beginning of one will do, kind:id where "
            "two are alike. What is published now when not given."
        ),
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", help="Registered model; the published one's name when not given.")
    ] = None,
    store: StoreOption = STORE,
    as_json: JsonOption = False,
) -> None:
    """Print what something was made from, up to data, commit and recipe, and what came of it, down to what is in use.

    Example: notellm2 lineage n000042
    """
    # A registry that is gone should show soon: the rest of the answer does not wait for it.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
    from notellm2.promotion.lineage.graph import trace
    from notellm2.promotion.lineage.sources import collect
    from notellm2.promotion.lineage.text import render
    from notellm2.workspace import Workspace

    graph = collect(Workspace.at(store), model, note=None if what is None else what.removeprefix("note:"))
    answer = trace(graph, what)
    if as_json:
        print_json(answer.model_dump(mode="json"))
    else:
        typer.echo(printable(render(answer), lines=True))
