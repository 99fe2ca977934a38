"""Where lineage is read: manifests of the store, pointer, publications and ledger of the published place, MLflow.

Each source is read by itself. One that does not answer, or lacks a part, is told in `Graph.missing`, and what the
others know is there all the same: a published index names its vectors in its own files, a version its artifacts in its
tags.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from urllib.parse import quote

from notellm2.artifacts import Store
from notellm2.errors import InputError
from notellm2.index.layout import META
from notellm2.promotion.ledger import Ledger
from notellm2.promotion.lineage.graph import Graph, Name
from notellm2.publication import publish
from notellm2.publication.location import Location
from notellm2.publication.pointer import NothingPublished, Publication, read_pointer
from notellm2.publication.stored import stored_ids
from notellm2.recipe import RegistryConfig
from notellm2.registry import names
from notellm2.registry.tracking import Tracking
from notellm2.workspace import Workspace

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run
    from mlflow.entities.model_registry import ModelVersion

_STAGE_OF = {
    "features": "vision-features",
    "candidate": "evaluation",
    "champion": "evaluation",
}
"""Inputs that are not called like the stage that makes them."""
_MADE_FROM = ("training", "vision-features", "backbones", "pairs")
_JUDGED_BY = ("quality", "evaluation", "comparison", "saliency")
_PAGE = 1000


def collect(workspace: Workspace, model: str | None = None, *, note: str | None = None) -> Graph:
    """Everything that store, published place and registry know.

    Args:
        workspace: the store; the published place and MLflow's address come from it or from the environment.
        model: name of the registered model; None: the published one's, else the default.
        note: an id that may be a note's: in the graph if the published index answers for it. Not all of them are:
            there may be millions.
    """
    graph = Graph()
    pointer = _published(graph, workspace, note)
    model = model or (None if pointer is None else pointer.model_name)
    config = RegistryConfig() if model is None else RegistryConfig(model_name=model)
    _registry(graph, Tracking.at(workspace, config))
    _store(graph, workspace)
    _part_strangers(graph)
    return graph


@contextlib.contextmanager
def _told(graph: Graph, what: str) -> Iterator[None]:
    """What cannot be read becomes a sentence, whatever it is: the rest of the answer must be printed."""
    try:
        yield
    except Exception as error:
        said = str(error).strip().splitlines() or [type(error).__name__]
        kind = "" if isinstance(error, InputError | OSError) else f"{type(error).__name__}: "
        graph.missing.append(f"{what}: {kind}{said[0]}")


def _published(graph: Graph, workspace: Workspace, note: str | None) -> Publication | None:
    pointer = None
    location = Location.at(workspace.published)
    with _told(graph, f"the pointer of {location}"):
        try:
            pointer = read_pointer(location)
        except NothingPublished as nothing:
            graph.missing.append(str(nothing))
    if pointer is not None:
        _publication(graph, location, pointer, served_now=True)
    with _told(graph, f"the published indexes of {location}"):
        for publication in publish.versions(location).values():
            if pointer is None or publication.version != pointer.version:
                _publication(graph, location, publication, served_now=False)
    with _told(graph, f"the ledger of {location}"):
        for entry in Ledger(location).entries():
            if entry.to.publication is None or entry.action == "mend":
                continue
            name = graph.add(
                "publication",
                entry.to.publication,
                *([] if entry.to.version is None else [Name("version", entry.to.version)]),
                Name("bundle", entry.bundle),
                found=False,
            )
            line = {"at": entry.at, "action": entry.action, "by": entry.by, "mode": entry.mode, "reason": entry.reason}
            graph[name].facts.setdefault("ledger", []).append(line)
    if pointer is not None and note is not None:
        with _told(graph, f"the notes of the published index {pointer.version}"):
            if stored_ids(location, pointer).row(note) is not None:
                graph.add("note", note, Name("publication", pointer.version))
    return pointer


def _publication(graph: Graph, location: Location, publication: Publication, *, served_now: bool) -> Name:
    vectors = None
    with _told(graph, f"{location}/{publication.folder}/{META}"):
        stored = location.read(f"{publication.folder}/{META}")
        origin = {} if stored is None else json.loads(stored.data)["vectors"]
        if "stage" in origin:  # The first indexes did not name it.
            inputs = _inputs(origin["inputs"])
            bundle = Name("bundle", publication.bundle)
            vectors = graph.add("artifact", f"{origin['stage']}/{origin['key']}", *inputs, bundle, found=False)
    index = graph.add("artifact", f"index/{publication.index_key}", vectors, found=False)
    return graph.add(
        "publication",
        publication.version,
        index,
        Name("version", publication.model_version),
        Name("bundle", publication.bundle),
        Name("data", publication.data_md5),
        place=f"{location}/{publication.folder}",
        published=publication.published,
        notes=publication.count,
        index=publication.kind,
        served_now=served_now,
    )


def _store(graph: Graph, workspace: Workspace) -> None:
    if not workspace.root.is_dir():
        graph.missing.append(f"store {workspace.root}: no such folder, so artifacts are known by their keys alone")
        return
    stages = {name.id.partition("/")[2]: name.id for name in graph if name.kind == "artifact"}
    found = {artifact.key: artifact for artifact in Store(workspace.root).artifacts()}
    stages |= {key: f"{artifact.stage}/{key}" for key, artifact in found.items()}
    for artifact in found.values():
        with _told(graph, f"the manifest of {artifact.stage}/{artifact.key}"):
            manifest = artifact.manifest
            origin = manifest["provenance"]
            bundle = manifest["summary"].get("bundle")
            name = graph.add(
                "artifact",
                f"{artifact.stage}/{artifact.key}",
                *_inputs(manifest["inputs"], stages),
                *_origin(graph, origin),
                *([Name("bundle", bundle)] if isinstance(bundle, str) else []),
                path=str(artifact.path),
                created=manifest["created"],
                seconds=manifest["seconds"],
                provenance=origin,
            )
            if artifact.stage.endswith("vectors") and isinstance(bundle, str) and "training" in manifest["inputs"]:
                graph.add("bundle", bundle, Name("artifact", f"training/{manifest['inputs']['training']}"), found=False)
            graph[name].facts["made_from"] = manifest["inputs"]


def _inputs(inputs: Mapping[str, str], stages: Mapping[str, str] | None = None) -> list[Name]:
    """The names of an artifact's inputs; what is no artifact and no data version is a fact of its manifest."""
    found = []
    for input_, value in inputs.items():
        address = (stages or {}).get(value)
        if input_ == "data":
            found.append(Name("data", value))
        elif input_ == "bundle":
            found.append(Name("bundle", value))
        elif address is not None:
            found.append(Name("artifact", address))
        elif "/" in value:  # Named as text: an earlier artifact of the same kind, which may be gone.
            found.append(Name("artifact", value))
        elif input_ in _STAGE_OF or input_ in (*_MADE_FROM, *_JUDGED_BY, "vectors"):
            found.append(Name("artifact", f"{_STAGE_OF.get(input_, input_)}/{value}"))
    return found


def _origin(graph: Graph, origin: Mapping[str, str]) -> list[Name]:
    """The names of what provenance says: data, commit, recipe, flow run."""
    found = []
    if "data_md5" in origin:
        found.append(graph.add("data", origin["data_md5"]))
    if "git_commit" in origin:
        found.append(graph.add("commit", origin["git_commit"]))
    if "flow_run" in origin:
        found.append(_flow_run(graph, origin["flow_run"]))
    recipe = graph.add("recipe", origin["recipe"]) if "recipe" in origin else None
    if "recipe_digest" in origin:
        found.append(graph.add("recipe-digest", origin["recipe_digest"], recipe))
    elif recipe is not None:
        found.append(recipe)
    return found


def _registry(graph: Graph, tracking: Tracking) -> None:
    if not tracking.exists:
        graph.missing.append(f"nothing is registered in {tracking.shown_uri}")
        return
    with _told(graph, f"MLflow at {tracking.shown_uri}"):
        client = tracking.client
        versions = list(_versions(client, tracking.model_name))
        if not versions:
            graph.missing.append(f"no version of model {tracking.model_name!r} in {tracking.shown_uri}")
        aliases: dict[str, list[str]] = {}
        for alias, number in (client.get_registered_model(tracking.model_name).aliases if versions else {}).items():
            aliases.setdefault(str(number), []).append(alias)
        for version in versions:
            _version(graph, tracking, version, sorted(aliases.get(str(version.version), [])))
        for run in _runs(graph, tracking, {version.run_id for version in versions if version.run_id}):
            _run(graph, tracking, run)


def _version(graph: Graph, tracking: Tracking, version: ModelVersion, aliases: list[str]) -> None:
    tags, number = version.tags, str(version.version)
    keys: dict[str, str] = json.loads(tags.get(names.ARTIFACTS, "{}"))
    made_from = [Name("artifact", f"{stage}/{keys[stage]}") for stage in _MADE_FROM if stage in keys]
    bundle = tags.get(names.BUNDLE)
    if bundle is not None:
        graph.add("bundle", bundle, *made_from[:1])
    name = graph.add(
        "version",
        number,
        *([Name("bundle", bundle)] if bundle else []),
        *([Name("run", version.run_id)] if version.run_id else []),
        *_origin(graph, _provenance(tags)),
        *made_from,
        model=version.name,
        aliases=aliases or None,
        registered=_time(version.creation_timestamp),
        gate=tags.get(names.GATE),
        promoted_at=tags.get(names.PROMOTED_AT),
        page=tracking.page(f"/models/{quote(version.name, safe='')}/versions/{number}"),
        artifacts=keys or None,
    )
    graph[name].judged_by |= {Name("artifact", f"{stage}/{keys[stage]}") for stage in _JUDGED_BY if stage in keys}


def _run(graph: Graph, tracking: Tracking, run: Run) -> None:
    tags = run.data.tags
    stage = names.artifact_tag("")
    keys = {name.removeprefix(stage): key for name, key in tags.items() if name.startswith(stage)}
    last = tags.get(names.FLOW_RUN, "")
    pages = {last: tags.get(names.FLOW_RUN_URL)}
    flow_runs = [_flow_run(graph, id_, pages.get(id_)) for id_ in tags.get(names.FLOW_RUNS, last).split()]
    name = graph.add(
        "run",
        run.info.run_id,
        *flow_runs,
        *_origin(graph, _provenance(tags)),
        *(Name("artifact", f"{stage}/{keys[stage]}") for stage in _MADE_FROM if stage in keys),
        name=run.info.run_name,
        status=run.info.status,
        started=_time(run.info.start_time),
        page=tracking.page(f"/experiments/{run.info.experiment_id}/runs/{run.info.run_id}"),
        published=tags.get(names.PUBLISHED),
        artifacts=keys or None,
    )
    graph[name].judged_by |= {Name("artifact", f"{stage}/{keys[stage]}") for stage in _JUDGED_BY if stage in keys}


def _provenance(tags: Mapping[str, str]) -> dict[str, str]:
    """A run's or version's tags as an artifact's provenance says the same."""
    said = {
        "data_md5": names.DATA_MD5,
        "git_commit": names.GIT_COMMIT,
        "flow_run": names.FLOW_RUN,
        "recipe": names.RECIPE,
        "recipe_digest": names.RECIPE_DIGEST,
    }
    return {fact: tags[tag] for fact, tag in said.items() if tags.get(tag)}


def _versions(client: MlflowClient, model: str) -> Iterator[ModelVersion]:
    token = None
    while True:
        page = client.search_model_versions(f"name = '{model}'", max_results=_PAGE, page_token=token)
        yield from page
        token = page.token
        if not token:
            return


def _runs(graph: Graph, tracking: Tracking, of_versions: Iterable[str]) -> Iterator[Run]:
    """The experiment's runs, and those of the versions wherever they are."""
    client, seen, token = tracking.client, set(), None
    experiment = client.get_experiment_by_name(tracking.experiment)
    while experiment is not None:
        page = client.search_runs([experiment.experiment_id], max_results=_PAGE, page_token=token)
        for run in page:
            seen.add(run.info.run_id)
            yield run
        token = page.token
        if not token:
            break
    for run_id in sorted(set(of_versions) - seen):
        with _told(graph, f"MLflow run {run_id}"):
            yield client.get_run(run_id)


def _flow_run(graph: Graph, id_: str, page: str | None = None) -> Name:
    """A flow run, with its page: as it was recorded, else from what the environment says of Prefect."""
    name = graph.add("flow-run", id_, page=page)
    api = os.environ.get("PREFECT_API_URL", "").rstrip("/")
    pages = os.environ.get("PREFECT_UI_URL") or api.removesuffix("/api")
    if pages:
        graph[name].facts.setdefault("page", f"{pages.rstrip('/')}/runs/flow-run/{id_}")
    return name


def _part_strangers(graph: Graph) -> None:
    """A registry that was begun anew gives the number of a published version to another model."""
    for name in [name for name in graph if name.kind == "publication"]:
        edges = graph[name].rests_on
        bundles = {other for other in edges if other.kind == "bundle"}
        for version in [other for other in edges if other.kind == "version"]:
            registered = {other for other in graph[version].rests_on if other.kind == "bundle"}
            if registered and bundles and registered.isdisjoint(bundles):
                del edges[version]
                graph.missing.append(
                    f"the version {version.id} that {name.id} was published for: the registry has another model there"
                )


def _time(milliseconds: int | None) -> str | None:
    return (
        None if milliseconds is None else datetime.fromtimestamp(milliseconds / 1000, UTC).isoformat(timespec="seconds")
    )
