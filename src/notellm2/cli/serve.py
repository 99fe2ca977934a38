"""The command that answers over HTTP."""

from __future__ import annotations

import logging
import os
from typing import Annotated

import typer

from notellm2.cli.options import STORE, StoreOption


def serve(
    published: Annotated[
        str | None,
        typer.Option("--published", help="A folder or s3:// URL to serve; NOTELLM2_PUBLISHED, else the store's."),
    ] = None,
    store: StoreOption = STORE,
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0: all of this machine's.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0: any free one.")] = 8080,
    follow: Annotated[float, typer.Option(help="Seconds between two looks at the pointer.")] = 2.0,
) -> None:
    """Answer "which notes are similar?" over HTTP, following what is published; a page for people at /.

    Starts before anything is published, and switches to what is published without a restart.

    Example: notellm2 serve --port 8080
    """
    # One query is searched by one thread; requests run side by side. Before FAISS is imported, which reads it then.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    from notellm2.publication.opening import open_location
    from notellm2.serving.server import serve as run
    from notellm2.workspace import Workspace

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    location = open_location(published or Workspace.at(store).published)
    run(location, host, port, every_s=follow, on_start=lambda url: typer.echo(f"{url} serves {location}"))
