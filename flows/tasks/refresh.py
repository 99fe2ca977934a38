"""Find what changed since the published index was built, embed it, and publish the index that follows."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from flows.handoffs import Changes, DataVersion, Indexed, InUse, Outcome, Published, Vectors
from flows.runtime import show
from flows.runtime.job import Job
from flows.runtime.run import tracking
from flows.tasks.promotion import promoter, report_changes
from flows.tasks.stage import DAY, HOUR, MINUTE, stage
from flows.tasks.waiting import settle_decisions
from notellm2.errors import InputError
from notellm2.workspace import Workspace

if TYPE_CHECKING:
    from notellm2.recipe import Recipe


def nothing_published(store: Path) -> str | None:
    """Say that nothing was published yet; None: something is."""
    from notellm2.publication.pointer import NothingPublished, read_pointer

    try:
        read_pointer(Workspace.at(store).published)
    except NothingPublished as nothing:
        return str(nothing)
    return None


def recipe_of_champion(store: Path, overrides: tuple[str, ...]) -> Recipe:
    """Read the recipe that the champion's run recorded, with assignments on top.

    Raises:
        InputError: nothing is published there, there is no such recipe, or it is wrong.
    """
    from notellm2.publication.pointer import read_pointer
    from notellm2.recipe import RegistryConfig, as_recorded, parse_recipe
    from notellm2.registry import versions
    from notellm2.registry.recipes import recipe_of
    from notellm2.registry.tracking import Tracking

    workspace = Workspace.at(store)
    registry = Tracking.at(workspace, RegistryConfig(model_name=read_pointer(workspace.published).model_name))
    champion = versions.champion(registry)
    tree = None if champion is None else recipe_of(registry, champion.run_id)
    if tree is None:
        raise InputError(
            f"store {workspace.root}: no champion whose run recorded a recipe that is still there; name one with "
            "--recipe"
        )
    try:
        return parse_recipe(as_recorded(tree), overrides, source="the recipe that the champion's run recorded")
    except InputError as error:
        raise InputError(f"{error}; name one with --recipe") from None


@stage("in use", timeout_s=10 * MINUTE, retries=2)
def find_in_use(job: Job) -> InUse:
    """Settle what a killed promotion left, and name champion and published index, which must be one pair."""
    from notellm2.publication.pointer import read_pointer
    from notellm2.registry import versions

    settle_decisions(job)
    pointer = read_pointer(promoter(job).location)
    champion = versions.champion(tracking(job))
    if champion is None or (champion.version, champion.bundle) != (pointer.model_version, pointer.bundle):
        instead = "there is no champion" if champion is None else f"the champion is version {champion.version}"
        raise InputError(
            f"the published index is of model version {pointer.model_version} (bundle {pointer.bundle}), but {instead}"
            ": promote or roll back first, see `notellm2 status`"
        )
    return InUse(
        version=champion.version,
        bundle=champion.bundle,
        publication=pointer.version,
        index_key=pointer.index_key,
        data_md5=pointer.data_md5,
        count=pointer.count,
    )


@stage("changes", timeout_s=HOUR)
def find_changes(job: Job, data: DataVersion, in_use: InUse) -> Changes:
    """Compare the notes, by the digests of text and image, with those that the published index was built from."""
    from notellm2.embedding.refresh import compare_refresh
    from notellm2.index.index_stage import same_settings, vectors_of

    index = job.store.find("index", in_use.index_key)
    vectors = None if index is None else vectors_of(job.store, index)
    changes = compare_refresh(job.store, data.dataset, data.md5, vectors)
    settled = index is None or same_settings(index, job.recipe.index)
    if vectors is None:
        show.warn(f"the vectors of index/{in_use.index_key} are gone from the store: every note is embedded again")
    return Changes(
        new=changes.new,
        changed=changes.changed,
        dropped=changes.dropped,
        nothing_to_do=settled and (changes.none or data.md5 == in_use.data_md5),
        index=index,
        vectors=vectors,
    )


@stage("vectors", timeout_s=DAY)
def embed_changes(job: Job, data: DataVersion, in_use: InUse, changes: Changes) -> Vectors:
    """Embed the new and the changed notes with the champion; take the other vectors as they are."""
    from notellm2.embedding.refresh import refresh_vectors
    from notellm2.registry import versions

    bundle = versions.bundle_path(tracking(job), in_use.version, job.workspace.root / "_mlflow" / "download")
    made = refresh_vectors(job.store, data.dataset, data.md5, bundle, in_use.bundle, changes.vectors)
    return Vectors(artifact=made)


@stage("publication", timeout_s=HOUR, retries=2)
def publish(job: Job, data: DataVersion, in_use: InUse, changes: Changes, indexed: Indexed) -> Published:
    """Publish the index, if the pair in use is still the one it was made to follow."""
    from notellm2.promotion.transaction import Why, this_actor

    done = promoter(job).promote(
        in_use.version,
        indexed.artifact,
        expected=in_use.version,
        over=in_use.publication,
        data_md5=data.md5,
        why=Why(by=this_actor(), reason=f"index refresh: {changes}", mode="automatic", compared_with=in_use.version),
    )
    report_changes(job)
    return Published(publication=done.publication.version, count=done.publication.count)


@stage("summary", timeout_s=MINUTE)
def summarise(
    job: Job, in_use: InUse, changes: Changes, indexed: Indexed | None = None, published: Published | None = None
) -> Outcome:
    """Compose what to print at the end."""
    if published is None or indexed is None:
        same = f"the published index {in_use.publication} has these {in_use.count} notes as they are."
        return Outcome(text=f"Nothing to do: {same}")
    index = indexed.artifact.summary
    lines = [
        f"Notes:      {changes}",
        f"Index:      {index['kind']}, {index['made']}; recall@100 {index['recall']:.4f}, p50 {index['p50_ms']:.3f} ms",
        f"Published:  {published.publication}, {published.count} notes, model version {in_use.version}",
        f"Undo:       notellm2 rollback --to {in_use.publication} --store {job.root}",
    ]
    return Outcome(text="\n".join(lines))
