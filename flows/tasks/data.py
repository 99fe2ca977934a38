"""Find the data set, or make it, and name the version that the run reads."""

from __future__ import annotations

from pathlib import Path

from flows.handoffs import DataFolder, DataVersion
from flows.runtime import show, snapshots
from flows.runtime.job import Job
from flows.tasks.datasets import AS_BEGUN, THERE_ALREADY, data_folder
from flows.tasks.stage import HOUR, stage
from notellm2.notes.dataset import Dataset


@stage("ingest", timeout_s=6 * HOUR, retries=2)
def find_data(job: Job, source: str | None) -> DataFolder:
    """Find the data set, or make it from the sample or an export."""
    kept = snapshots.data_of_run(job)
    folder, origin = (kept, AS_BEGUN) if kept else data_folder(job, None if source is None else Path(source))
    show.data(Dataset.open(folder).info, origin)
    return DataFolder(path=folder.absolute(), origin=origin, reused=origin in THERE_ALREADY)


@stage("data version", timeout_s=HOUR)
def name_version(job: Job, data: DataFolder) -> DataVersion:
    """Name the data by its digest, and warn if it is not the one that git pins."""
    from notellm2.notes import places, versions

    folder = data.path
    kept, md5 = snapshots.keep(job, folder)
    pinned = versions.pinned_md5(folder)
    if pinned is not None and pinned != md5:
        show.warn(
            f"{folder} is {md5}, but {folder.name}.dvc pins {pinned}: `notellm2 data pin` records the new version"
        )
    places.remember_place(job.root, md5, kept.absolute())
    return DataVersion(path=kept.absolute(), md5=md5)
