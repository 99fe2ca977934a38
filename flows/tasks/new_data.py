"""The stages of an ingest as Prefect tasks: what a checked export needs to become the data set's next version."""

from __future__ import annotations

from pathlib import Path

from flows.runtime import events, show
from flows.runtime.events import News
from flows.runtime.job import HOUR, MINUTE, Facts, Job, stage
from flows.tasks.datasets import remember_version
from flows.tasks.stages import check_data
from notellm2.artifacts import Artifact
from notellm2.errors import InputError
from notellm2.notes.dataset import Dataset


def export(job: Job, given: str | None) -> str | None:
    """What to import: the one given, else the recipe's; None: the recipe makes its data set itself.

    Raises:
        InputError: neither is named.
    """
    config = job.recipe.data
    if given is None and config.export is None and config.sample is None:
        raise InputError("nothing to ingest: name an export with `data` (--data), or as data.export in the recipe")
    return given or (None if config.export is None else str(config.export))


@stage("quality", timeout_s=HOUR)
def quality(job: Job, data: Facts) -> Artifact:
    """Check the data; a critical failure ends the ingest here, and the data set stays as it is."""
    from notellm2.quality.quality_stage import require_quality

    checked = check_data(job, data)
    require_quality(checked)
    remember_version(job, data["md5"], Dataset.open(Path(data["path"])).info)
    return checked


@stage("data set", timeout_s=6 * HOUR)
def place(job: Job, data: Facts) -> Facts:
    """Put the checked version in the place of the data set, in one step, unless it is there already."""
    from notellm2.notes import versions

    folder, source = job.recipe.data.dir, Path(data["path"])
    if folder.is_dir() and versions.data_md5(folder) == data["md5"]:
        return {"path": str(folder), "changed": False}
    versions.place(source, folder)
    return {"path": str(folder), "changed": True}


@stage("data pin", timeout_s=6 * HOUR, retries=2)
def pin(job: Job, data: Facts, wanted: bool, push: bool, remote: str | None) -> Facts:
    """Record the version with DVC, store it at a remote if wanted, and tell that there is a new one."""
    from notellm2.notes import versions

    folder = job.recipe.data.dir
    if wanted and not versions.status(folder).clean:
        versions.pin(folder)
    if wanted and push:
        versions.push(folder, remote)
    info = Dataset.open(folder).info
    facts = {"data_md5": data["md5"], "notes": info.notes, "interactions": info.interactions, "path": str(folder)}
    # With the folder's time: a version that comes back after another one is news again.
    placed = str(folder.stat().st_mtime_ns)
    told = events.tell_once(job, [data["md5"], info.name, placed], News.DATA_VERSION, "data", info.name, facts)
    return {"pinned": wanted, "pushed": wanted and push, "new": told}


@stage("summary", timeout_s=MINUTE)
def summary(_job: Job, data: Facts, checked: Facts, placed: Facts, pinned: Facts) -> Facts:
    """What to print at the end."""
    state = "new" if pinned["new"] else "known already"
    lines = [
        f"Version:  {data['md5']} ({state})",
        f"Data set: {placed['path']} ({'replaced' if placed['changed'] else 'as it was'})",
        f"Checks:   passed, {Path(checked['path']) / 'summary.md'}",
    ]
    if pinned["pinned"]:
        lines.append(f"DVC:      {placed['path']}.dvc{', stored at the remote' if pinned['pushed'] else ''}")
    text = "\n".join(lines)
    show.data_version(text)
    return {"md5": data["md5"], "new": pinned["new"], "text": text}
