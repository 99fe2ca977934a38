"""Refresh: bring the published index up to date with the notes, with the champion as it is.

    python -m flows.refresh_index --store store

Embeds what is new or changed, drops what is gone, validates and publishes; schedule it more often than a retraining. A
finished stage is an artifact in the store, so the same command continues a killed refresh.
"""

from __future__ import annotations

from flows import refresh_command

if __name__ == "__main__":
    # Before Prefect is imported below: it reads its settings then, and `refresh_command.main` decides them.
    raise SystemExit(refresh_command.main())

from pathlib import Path

from prefect import flow

from flows import refresh, stages
from flows.job import Facts, git_commit


@flow(name="refresh-index", persist_result=False, result_serializer="json")
def refresh_index(
    store: str = "store", data: str | None = None, recipe: str | None = None, overrides: list[str] | None = None
) -> Facts:
    """Run every stage in order; ends early where the published index has these very notes.

    Args:
        store: the retraining's folder.
        data: a data set or a plain export; None: what the recipe says.
        recipe: path of a YAML recipe; None: the one the champion was trained by.
        overrides: ``section.field=value`` assignments on top of the recipe.

    Returns:
        What changed and what is published, and ``text``: what to print at the end.

    Raises:
        InputError: nothing is published yet, or the recipe, the data or a setting is wrong.
    """
    job = refresh.open_refresh(Path(store), None if recipe is None else Path(recipe), tuple(overrides or ())).about(
        git_commit=git_commit()
    )
    in_use = refresh.in_use(job)
    found = stages.ingest(job, data)
    version = stages.data_version(job, found)
    job = job.about(data_md5=version["md5"])
    changes = refresh.changes(job, version, in_use)
    if changes["nothing_to_do"]:
        return refresh.summary(job, in_use, changes, None, None)
    refresh.quality(job, version)
    vectors = refresh.vectors(job, version, in_use, changes)
    indexed = refresh.index(job, changes, vectors)
    published = refresh.publish(job, version, in_use, changes, indexed)
    return refresh.summary(job, in_use, changes, indexed, published)
