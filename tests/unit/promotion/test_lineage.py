"""From an answer to data, commit and recipe and back, also where a part is gone."""

from __future__ import annotations

import dataclasses
import json
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from notellm2 import cli
from notellm2.artifacts import Artifact, Store
from notellm2.errors import InputError
from notellm2.index.index_stage import build_index
from notellm2.promotion.ledger import LEDGER
from notellm2.promotion.lineage.graph import Trace, trace
from notellm2.promotion.lineage.sources import collect
from notellm2.promotion.lineage.text import render
from notellm2.publication.pointer import POINTER
from notellm2.recipe import IndexConfig
from notellm2.registry import names, versions
from notellm2.registry.record import origin_of_run
from notellm2.registry.runs import Run
from notellm2.registry.tracking import URI_VARIABLE, Tracking
from notellm2.workspace import PUBLISHED, Workspace
from tests.unit.index.examples import DATA_MD5, clustered, note_ids, publish
from tests.unit.registry.world import A, B, World

C1, C2 = "1" * 40, "2" * 40
F1, F2 = "f1000000-0000", "f2000000-0000"
NOTE = "n00007"


@dataclass
class Lived:
    """Two retrainings on the same pairs, the second promoted over the first."""

    world: World
    workspace: Workspace
    runs: tuple[str, ...]
    versions: tuple[str, ...]
    publications: tuple[str, ...]
    made: tuple[dict[str, Artifact], ...]

    def trace(self, what: str | None) -> Trace:
        return trace(collect(self.workspace, self.world.tracking.model_name, note=what), what)


def make(store: Store, stage: str, text: str, **inputs: Artifact | str) -> Artifact:
    def write(folder: Path) -> dict[str, Any]:
        (folder / "file").write_text(text)
        return {}

    return store.build(stage, 1, {"text": text}, inputs, write)


def vectors_and_index(store: Store, bundle: str, training: Artifact, seed: int) -> tuple[Artifact, Artifact]:
    def write(folder: Path) -> dict[str, Any]:
        np.save(folder / "both.npy", clustered(40, seed=seed))
        (folder / "note_ids.json").write_text(json.dumps(note_ids(40)))
        return {"bundle": bundle}

    vectors = store.build("vectors", 1, {}, {"data": DATA_MD5, "training": training}, write)
    with pytest.MonkeyPatch.context() as patch:
        patch.delitem(sys.modules, "torch", raising=False)
        return vectors, build_index(store, vectors, IndexConfig(sample=20), threads=1)


def tags_of_before(origin: dict[str, str], made: dict[str, Artifact]) -> dict[str, str]:
    """What a run had before machines read one tag: a tag for each fact and for each artifact."""
    tags = {tag: origin[fact] for fact, tag in names.ORIGIN_FACTS.items()}
    tags |= {names.FLOW_RUNS: origin["flow_run"]}
    return tags | {f"notellm2.artifact.{stage}": artifact.key for stage, artifact in made.items()}


def retrained(world: World, root: Path, number: int, champion: str | None) -> tuple[str, str, str, dict[str, Artifact]]:
    """One retraining to its promotion: run, version, publication, artifacts. The first is recorded as before."""
    bundle, commit, flow_run = ((A, C1, F1), (B, C2, F2))[number]
    origin = {"data_md5": DATA_MD5, "git_commit": commit, "recipe": "films", "recipe_digest": f"d{number}" * 10}
    store = Store(root, {**origin, "flow_run": flow_run})
    pairs = make(store, "pairs", "the same", data=DATA_MD5)
    training = make(store, "training", f"model {number}", data=DATA_MD5, pairs=pairs)
    vectors, index = vectors_and_index(store, bundle, training, seed=number)
    evaluation = make(store, "evaluation", f"figures {number}", data=DATA_MD5, pairs=pairs, vectors=vectors)
    made = {"pairs": pairs, "training": training, "vectors": vectors, "evaluation": evaluation, "index": index}
    client, model = world.tracking.client, world.tracking.model_name
    url = f"http://prefect/runs/flow-run/{flow_run}"
    with Run.open(world.tracking, f"{model}-{number}", name="films") as run:
        if number == 0:
            run.log_tags(tags_of_before({**origin, "flow_run": flow_run, "flow_run_url": url}, made))
        else:
            run.log_origin(recipe="films", data_md5=DATA_MD5, git_commit=commit, flow_run=flow_run, flow_run_url=url)
            run.log_tags({names.RECIPE_DIGEST: origin["recipe_digest"]})
            for artifact in made.values():
                run.log_stage(artifact)
    keys = {stage: artifact.key for stage, artifact in made.items()}
    known = client.get_run(run.run_id).data.tags
    if number == 0:
        tags = {tag: known[tag] for tag in names.ORIGIN_FACTS.values()} | {names.ARTIFACTS: json.dumps(keys)}
    else:
        tags = {names.RECORD: json.dumps({**origin_of_run(known), "artifacts": keys})}
    tags[names.BUNDLE] = bundle
    versions._ensure_registered_model(world.tracking)
    # Without the model's files, which lineage does not read, though the server wants them among those of the run.
    source = f"{client.get_run(run.run_id).info.artifact_uri}/model"
    given = {"run_id": run.run_id, "tags": tags, "await_creation_for": 0}
    version = str(client.create_model_version(model, source, **given).version)
    done = world.promote(version, index, champion)
    return run.run_id, version, done.publication.version, made


def live(world: World, root: Path) -> Lived:
    first = retrained(world, root, 0, None)
    second = retrained(world, root, 1, first[1])
    return Lived(world, Workspace.at(root), *zip(first, second, strict=True))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def template(store_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Lived:
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv(URI_VARIABLE, raising=False)
        tracking = dataclasses.replace(Tracking.at(Workspace.at(store_root)), experiment="lived", model_name="lived")
    root = tmp_path_factory.mktemp("lived")
    return live(World(tracking, root / "published"), root / "store")


@pytest.fixture
def lived(template: Lived, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lived:
    """A copy of both retrainings' files, over the one registry: tests change the files, not the registry."""
    for name, source in (("published", template.world.published), ("store", template.workspace.root)):
        shutil.copytree(source, tmp_path / name)
    monkeypatch.setenv(URI_VARIABLE, template.world.tracking.uri)
    monkeypatch.setenv(PUBLISHED, str(tmp_path / "published"))
    world = World(template.world.tracking, tmp_path / "published")
    return dataclasses.replace(template, world=world, workspace=Workspace.at(tmp_path / "store"))


def ids(things: Any) -> list[str]:
    return [f"{thing.kind}:{thing.id}" for thing in things]


def test_from_a_note_to_data_commit_and_recipe(lived: Lived) -> None:
    told = lived.trace(NOTE)
    made = lived.made[1]
    assert ids([told.what]) == [f"note:{NOTE}"]
    assert ids(told.up) == [
        f"publication:{lived.publications[1]}",
        f"artifact:index/{made['index'].key}",
        f"artifact:vectors/{made['vectors'].key}",
        f"version:{lived.versions[1]}",
        f"bundle:{B}",
        f"artifact:training/{made['training'].key}",
        f"artifact:pairs/{made['pairs'].key}",
        f"run:{lived.runs[1]}",
        f"flow-run:{F2}",
        f"flow-run:{F1}",
        f"data:{DATA_MD5}",
        f"commit:{C2}",
        f"commit:{C1}",
        "recipe-digest:" + "d1" * 10,
        "recipe-digest:" + "d0" * 10,
        "recipe:films",
    ]
    facts = {name: thing.facts for name, thing in zip(ids(told.up), told.up, strict=True)}
    assert facts[f"publication:{lived.publications[1]}"]["served_now"] is True
    assert facts[f"publication:{lived.publications[1]}"]["ledger"][0]["reason"] == "because"
    assert facts[f"version:{lived.versions[1]}"]["aliases"] == ["champion"]
    assert facts[f"flow-run:{F2}"]["page"] == f"http://prefect/runs/flow-run/{F2}"
    assert facts[f"artifact:pairs/{made['pairs'].key}"]["provenance"]["git_commit"] == C1, "made by the first run"
    assert facts[f"run:{lived.runs[1]}"]["page"].endswith(f"/runs/{lived.runs[1]}?workflowType=machine_learning")
    assert told.missing == ()
    assert told.down == ()


def test_from_every_origin_to_what_is_in_use(lived: Lived) -> None:
    made = lived.made[1]
    origins = [C2, F2, lived.runs[1], DATA_MD5, "films", "d1" * 10, B, f"training/{made['training'].key}"]
    for origin in origins:
        told = lived.trace(origin)
        below = ids(told.down)
        assert f"publication:{lived.publications[1]}" in below, origin
        assert f"version:{lived.versions[1]}" in below, origin
        said = f"In use now: the published index {lived.publications[1]} and the champion, version {lived.versions[1]}"
        assert said in render(told), origin
    assert f"artifact:index/{made['index'].key}" in ids(lived.trace(C2).down)
    assert lived.trace(None).what.id == lived.publications[1]


def test_what_is_not_in_use_any_more_says_so(lived: Lived) -> None:
    for origin in (lived.runs[0], A, f"version:{lived.versions[0]}", lived.publications[0]):
        told = lived.trace(origin)
        assert not any(thing.facts.get("served_now") for thing in (told.what, *told.down)), origin
        assert "In use now: nothing that rests on it" in render(told), origin
    # The first commit made the pairs that the second retraining took as they were.
    assert f"publication:{lived.publications[1]}" in ids(lived.trace(C1).down)


def test_what_judged_a_version_is_no_part_of_it(lived: Lived) -> None:
    evaluation = lived.made[1]["evaluation"]
    address = f"evaluation/{evaluation.key}"
    assert f"artifact:{address}" not in ids(lived.trace(f"version:{lived.versions[1]}").up)
    below = ids(lived.trace(address).down)
    assert f"version:{lived.versions[1]}" in below
    assert f"version:{lived.versions[0]}" not in below
    assert f"artifact:training/{lived.made[0]['training'].key}" not in ids(lived.trace(NOTE).up)
    assert address in render(lived.trace(f"version:{lived.versions[1]}"))


def test_the_beginning_of_an_id_will_do_while_it_is_unambiguous(lived: Lived) -> None:
    key = lived.made[0]["training"].key
    for what, whole in [
        (lived.runs[0][:12], lived.runs[0]),
        ("1111", C1),
        (DATA_MD5[:8], DATA_MD5),
        (DATA_MD5.removesuffix(".dir"), DATA_MD5),
        (f"training/{key[:6]}", f"training/{key}"),
        (key, f"training/{key}"),
        ("f100", F1),
        ("champion", lived.versions[1]),
        (f"run:{lived.runs[0][:6]}", lived.runs[0]),
    ]:
        assert lived.trace(what).what.id == whole, what
    graph = collect(lived.workspace, lived.world.tracking.model_name)
    graph.add("commit", f"{C1}-dirty")
    graph.add("commit", "3" * 40 + "-dirty")
    assert trace(graph, C1).what.id == C1, "the very commit, not the one that had changes"
    assert trace(graph, "3" * 40).what.id == "3" * 40 + "-dirty"
    with pytest.raises(InputError, match=r"'training/' names 2 things: say which, by its whole name: artifact:train"):
        lived.trace("training/")
    with pytest.raises(InputError, match="'111' is the name of nothing known"):
        lived.trace("111")
    with pytest.raises(InputError, match="'films' is the name of nothing known"):
        lived.trace("commit:films")


def test_a_note_called_like_a_version_has_to_be_told_from_it(lived: Lived) -> None:
    version = lived.versions[0]
    graph = collect(lived.workspace, lived.world.tracking.model_name)
    graph.add("note", version)
    with pytest.raises(InputError, match=rf"'{version}' names 2 things: .*version:{version}"):
        trace(graph, version)
    assert trace(graph, f"note:{version}").what.kind == "note"


def test_without_the_store_the_rest_is_told(lived: Lived) -> None:
    shutil.rmtree(lived.workspace.root)
    told = lived.trace(NOTE)
    above = ids(told.up)
    for name in (
        f"publication:{lived.publications[1]}",
        f"artifact:index/{lived.made[1]['index'].key}",
        f"artifact:vectors/{lived.made[1]['vectors'].key}",
        f"artifact:training/{lived.made[1]['training'].key}",
        f"artifact:pairs/{lived.made[1]['pairs'].key}",
        f"run:{lived.runs[1]}",
        f"data:{DATA_MD5}",
        f"commit:{C2}",
        "recipe:films",
    ):
        assert name in above
    (reason,) = told.missing
    assert "no such folder, so artifacts are known by their keys alone" in reason
    assert "not seen in this store" in render(told)


def test_without_the_registry_the_rest_is_told(lived: Lived, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    damaged = tmp_path / "mlflow.db"
    damaged.write_bytes(b"no database" * 100)
    for uri, said in [
        (f"sqlite:///{tmp_path}/gone.db", "nothing is registered in"),
        (f"sqlite:///{damaged}", "MLflow at sqlite:"),
    ]:
        monkeypatch.setenv(URI_VARIABLE, uri)
        told = lived.trace(NOTE)
        above = ids(told.up)
        assert {f"commit:{C2}", f"flow-run:{F2}", f"data:{DATA_MD5}", "recipe:films", f"bundle:{B}"} <= set(above)
        assert f"version:{lived.versions[1]}" in above, "the pointer names it"
        assert any(reason.startswith(said) for reason in told.missing), told.missing
        assert "not seen in the registry" in render(told)
    assert not (tmp_path / "gone.db").exists()


def test_a_damaged_pointer_and_ledger_are_told_and_the_rest_too(lived: Lived) -> None:
    place = Path(lived.world.published)
    (place / POINTER).write_text("{")
    (place / LEDGER).write_text("nothing\n")
    told = lived.trace(C2)
    assert f"publication:{lived.publications[1]}" in ids(told.down)
    assert any("current.json: not readable as a publication" in reason for reason in told.missing)
    assert any("ledger.jsonl line 1" in reason for reason in told.missing)
    with pytest.raises(InputError, match="no published index is in use: say what to trace; the pointer of"):
        lived.trace(None)


def test_a_publication_that_was_removed_is_known_from_the_ledger(lived: Lived) -> None:
    shutil.rmtree(Path(lived.world.published) / "versions" / lived.publications[0])
    told = lived.trace(lived.publications[0])
    assert not told.what.found
    assert f"version:{lived.versions[0]}" in ids(told.up)
    assert "no longer stored" in render(told)


def test_a_registry_begun_anew_lends_its_numbers_to_nobody(lived: Lived) -> None:
    client, model = lived.world.tracking.client, lived.world.tracking.model_name
    client.set_model_version_tag(model, lived.versions[1], names.BUNDLE, "c" * 20)
    try:
        told = lived.trace(NOTE)
    finally:
        client.set_model_version_tag(model, lived.versions[1], names.BUNDLE, B)
    assert f"version:{lived.versions[1]}" not in ids(told.up)
    assert f"bundle:{B}" in ids(told.up)
    assert any("the registry has another model there" in reason for reason in told.missing)


def test_it_reads_a_place_on_s3(
    template: Lived, tmp_path: Path, s3_place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from notellm2.promotion.lineage.graph import Graph
    from notellm2.promotion.lineage.sources import _published

    world = World(template.world.tracking, s3_place)
    publication = publish(
        world.location, template.made[1]["index"], model_name="lived", model_version="2", data_md5=DATA_MD5
    )
    monkeypatch.setenv(URI_VARIABLE, f"sqlite:///{tmp_path}/gone.db")
    monkeypatch.setenv(PUBLISHED, s3_place)
    told = trace(collect(Workspace.at(tmp_path / "elsewhere"), note=NOTE), NOTE)
    made = template.made[1]
    assert ids(told.up) == [
        f"publication:{publication.version}",
        f"artifact:index/{made['index'].key}",
        f"artifact:vectors/{made['vectors'].key}",
        "version:2",
        f"bundle:{B}",
        f"artifact:training/{made['training'].key}",
        f"data:{DATA_MD5}",
    ]
    assert told.up[0].facts["place"] == f"{s3_place}/{publication.folder}"
    assert not (tmp_path / "elsewhere").exists()
    monkeypatch.setenv(PUBLISHED, s3_place.replace("published", "no-such-bucket"))
    graph = Graph()
    assert _published(graph, Workspace.at(tmp_path), NOTE) is None
    assert any("NoSuchBucket" in reason for reason in graph.missing)


def test_a_flow_run_has_its_page_where_the_environment_says_where(
    lived: Lived, monkeypatch: pytest.MonkeyPatch
) -> None:
    from notellm2.promotion.lineage.graph import Graph
    from notellm2.promotion.lineage.sources import _flow_run

    for name in ("PREFECT_API_URL", "PREFECT_UI_URL"):
        monkeypatch.delenv(name, raising=False)
    graph = Graph()
    assert graph[_flow_run(graph, "x")].facts == {}
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:4200/api")
    assert graph[_flow_run(graph, "x")].facts == {"page": "http://127.0.0.1:4200/runs/flow-run/x"}
    monkeypatch.setenv("PREFECT_UI_URL", "https://prefect.example")
    assert graph[_flow_run(graph, "y")].facts == {"page": "https://prefect.example/runs/flow-run/y"}
    assert graph[_flow_run(graph, "z", "http://recorded")].facts == {"page": "http://recorded"}


def test_the_command_tells_people_and_programs(lived: Lived, monkeypatch: pytest.MonkeyPatch) -> None:
    # What the command sets for its own process, this one forgets.
    for name in ("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "MLFLOW_HTTP_REQUEST_TIMEOUT"):
        monkeypatch.setenv(name, "1")

    def ask(*arguments: str) -> Any:
        store, model = str(lived.workspace.root), lived.world.tracking.model_name
        return CliRunner().invoke(cli.app, ["lineage", *arguments, "--store", store, "--model", model])

    text = ask(NOTE)
    assert text.exit_code == 0, text.output
    lines = text.output.splitlines()
    assert lines[0] == f"note  {NOTE}"
    assert lines[2] == "Made from"
    assert lines[3].split()[:2] == ["publication", lived.publications[1]]
    assert "published now; 40 notes; promote " in lines[3]
    assert f"In use now: {lived.publications[1]} answers for it" in lines
    told = json.loads(ask("champion", "--json").output)
    assert (told["what"]["kind"], told["what"]["id"]) == ("version", lived.versions[1])
    assert [thing["id"] for thing in told["down"]] == [lived.publications[1]]
    unknown = ask("nobody-knows")
    assert isinstance(unknown.exception, InputError), "which the command line ends with status 2"
