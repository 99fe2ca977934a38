"""Which data set a retraining reads, made first where it has to be: from the sample generator or a plain export."""

from __future__ import annotations

import json
import shutil
import uuid
from pathlib import Path

from flows.job import Job
from notellm2.artifacts import write_atomic
from notellm2.errors import InputError
from notellm2.notes.dataset import INFO, Dataset, DatasetInfo
from notellm2.recipe import SampleConfig

FORMATS = ("parquet", "csv", "jsonl")
VERSIONS = "versions.json"
GIVEN, THERE, BEFORE = ALREADY_THERE = ("as given", "was there", "imported before")


def data_folder(job: Job, given: Path | None) -> tuple[Path, str]:
    """The folder of the data set to train on, ready to open, and a word on how it came to be there.

    A plain export is imported when its data set is missing or older than the export. ``--data EXPORT`` goes into the
    store, so that a trial never replaces the versioned data.

    Raises:
        InputError: there is neither a data set nor anything to make one from.
    """
    config = job.recipe.data
    if given is not None:
        if (given / INFO).is_file():
            return given, GIVEN
        _require_export(given, "--data")
        return _imported(job, given, job.workspace.root / "_data" / given.resolve().name)
    if config.export is not None:
        _require_export(config.export, "data.export")
        return _imported(job, config.export, config.dir)
    if (config.dir / INFO).is_file():
        if config.sample is not None:
            _require_same_sample(config.dir, config.sample)
        return config.dir, THERE
    if config.sample is not None:
        return _sampled(job, config.sample, config.dir)
    raise InputError(
        f"{config.dir}: no data set here, and the recipe names neither data.export nor data.sample; fetch it with "
        f"`notellm2 data pull {config.dir}`, make it with `notellm2 import EXPORT --into {config.dir}`, or name one "
        "with --data"
    )


def previous_version(job: Job, md5: str, info: DatasetInfo) -> DatasetInfo | None:
    """The version of this data set that the store met before this one, and a note that it has met this one.

    The answer for a version never changes, whatever comes later, so that its checks are reused.
    """
    path = job.workspace.root / "_data" / VERSIONS
    known = json.loads(path.read_text()) if path.exists() else []
    family = [entry for entry in known if entry["info"]["name"] == info.name]
    versions = [entry["md5"] for entry in family]
    if md5 not in versions:
        known.append({"md5": md5, "info": info.model_dump(mode="json")})
        write_atomic(path, json.dumps(known, indent=1) + "\n")
        before = family
    else:
        before = family[: versions.index(md5)]
    return DatasetInfo.model_validate(before[-1]["info"]) if before else None


def _require_export(folder: Path, named: str) -> None:
    if not any((folder / f"notes.{ending}").is_file() for ending in FORMATS):
        raise InputError(
            f"{named} {folder}: neither a data set (with {INFO}) nor a plain export (with notes.parquet, .csv or "
            ".jsonl); docs/export.md describes the columns"
        )


def _imported(job: Job, export: Path, into: Path) -> tuple[Path, str]:
    from notellm2.notes.export import import_export

    if (into / INFO).is_file() and (into / INFO).stat().st_mtime >= _newest(export):
        return into, BEFORE
    import_export(export, into, limits=job.recipe.data.images)
    return into, f"imported from {export}"


def _newest(export: Path) -> float:
    """When anything of the export last changed: its files, and the folders that gain and lose files."""
    return max(path.stat().st_mtime for path in (export, *export.rglob("*")))


def _sampled(job: Job, sample: SampleConfig, into: Path) -> tuple[Path, str]:
    from notellm2.notes.export import import_export
    from notellm2.notes.sample import write_sample

    scratch = job.workspace.root / "_data" / f".sample-{uuid.uuid4().hex[:8]}"
    try:
        write_sample(scratch / "sample", sample)
        import_export(scratch / "sample", into, limits=job.recipe.data.images)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return into, "made from the sample"


def _require_same_sample(folder: Path, sample: SampleConfig) -> None:
    info = Dataset.open(folder).info
    if info.name == "sample" and info.notes != sample.notes:
        raise InputError(
            f"{folder}: holds a sample of {info.notes} notes, the recipe asks for {sample.notes} (data.sample.notes); "
            "remove the folder to have it made again, or set data.dir to another one"
        )
