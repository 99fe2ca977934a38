"""Where lineage is read: manifests of the store, pointer, publications and ledger of the published place, MLflow.

Each source is read by itself. One that does not answer, or lacks a part, becomes a sentence of `Graph.missing`, and
what the others know is there all the same: a published index names its vectors in its own files, a version its
artifacts in its tags.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping

from notellm2.artifacts import Store
from notellm2.errors import InputError
from notellm2.index.layout import META
from notellm2.promotion.ledger import Ledger
from notellm2.promotion.lineage.graph import Graph, Name
from notellm2.publication import publish
from notellm2.publication.location import Location
from notellm2.publication.opening import open_location
from notellm2.publication.pointer import NothingPublished, Publication, read_pointer
from notellm2.publication.stored import stored_ids
from notellm2.recipe import RegistryConfig
from notellm2.registry import catalogue
from notellm2.registry.catalogue import RunRecord, VersionRecord
from notellm2.registry.tracking import Tracking
from notellm2.workspace import Workspace

_STAGE_OF = {
    "features": "vision-features",
    "candidate": "evaluation",
    "champion": "evaluation",
}
"""Inputs that are not called like the stage that makes them."""
_MADE_FROM = ("training", "vision-features", "backbones", "pairs")
_JUDGED_BY = ("quality", "evaluation", "comparison", "saliency")


def collect(workspace: Workspace, model: str | None = None, *, note: str | None = None) -> Graph:
    """Collect everything that store, published place and registry know.

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
def _problem_noted(graph: Graph, what: str) -> Iterator[None]:
    """What cannot be read becomes a sentence, whatever it is: the rest of the answer must be printed."""
    try:
        yield
    except Exception as error:
        said = str(error).strip().splitlines() or [type(error).__name__]
        kind = "" if isinstance(error, InputError | OSError) else f"{type(error).__name__}: "
        graph.missing.append(f"{what}: {kind}{said[0]}")


def _published(graph: Graph, workspace: Workspace, note: str | None) -> Publication | None:
    pointer = None
    location = open_location(workspace.published)
    with _problem_noted(graph, f"the pointer of {location}"):
        try:
            pointer = read_pointer(location)
        except NothingPublished as nothing:
            graph.missing.append(str(nothing))
    if pointer is not None:
        _publication(graph, location, pointer, served_now=True)
    with _problem_noted(graph, f"the published indexes of {location}"):
        for publication in publish.versions(location).values():
            if pointer is None or publication.version != pointer.version:
                _publication(graph, location, publication, served_now=False)
    with _problem_noted(graph, f"the ledger of {location}"):
        for entry in Ledger(location).entries():
            if entry.to.publication is None or not entry.moved:
                continue
            name = graph.add(
                "publication",
                entry.to.publication,
                *([] if entry.to.version is None else [Name("version", entry.to.version)]),
                Name("bundle", entry.bundle),
                seen=False,
            )
            line = {"at": entry.at, "action": entry.action, "by": entry.by, "mode": entry.mode, "reason": entry.reason}
            graph[name].facts.setdefault("ledger", []).append(line)
    if pointer is not None and note is not None:
        with _problem_noted(graph, f"the notes of the published index {pointer.version}"):
            if stored_ids(location, pointer).row(note) is not None:
                graph.add("note", note, Name("publication", pointer.version))
    return pointer


def _publication(graph: Graph, location: Location, publication: Publication, *, served_now: bool) -> Name:
    vectors = None
    with _problem_noted(graph, f"{location}/{publication.folder}/{META}"):
        stored = location.read(f"{publication.folder}/{META}")
        origin = {} if stored is None else json.loads(stored.data)["vectors"]
        if "stage" in origin:  # The first indexes did not name it.
            inputs = _inputs(origin["inputs"])
            bundle = Name("bundle", publication.bundle)
            vectors = graph.add("artifact", f"{origin['stage']}/{origin['key']}", *inputs, bundle, seen=False)
    index = graph.add("artifact", f"index/{publication.index_key}", vectors, seen=False)
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
    artifacts = {artifact.key: artifact for artifact in Store(workspace.root).artifacts()}
    stages |= {key: f"{artifact.stage}/{key}" for key, artifact in artifacts.items()}
    for artifact in artifacts.values():
        with _problem_noted(graph, f"the manifest of {artifact.stage}/{artifact.key}"):
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
                graph.add("bundle", bundle, Name("artifact", f"training/{manifest['inputs']['training']}"), seen=False)
            graph[name].facts["made_from"] = manifest["inputs"]


def _inputs(inputs: Mapping[str, str], stages: Mapping[str, str] | None = None) -> list[Name]:
    """The names of an artifact's inputs; what is no artifact and no data version is a fact of its manifest."""
    origins = []
    for input_, value in inputs.items():
        address = (stages or {}).get(value)
        if input_ == "data":
            origins.append(Name("data", value))
        elif input_ == "bundle":
            origins.append(Name("bundle", value))
        elif address is not None:
            origins.append(Name("artifact", address))
        elif "/" in value:  # Named as text: an earlier artifact of the same kind, which may be gone.
            origins.append(Name("artifact", value))
        elif input_ in _STAGE_OF or input_ in (*_MADE_FROM, *_JUDGED_BY, "vectors"):
            origins.append(Name("artifact", f"{_STAGE_OF.get(input_, input_)}/{value}"))
    return origins


def _origin(graph: Graph, origin: Mapping[str, str]) -> list[Name]:
    """The names of what provenance says: data, commit, recipe, flow run."""
    origins = []
    if "data_md5" in origin:
        origins.append(graph.add("data", origin["data_md5"]))
    if "git_commit" in origin:
        origins.append(graph.add("commit", origin["git_commit"]))
    if "flow_run" in origin:
        origins.append(_flow_run(graph, origin["flow_run"]))
    recipe = graph.add("recipe", origin["recipe"]) if "recipe" in origin else None
    if "recipe_digest" in origin:
        origins.append(graph.add("recipe-digest", origin["recipe_digest"], recipe))
    elif recipe is not None:
        origins.append(recipe)
    return origins


def _registry(graph: Graph, tracking: Tracking) -> None:
    if not tracking.exists:
        graph.missing.append(f"nothing is registered in {tracking.shown_uri}")
        return
    with _problem_noted(graph, f"MLflow at {tracking.shown_uri}"):
        versions = catalogue.all_versions(tracking)
        if not versions:
            graph.missing.append(f"no version of model {tracking.model_name!r} in {tracking.shown_uri}")
        for version in versions:
            _version(graph, version)
        seen = set()
        for run in catalogue.all_runs(tracking):
            seen.add(run.run_id)
            _run(graph, run)
        # The runs of versions wherever they are: an experiment may have been renamed since.
        for run_id in sorted({version.run_id for version in versions if version.run_id} - seen):
            with _problem_noted(graph, f"MLflow run {run_id}"):
                _run(graph, catalogue.run_record(tracking, run_id))


def _version(graph: Graph, version: VersionRecord) -> None:
    made_from = _artifacts(version.artifacts, _MADE_FROM)
    if version.bundle is not None:
        graph.add("bundle", version.bundle, *made_from[:1])
    name = graph.add(
        "version",
        version.number,
        *([Name("bundle", version.bundle)] if version.bundle else []),
        *([Name("run", version.run_id)] if version.run_id else []),
        *_origin(graph, version.origin),
        *made_from,
        model=version.name,
        aliases=list(version.aliases) or None,
        registered=version.registered,
        gate=version.gate,
        promoted_at=version.promoted_at,
        page=version.page,
        artifacts=dict(version.artifacts) or None,
    )
    graph[name].judged_by |= set(_artifacts(version.artifacts, _JUDGED_BY))


def _run(graph: Graph, run: RunRecord) -> None:
    pages = dict.fromkeys(run.flow_runs[-1:], run.flow_run_page)
    name = graph.add(
        "run",
        run.run_id,
        *[_flow_run(graph, id_, pages.get(id_)) for id_ in run.flow_runs],
        *_origin(graph, run.origin),
        *_artifacts(run.artifacts, _MADE_FROM),
        name=run.name,
        status=run.status,
        started=run.started,
        page=run.page,
        published=run.published,
        artifacts=dict(run.artifacts) or None,
    )
    graph[name].judged_by |= set(_artifacts(run.artifacts, _JUDGED_BY))


def _artifacts(keys: Mapping[str, str], stages: Iterable[str]) -> list[Name]:
    return [Name("artifact", f"{stage}/{keys[stage]}") for stage in stages if stage in keys]


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
