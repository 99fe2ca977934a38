"""Lineage after a real retraining: from a note as it is served to the commit, and from each origin back to it."""

from __future__ import annotations

import json
from typing import Any

from notellm2.notes.dataset import Dataset
from notellm2.notes.versions import data_md5
from notellm2.promotion.lineage.graph import trace
from notellm2.promotion.lineage.sources import collect
from notellm2.publication.pointer import read_pointer
from tests.conftest import Retrained
from tests.flows.running import Place


def lineage(place: Place, what: str) -> Any:
    """What the command says."""
    done = place.run("-m", "notellm2", "lineage", what, "--store", str(place.workspace.root), "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_from_a_note_to_the_commit_and_back(retrained: Retrained) -> None:
    place = retrained.place
    note = Dataset.open(place.root / "data").texts()[3].note_id
    pointer = read_pointer(place.workspace.published)
    told = lineage(place, note)
    assert told["missing"] == []
    assert (told["what"]["kind"], told["what"]["id"]) == ("note", note)
    above = {kind: [t["id"] for t in told["up"] if t["kind"] == kind] for kind in {t["kind"] for t in told["up"]}}
    stages = ("index", "vectors", "training", "pairs", "backbones", "vision-features")
    assert sorted(above.pop("artifact")) == sorted(f"{stage}/{place.artifact(stage).key}" for stage in stages)
    provenance = place.artifact("index").manifest["provenance"]
    assert set(provenance) - {"git_commit"} == {"recipe", "recipe_digest", "flow_run", "data_md5"}
    (run,) = above.pop("run")
    # Another test may have run the same command again: then the run names that flow run and its commit too.
    assert provenance["flow_run"] in above.pop("flow-run")
    commits = [provenance["git_commit"]] if "git_commit" in provenance else []  # none where this is no git checkout
    assert set(commits) <= set(above.pop("commit", []))
    assert above == {
        "publication": [pointer.version],
        "version": ["1"],
        "bundle": [pointer.bundle],
        "data": [data_md5(place.root / "data")],
        "recipe-digest": [provenance["recipe_digest"]],
        "recipe": ["tiny"],
    }
    graph = collect(place.workspace)
    origins = [*commits, provenance["flow_run"], "tiny", run, data_md5(place.root / "data")]
    for origin in origins:
        below = trace(graph, origin).down
        assert [t.id for t in below if t.facts.get("served_now")] == [pointer.version], origin
        assert [t.id for t in below if "champion" in t.facts.get("aliases", [])] == ["1"], origin
    everything = {t.id for t in trace(graph, provenance["flow_run"]).down if t.kind == "artifact"}
    assert everything == {f"{a.stage}/{a.key}" for a in place.store.artifacts()}, "whatever the flow run made"


def test_runs_and_versions_link_to_where_they_come_from(retrained: Retrained) -> None:
    from notellm2.recipe import RegistryConfig
    from notellm2.registry import names
    from notellm2.registry.record import origin_of_run, version_record
    from notellm2.registry.tracking import Tracking

    place = retrained.place
    pointer = read_pointer(place.workspace.published)
    client = Tracking.at(place.workspace, RegistryConfig()).client
    version = client.get_model_version("notellm2", "1")
    run = client.get_run(version.run_id)
    address = str(place.workspace.published) + f"/versions/{pointer.version}"
    for tags in (version.tags, run.data.tags):
        assert tags[names.PUBLISHED] == address
    flow_run = place.artifact("training").manifest["provenance"]["flow_run"]
    assert run.data.tags[names.FLOW_RUNS].split()[0] == flow_run
    record = version_record(version.tags)
    assert record["flow_run"] == flow_run
    assert record["recipe_digest"] == run.data.tags[names.RECIPE_DIGEST]
    for facts in (record, origin_of_run(run.data.tags)):
        assert facts["data_md5"] == data_md5(place.root / "data")
        assert facts["recipe"] == "tiny"
        assert "flow_run_url" not in facts, "an embedded server has no page"
