"""Follow what people decide outside the flows, within seconds: the service behind `notellm2 follow`. No flow.

It carries out what a promoter asks for by moving the alias `champion` in MLflow's page, ends approvals that nobody
gave, and emits an event for each line of the ledger. Any number may run: they take turns by the promotion's lease, and
one that dies leaves nothing that the next does not find.
"""

from __future__ import annotations

import logging
import time
from pathlib import Path

from flows.runtime.job import Job
from flows.tasks.waiting import settle_decisions
from notellm2.publication.pointer import NothingPublished, read_pointer
from notellm2.recipe import Recipe, RegistryConfig
from notellm2.workspace import Workspace

logger = logging.getLogger("notellm2.promotion")


def follow_decisions(store: Path, *, every_s: float, once: bool, model: str | None = None) -> None:
    """Look again and again; a server that is away is said once, and looked for again.

    Args:
        store: the artifact store.
        every_s: seconds between looks.
        once: look once, and let an error out.
        model: registered model; None: the published one's name, else the default.
    """
    said = ""
    while True:
        try:
            settle_decisions(_job(store, model))
            said = ""
        except Exception as error:
            if once:
                raise
            if str(error) != said:
                said = str(error)
                logger.warning("looking again in %g s: %s: %s", every_s, type(error).__name__, said)
        if once:
            return
        time.sleep(every_s)


def _job(store: Path, model: str | None) -> Job:
    workspace = Workspace.at(store)
    if model is None:
        try:
            model = read_pointer(workspace.published).model_name
        except NothingPublished:
            model = RegistryConfig().model_name
    return Job(recipe=Recipe(name="follow", registry=RegistryConfig(model_name=model)), root=workspace.root)
