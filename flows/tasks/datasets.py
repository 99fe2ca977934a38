"""Which data set a retraining reads, made first where it has to be: from the sample generator or a plain export."""

from __future__ import annotations

import json
import shutil
import uuid
from pathlib import Path
from typing import Any

from flows.runtime.job import Job
from notellm2.artifacts import digest_file, digest_json, write_atomic
from notellm2.errors import InputError
from notellm2.notes.dataset import INFO, Dataset, DatasetInfo
from notellm2.notes.source import find_source
from notellm2.recipe import ImageLimits, SampleConfig

VERSIONS = "versions.json"
AS_NAMED, IN_PLACE, IMPORTED_BEFORE, AS_BEGUN = THERE_ALREADY = (
    "as given",
    "was there",
    "imported before",
    "as this run began",
)


def data_folder(job: Job, source: Path | None) -> tuple[Path, str]:
    """Return the folder of the data set to train on, ready to open, and a word on how it came to be there.

    A plain export is imported unless its data set is there and was made of this very export as it is now, within the
    same bounds. ``--data EXPORT`` goes into the store, so that a trial never replaces the versioned data.

    Raises:
        InputError: there is neither a data set nor anything to make one from.
    """
    config = job.recipe.data
    origin = find_source(config, source)
    if origin.kind == "export" and origin.named:
        # Two exports in folders of one name are two data sets.
        home = origin.path.resolve()
        into = job.workspace.root / "_data" / f"{home.name}-{digest_json(str(home))[:8]}"
        return _imported(job, origin.path, into)
    if origin.kind == "export":
        return _imported(job, origin.path, config.dir)
    if origin.named:
        return origin.path, AS_NAMED
    if config.sample is None:
        return origin.path, IN_PLACE
    if origin.kind == "data set":
        _require_same_sample(config.dir, config.sample)
        return origin.path, IN_PLACE
    return _sampled(job, config.sample, config.dir)


def previous_version(job: Job, md5: str, info: DatasetInfo) -> DatasetInfo | None:
    """Find the version of this data set that passed its checks here before this one did.

    The answer for a version that passed never changes, whatever comes later, so that its checks are reused.
    """
    family = [entry for entry in _passed(job) if entry["info"]["name"] == info.name]
    versions = [entry["md5"] for entry in family]
    before = family[: versions.index(md5)] if md5 in versions else family
    return DatasetInfo.model_validate(before[-1]["info"]) if before else None


def known_version(job: Job, md5: str) -> DatasetInfo | None:
    """Find the description of a version that passed its checks here; None: not known."""
    matches = [entry for entry in _passed(job) if entry["md5"] == md5]
    return DatasetInfo.model_validate(matches[-1]["info"]) if matches else None


def remember_version(job: Job, md5: str, info: DatasetInfo) -> None:
    """Note that a version passed its checks: what comes next is compared with it, never with one that failed."""
    known = _passed(job)
    if not any((entry["md5"], entry["info"]["name"]) == (md5, info.name) for entry in known):
        known.append({"md5": md5, "info": info.model_dump(mode="json")})
        write_atomic(_versions(job), json.dumps(known, indent=1) + "\n")


def _versions(job: Job) -> Path:
    return job.workspace.root / "_data" / VERSIONS


def _passed(job: Job) -> list[dict[str, Any]]:
    """The versions that passed, in order."""
    path = _versions(job)
    known: list[dict[str, Any]] = json.loads(path.read_text()) if path.exists() else []
    return known


def _imported(job: Job, export: Path, into: Path) -> tuple[Path, str]:
    from notellm2.notes.import_export import import_export

    limits = job.recipe.data.images
    # Beside the data set, not in it: a path or a time there would make equal data different versions.
    record = into.with_name(f".{into.name}.imported.json")
    state = _state(export, limits)
    if record.is_file() and json.loads(record.read_text()) == [state, _made(into)]:
        return into, IMPORTED_BEFORE
    import_export(export, into, limits=limits)
    write_atomic(record, json.dumps([state, _made(into)]) + "\n")
    return into, f"imported from {export}"


def _made(into: Path) -> str | None:
    """Digest of a data set's description; None where there is no data set."""
    return digest_file(into / INFO) if (into / INFO).is_file() else None


def _state(export: Path, limits: ImageLimits) -> str:
    """Digest of where an export is, of the size and time of everything in it, and of the bounds it is read within."""
    entries = []
    for path in sorted((export, *export.rglob("*"))):
        status = path.lstat()  # of a link itself: it may lead nowhere
        entries.append([path.relative_to(export).as_posix(), status.st_size, status.st_mtime_ns])
    return digest_json([str(export.resolve()), limits.model_dump(), entries])


def _sampled(job: Job, sample: SampleConfig, into: Path) -> tuple[Path, str]:
    from notellm2.notes.import_export import import_export
    from notellm2.sample.generate import write_sample

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
