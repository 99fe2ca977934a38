"""The stages of an index refresh as Prefect tasks: each calls one function of the library."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from flows.runtime import show
from flows.runtime.job import HOUR, MINUTE, Facts, Job, artifact, open_job, stage
from flows.runtime.run import tracking
from flows.tasks.promotion import promoter, tell_changes
from flows.tasks.stages import check_data
from notellm2.artifacts import Artifact
from notellm2.errors import InputError
from notellm2.notes.dataset import Dataset
from notellm2.workspace import Workspace

if TYPE_CHECKING:
    from notellm2.registry.versions import Version


def open_refresh(store: Path, recipe: Path | None, overrides: tuple[str, ...]) -> Job:
    """The job of a refresh, by a recipe or by the one the champion's run recorded.

    Raises:
        InputError: nothing is published there, or the recipe is wrong.
    """
    if recipe is not None:
        return open_job(recipe, overrides, store)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "recipe.yaml"
        path.write_text(json.dumps(_recorded_recipe(Workspace.at(store))))
        try:
            return open_job(path, overrides, store)
        except InputError as error:
            raise InputError(f"the recipe that the champion's run recorded: {error}; name one with --recipe") from None


def nothing_published(store: Path) -> str | None:
    """What to say where nothing was published yet; None: something is."""
    from notellm2.publication.pointer import NothingPublished, read_pointer

    try:
        read_pointer(Workspace.at(store).published)
    except NothingPublished as nothing:
        return str(nothing)
    return None


@stage("in use", timeout_s=10 * MINUTE, retries=2)
def in_use(job: Job) -> Facts:
    """Settle what a killed promotion left, and name champion and published index, which must be one pair."""
    from notellm2.publication.pointer import read_pointer
    from notellm2.registry import versions

    promoter(job).recover()
    tell_changes(job)  # what a person promoted or rolled back at a terminal since
    pointer = read_pointer(promoter(job).location)
    champion = versions.champion(tracking(job))
    if champion is None or (champion.version, champion.bundle) != (pointer.model_version, pointer.bundle):
        found = "there is no champion" if champion is None else f"the champion is version {champion.version}"
        raise InputError(
            f"the published index is of model version {pointer.model_version} (bundle {pointer.bundle}), but {found}: "
            "promote or roll back first, see `notellm2 status`"
        )
    return {
        "version": champion.version,
        "bundle": champion.bundle,
        "publication": pointer.version,
        "index_key": pointer.index_key,
        "data_md5": pointer.data_md5,
        "count": pointer.count,
    }


@stage("changes", timeout_s=HOUR)
def changes(job: Job, data: Facts, used: Facts) -> Facts:
    """Compare the notes, by the digests of text and image, with those that the published index was built from."""
    from notellm2.embedding.refresh import compare_refresh
    from notellm2.index.index_stage import same_settings, vectors_of

    base = job.store.find("index", used["index_key"])
    previous = None if base is None else vectors_of(job.store, base)
    found = compare_refresh(job.store, _dataset(data), data["md5"], previous)
    settled = base is None or same_settings(base, job.recipe.index)
    if previous is None:
        show.warn(f"the vectors of index/{used['index_key']} are gone from the store: every note is embedded again")
    return {
        "new": found.new,
        "changed": found.changed,
        "dropped": found.dropped,
        "nothing_to_do": settled and (found.none or data["md5"] == used["data_md5"]),
        "base": base and base.reference(),
        "previous": previous and previous.reference(),
    }


@stage("quality", timeout_s=HOUR)
def quality(job: Job, data: Facts) -> Artifact:
    """Check the data; a critical failure ends the refresh here."""
    from notellm2.quality.quality_stage import require_quality

    checked = check_data(job, data)
    require_quality(checked)
    return checked


@stage("vectors", timeout_s=24 * HOUR)
def vectors(job: Job, data: Facts, used: Facts, changed: Facts) -> Artifact:
    """Embed the new and the changed notes with the champion; take the other vectors as they are."""
    from notellm2.embedding.refresh import refresh_vectors
    from notellm2.registry import versions

    bundle = versions.bundle_path(tracking(job), used["version"], job.workspace.root / "_mlflow" / "download")
    previous = changed["previous"] and Artifact.from_reference(changed["previous"])
    return refresh_vectors(job.store, _dataset(data), data["md5"], bundle, used["bundle"], previous)


@stage("index", timeout_s=6 * HOUR)
def index(job: Job, changed: Facts, embedded: Facts) -> Artifact:
    """Build and validate the index on the published one, as its kind allows, in a process that never sees torch."""
    from notellm2.index.process import build_index_in_subprocess

    base = changed["base"] and Artifact.from_reference(changed["base"])
    return build_index_in_subprocess(
        job.store, artifact(embedded), job.recipe.index, base=base, timeout_s=6 * HOUR - MINUTE
    )


@stage("publication", timeout_s=HOUR, retries=2)
def publish(job: Job, data: Facts, used: Facts, changed: Facts, indexed: Facts) -> Facts:
    """Publish the index, if the pair in use is still the one it was made to follow."""
    from notellm2.promotion.transaction import Why, this_actor

    told = ", ".join(f"{changed[name]} {name}" for name in ("new", "changed", "dropped"))
    done = promoter(job).promote(
        used["version"],
        artifact(indexed),
        expected=used["version"],
        over=used["publication"],
        data_md5=data["md5"],
        why=Why(by=this_actor(), reason=f"index refresh: {told}", mode="automatic", compared_with=used["version"]),
    )
    tell_changes(job)
    return {"publication": done.publication.version, "count": done.publication.count}


@stage("summary", timeout_s=MINUTE)
def summary(job: Job, used: Facts, changed: Facts, indexed: Facts | None, published: Facts | None) -> Facts:
    """What to print at the end."""
    told = ", ".join(f"{changed[name]} {name}" for name in ("new", "changed", "dropped"))
    facts = {name: changed[name] for name in ("new", "changed", "dropped")}
    if published is None or indexed is None:
        text = f"Nothing to do: the published index {used['publication']} has these {used['count']} notes as they are."
        return {**facts, "published": None, "text": text}
    made = artifact(indexed).summary
    text = "\n".join(
        [
            f"Notes:      {told}",
            f"Index:      {made['kind']}, {made['made']}; recall@100 {made['recall']:.4f}, p50 {made['p50_ms']:.3f} ms",
            f"Published:  {published['publication']}, {published['count']} notes, model version {used['version']}",
            f"Undo:       notellm2 rollback --to {used['publication']} --store {job.root}",
        ]
    )
    return {**facts, "published": published["publication"], "text": text}


def _recorded_recipe(workspace: Workspace) -> object:
    from notellm2.publication.pointer import read_pointer
    from notellm2.recipe import RegistryConfig
    from notellm2.registry import versions
    from notellm2.registry.recipes import recipe_of
    from notellm2.registry.tracking import Tracking

    registry = Tracking.at(workspace, RegistryConfig(model_name=read_pointer(workspace.published).model_name))
    champion: Version | None = versions.champion(registry)
    tree = None if champion is None else recipe_of(registry, champion.run_id)
    if tree is None:
        raise InputError(
            f"store {workspace.root}: no champion whose run recorded a recipe that is still there; name one with "
            "--recipe"
        )
    return tree


def _dataset(data: Facts) -> Dataset:
    return Dataset.open(Path(data["path"]))
