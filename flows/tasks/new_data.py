"""Make a checked export the data set's next version."""

from __future__ import annotations

from flows.handoffs import Checked, DataVersion, Outcome, Pinned, PlacedData
from flows.runtime import events, show
from flows.runtime.events import Event
from flows.runtime.job import Job
from flows.tasks.stage import HOUR, MINUTE, stage
from notellm2.errors import InputError
from notellm2.notes.dataset import Dataset


def export_to_import(job: Job, named: str | None) -> str | None:
    """Choose what to import: the one that is named, else the recipe's; None: the recipe makes its data set itself.

    Raises:
        InputError: there is none.
    """
    config = job.recipe.data
    if named is None and config.export is None and config.sample is None:
        raise InputError("nothing to ingest: name an export with `data` (--data), or as data.export in the recipe")
    return named or (None if config.export is None else str(config.export))


@stage("data set", timeout_s=6 * HOUR)
def place_data(job: Job, data: DataVersion) -> PlacedData:
    """Put the checked version in the place of the data set, in one step, unless it is there already."""
    from notellm2.notes import versions

    folder = job.recipe.data.dir
    if folder.is_dir() and versions.data_md5(folder) == data.md5:
        return PlacedData(path=folder, changed=False)
    versions.place(data.path, folder)
    return PlacedData(path=folder, changed=True)


@stage("data pin", timeout_s=6 * HOUR, retries=2)
def pin_data(job: Job, data: DataVersion, pin: bool, push: bool, remote: str | None) -> Pinned:
    """Record the version with DVC, store it at a remote if wanted, and emit an event if it is a new one."""
    from notellm2.notes import versions

    folder = job.recipe.data.dir
    if pin and not versions.status(folder).clean:
        versions.pin(folder)
    if pin and push:
        versions.push(folder, remote)
    info = Dataset.open(folder).info
    payload = {"data_md5": data.md5, "notes": info.notes, "interactions": info.interactions, "path": str(folder)}
    # With the folder's time: a version that comes back after another one is new again.
    key = [data.md5, info.name, str(folder.stat().st_mtime_ns)]
    new = events.emit_once(job, key, Event.DATA_VERSION, "data", info.name, payload)
    return Pinned(pinned=pin, pushed=pin and push, new=new)


@stage("summary", timeout_s=MINUTE)
def summarise(_job: Job, data: DataVersion, checked: Checked, placed: PlacedData, pinned: Pinned) -> Outcome:
    """Compose what to print at the end."""
    lines = [
        f"Version:  {data.md5} ({'new' if pinned.new else 'known already'})",
        f"Data set: {placed.path} ({'replaced' if placed.changed else 'as it was'})",
        f"Checks:   passed, {checked.artifact.path / 'summary.md'}",
    ]
    if pinned.pinned:
        lines.append(f"DVC:      {placed.path}.dvc{', stored at the remote' if pinned.pushed else ''}")
    text = "\n".join(lines)
    show.data_version(text)
    return Outcome(text=text)
